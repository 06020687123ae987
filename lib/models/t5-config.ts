import { ConfigReader } from './config-reader.js';

/** A T5 v1.1 encoder (Raffel et al. 2020; gated GELU of Shazeer 2020). */
export interface T5Config {
  vocabSize: number;
  /** Width of the hidden states. */
  dModel: number;
  /** Width of one attention head; numHeads * dKv need not be dModel. */
  dKv: number;
  /** Width between the two linear layers of the feed-forward block. */
  dFf: number;
  numLayers: number;
  numHeads: number;
  /** Buckets of the relative position bias, half of them for each direction. */
  relativeAttentionNumBuckets: number;
  /** Distance from which on all positions share the last bucket. */
  relativeAttentionMaxDistance: number;
  layerNormEpsilon: number;
  /** gelu_new(x·wi_0) * (x·wi_1), then wo. */
  feedForwardProj: 'gated-gelu';
}

// Above every published T5 (XXL: d_model 4096, d_ff 10240, 24 layers, 64 heads, 32128 pieces).
const WIDTH = { min: 1, max: 131072 };
const COUNT = { min: 1, max: 1024 };
const VOCABULARY = { min: 1, max: 2 ** 22 };

/**
 * Reads a transformers `text_encoder/config.json`. Absent fields have the defaults of T5Config
 * (transformers/models/t5/configuration_t5.py). Other fields (generation settings, dropout) do not change the encoder and
 * are ignored.
 * @param json the parsed file
 * @param where how messages call the file, e.g. its path
 * @throws IFError `FILE_FORMAT` for wrong types and sizes; `UNSUPPORTED`, naming field, value and what is supported, for
 *   other models than the encoder of T5 v1.1
 */
export function parseT5Config(json: unknown, where: string): T5Config {
  const r = new ConfigReader(json, where);
  r.only('model_type', 't5', 't5');
  r.only('is_decoder', false, false);
  r.only('quantization_config', null, null);
  const feedForwardProj = r.choice('feed_forward_proj', r.raw('feed_forward_proj', 'relu'), new Map([['gated-gelu', 'gated-gelu' as const]]));
  r.only('dense_act_fn', 'gelu_new', 'gelu_new');
  r.only('is_gated_act', true, true);
  const config: T5Config = {
    vocabSize: r.integer('vocab_size', 32128, VOCABULARY),
    dModel: r.integer('d_model', 512, WIDTH),
    dKv: r.integer('d_kv', 64, WIDTH),
    dFf: r.integer('d_ff', 2048, WIDTH),
    numLayers: r.integer('num_layers', 6, COUNT),
    numHeads: r.integer('num_heads', 8, COUNT),
    relativeAttentionNumBuckets: r.integer('relative_attention_num_buckets', 32, { min: 4, max: 65536 }),
    relativeAttentionMaxDistance: r.integer('relative_attention_max_distance', 128, { min: 1, max: 2 ** 24 }),
    layerNormEpsilon: r.number('layer_norm_epsilon', 1e-6, { min: 0, max: 1 }),
    feedForwardProj,
  };
  // Half of the buckets serve one direction, half of those single distances; the rest is logarithmic up to the maximum.
  const buckets = config.relativeAttentionNumBuckets;
  if (buckets % 4 !== 0) r.wrong('relative_attention_num_buckets', 'a multiple of 4', buckets);
  if (!(config.relativeAttentionMaxDistance > buckets / 4)) {
    r.wrong('relative_attention_max_distance', `more than a quarter of relative_attention_num_buckets (${buckets / 4})`, config.relativeAttentionMaxDistance);
  }
  return config;
}
