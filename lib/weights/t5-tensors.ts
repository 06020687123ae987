import type { T5Config } from '../models/t5-config.js';
import type { NamedShape } from './tensor-map.js';

/** The second name under which transformers saves the token table. */
export const T5_ALIASES: Readonly<Record<string, string>> = { 'encoder.embed_tokens.weight': 'shared.weight' };

/** The tensors of a T5 v1.1 encoder, as transformers' T5EncoderModel saves them. */
export function t5Tensors(config: T5Config): NamedShape[] {
  const { dModel, dFf, numHeads } = config;
  const inner = numHeads * config.dKv;
  const tensors: NamedShape[] = [{ name: 'shared.weight', shape: [config.vocabSize, dModel] }];
  for (let i = 0; i < config.numLayers; i++) {
    const add = (name: string, ...shape: number[]): void => void tensors.push({ name: `encoder.block.${i}.layer.${name}.weight`, shape });
    for (const name of ['q', 'k', 'v']) add(`0.SelfAttention.${name}`, inner, dModel);
    add('0.SelfAttention.o', dModel, inner);
    if (i === 0) add('0.SelfAttention.relative_attention_bias', config.relativeAttentionNumBuckets, numHeads); // shared by all blocks
    add('0.layer_norm', dModel);
    add('1.DenseReluDense.wi_0', dFf, dModel);
    add('1.DenseReluDense.wi_1', dFf, dModel);
    add('1.DenseReluDense.wo', dModel, dFf);
    add('1.layer_norm', dModel);
  }
  tensors.push({ name: 'encoder.final_layer_norm.weight', shape: [dModel] });
  return tensors;
}
