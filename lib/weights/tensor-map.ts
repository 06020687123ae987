// ONE table of the tensors of an IF UNet: the diffusers name, the name in DeepFloyd's own checkpoints, the shapes, and how
// one is made from the other. Sources: diffusers models/unets/unet_2d_condition.py, unet_2d_blocks.py; deep-floyd/IF
// deepfloyd_if/model/unet.py, nn.py. Loader, converter, inspection and LoRA names all read it.
import type { UNetConfig } from '../models/unet-config.js';

export interface NamedShape {
  name: string;
  shape: number[];
}

/**
 * One tensor of the original checkpoint and the diffusers tensors that it holds. The rows (entries of the first dimension)
 * of several parts are interleaved: `chunk` rows of the first part, as many of the second, …, then the next rows of the
 * first. One part: all rows.
 */
export interface TensorRow {
  original: NamedShape;
  parts: NamedShape[];
  chunk: number;
}

/** The widths that the table names, in a place of the network. */
interface Widths {
  /** Colours in and out, channels of the first level. */
  image: number;
  result: number;
  first: number;
  /** The time embedding, the text encoder's output, the projected text. */
  time: number;
  text: number;
  cross: number;
  /** Of the block, where there is one. */
  in: number;
  out: number;
  /** A scale and a shift for every output channel. */
  outTwice: number;
}

interface Place extends Widths {
  config: UNetConfig;
  /** Of an attention: it has keys and values of the text only. */
  crossOnly: boolean;
}

type Layer = 'norm' | 'linear' | 'conv3x3' | 'conv1x1' | 'position';
type Width = keyof Widths;

interface LayerRow {
  /** diffusers name behind that of the block; several: interleaved by attention head. */
  name: string | string[];
  original: string;
  layer: Layer;
  out: Width;
  in: Width;
  /** The original is a Conv1d: a trailing dimension of 1. */
  conv1d?: true;
  when?: (place: Place) => boolean;
}

const TENSORS: Record<Layer, (out: number, inputs: number) => [suffix: string, shape: number[]][]> = {
  norm: (out) => [['.weight', [out]], ['.bias', [out]]],
  linear: (out, inputs) => [['.weight', [out, inputs]], ['.bias', [out]]],
  conv3x3: (out, inputs) => [['.weight', [out, inputs, 3, 3]], ['.bias', [out]]],
  conv1x1: (out, inputs) => [['.weight', [out, inputs, 1, 1]], ['.bias', [out]]],
  position: (_, inputs) => [['', [1, inputs]]],
};

const RESNET: readonly LayerRow[] = [
  { name: 'norm1', original: 'in_layers.0', layer: 'norm', out: 'in', in: 'in' },
  { name: 'conv1', original: 'in_layers.2', layer: 'conv3x3', out: 'out', in: 'in' },
  { name: 'time_emb_proj', original: 'emb_layers.1', layer: 'linear', out: 'outTwice', in: 'time' },
  { name: 'norm2', original: 'out_layers.0', layer: 'norm', out: 'out', in: 'out' },
  { name: 'conv2', original: 'out_layers.3', layer: 'conv3x3', out: 'out', in: 'out' },
  { name: 'conv_shortcut', original: 'skip_connection', layer: 'conv1x1', out: 'out', in: 'in', when: (p) => p.in !== p.out },
];
const ATTENTION: readonly LayerRow[] = [
  { name: 'group_norm', original: 'norm', layer: 'norm', out: 'out', in: 'out' },
  { name: 'norm_cross', original: 'norm_encoder', layer: 'norm', out: 'cross', in: 'cross', when: (p) => p.config.crossAttentionNorm !== null },
  { name: ['to_q', 'to_k', 'to_v'], original: 'qkv', layer: 'linear', out: 'out', in: 'out', conv1d: true, when: (p) => !p.crossOnly },
  { name: 'to_q', original: 'qkv', layer: 'linear', out: 'out', in: 'out', conv1d: true, when: (p) => p.crossOnly },
  { name: ['add_k_proj', 'add_v_proj'], original: 'encoder_kv', layer: 'linear', out: 'out', in: 'cross', conv1d: true },
  { name: 'to_out.0', original: 'proj_out', layer: 'linear', out: 'out', in: 'out', conv1d: true },
];
const upscales = (p: Place): boolean => p.config.classEmbedType !== null;
const STEM: readonly LayerRow[] = [
  { name: 'conv_in', original: 'input_blocks.0.0', layer: 'conv3x3', out: 'first', in: 'image' },
  { name: 'time_embedding.linear_1', original: 'time_embed.0', layer: 'linear', out: 'time', in: 'first' },
  { name: 'time_embedding.linear_2', original: 'time_embed.2', layer: 'linear', out: 'time', in: 'time' },
  { name: 'encoder_hid_proj', original: 'encoder_proj', layer: 'linear', out: 'cross', in: 'text' },
  { name: 'class_embedding.linear_1', original: 'aug_proj.0', layer: 'linear', out: 'time', in: 'first', when: upscales },
  { name: 'class_embedding.linear_2', original: 'aug_proj.2', layer: 'linear', out: 'time', in: 'time', when: upscales },
  { name: 'add_embedding.norm1', original: 'encoder_pooling.0', layer: 'norm', out: 'text', in: 'text' },
  { name: 'add_embedding.pool.positional_embedding', original: 'encoder_pooling.1.positional_embedding', layer: 'position', out: 'text', in: 'text' },
  { name: 'add_embedding.pool.k_proj', original: 'encoder_pooling.1.k_proj', layer: 'linear', out: 'text', in: 'text' },
  { name: 'add_embedding.pool.q_proj', original: 'encoder_pooling.1.q_proj', layer: 'linear', out: 'text', in: 'text' },
  { name: 'add_embedding.pool.v_proj', original: 'encoder_pooling.1.v_proj', layer: 'linear', out: 'text', in: 'text' },
  { name: 'add_embedding.proj', original: 'encoder_pooling.2', layer: 'linear', out: 'time', in: 'text' },
  { name: 'add_embedding.norm2', original: 'encoder_pooling.3', layer: 'norm', out: 'time', in: 'time' },
];
const HEAD: readonly LayerRow[] = [
  { name: 'conv_norm_out', original: 'out.0', layer: 'norm', out: 'first', in: 'first' },
  { name: 'conv_out', original: 'out.2', layer: 'conv3x3', out: 'result', in: 'first' },
];

/** Collects the rows of a UNet, block by block. */
class TableBuilder {
  readonly rows: TensorRow[] = [];
  constructor(private readonly config: UNetConfig) {}

  /**
   * The rows of one block.
   * @param prefix of the diffusers names, original of the others; both empty or with a dot at the end
   */
  add(block: readonly LayerRow[], prefix: string, original: string, inputs: number, out: number, crossOnly = false): void {
    const { config } = this;
    const place: Place = {
      config, crossOnly, in: inputs, out, outTwice: 2 * out, image: config.inChannels, result: config.outChannels, first: config.blockOutChannels[0]!,
      time: config.timeEmbeddingDim, text: config.encoderHidDim, cross: config.crossAttentionDim,
    };
    for (const row of block) {
      if (row.when && !row.when(place)) continue;
      const names = Array.isArray(row.name) ? row.name : [row.name];
      for (const [suffix, shape] of TENSORS[row.layer](place[row.out], place[row.in])) {
        const rows = shape[0]! * names.length;
        const trailing = row.conv1d && suffix === '.weight' ? [1] : [];
        this.rows.push({
          original: { name: `${original}${row.original}${suffix}`, shape: [rows, ...shape.slice(1), ...trailing] },
          parts: names.map((name) => ({ name: `${prefix}${name}${suffix}`, shape: [...shape] })),
          chunk: names.length > 1 ? config.attentionHeadDim[0]! : rows,
        });
      }
    }
  }

  resnet(prefix: string, original: string, inputs: number, out: number): void {
    this.add(RESNET, `${prefix}.`, `${original}.`, inputs, out);
  }

  attention(prefix: string, original: string, channels: number, crossOnly: boolean): void {
    this.add(ATTENTION, `${prefix}.`, `${original}.`, channels, channels, crossOnly);
  }
}

/** A residual block of the up or down path: the numbers of its block and layer in both layouts, and its widths. */
interface PathLayer {
  level: number;
  layer: number;
  /** Index in input_blocks or output_blocks. */
  original: number;
  inputs: number;
  out: number;
  attends: boolean;
  /** The last one of its level, and another level follows: a resampling block comes behind. */
  resampled: boolean;
}

/**
 * All tensors of a UNet.
 * @param config lists of it have one entry per level, finest first (see UNetConfig)
 */
export function unetTable(config: UNetConfig): TensorRow[] {
  const channels = config.blockOutChannels;
  const levels = channels.length;
  const skips: number[] = [channels[0]!]; // what the up path takes back, last first
  const down: PathLayer[] = [];
  let original = 1; // input_blocks.0 is conv_in
  let width = channels[0]!;
  for (let level = 0; level < levels; level++) {
    const out = channels[level]!;
    const count = config.layersPerBlock[level]!;
    for (let layer = 0; layer < count; layer++) {
      const resampled = layer === count - 1 && level < levels - 1;
      down.push({ level, layer, original, inputs: width, out, attends: config.downBlocks[level] === 'cross_attn', resampled });
      width = out;
      skips.push(width);
      if (resampled) skips.push(width);
      original += resampled ? 2 : 1; // the downsampling block is an input block of its own
    }
  }
  const up: PathLayer[] = [];
  original = 0;
  for (let i = 0; i < levels; i++) {
    const level = levels - 1 - i;
    const count = config.layersPerBlock[level]! + 1;
    for (let layer = 0; layer < count; layer++) {
      up.push({
        level: i, layer, original: original++, inputs: width + skips.pop()!, out: channels[level]!,
        attends: config.upBlocks[i] === 'cross_attn', resampled: layer === count - 1 && i < levels - 1,
      });
      width = channels[level]!;
    }
  }

  const table = new TableBuilder(config);
  table.add(STEM, '', '', 0, 0);
  for (let level = 0; level < levels; level++) {
    pathBlock(table, 'down', level, down.filter((l) => l.level === level), config.onlyCrossAttention[level]!);
  }
  for (let i = 0; i < levels; i++) {
    pathBlock(table, 'up', i, up.filter((l) => l.level === i), config.onlyCrossAttention[levels - 1 - i]!);
  }
  const inner = channels[levels - 1]!;
  table.attention('mid_block.attentions.0', 'middle_block.1', inner, config.midBlockOnlyCrossAttention);
  table.resnet('mid_block.resnets.0', 'middle_block.0', inner, inner);
  table.resnet('mid_block.resnets.1', 'middle_block.2', inner, inner);
  table.add(HEAD, '', '', 0, 0);
  return table.rows;
}

/** diffusers keeps the attentions of a block before its residual blocks, and those before the resampling one. */
function pathBlock(table: TableBuilder, path: 'down' | 'up', index: number, layers: PathLayer[], crossOnly: boolean): void {
  const block = `${path}_blocks.${index}`;
  const source = path === 'down' ? 'input_blocks' : 'output_blocks';
  for (const l of layers) if (l.attends) table.attention(`${block}.attentions.${l.layer}`, `${source}.${l.original}.1`, l.out, crossOnly);
  for (const l of layers) table.resnet(`${block}.resnets.${l.layer}`, `${source}.${l.original}.0`, l.inputs, l.out);
  for (const l of layers) {
    if (!l.resampled) continue;
    // down: the next input block; up: behind the residual block and the attention of the same output block
    const original = path === 'down' ? `${source}.${l.original + 1}.0` : `${source}.${l.original}.${l.attends ? 2 : 1}`;
    table.resnet(`${block}.${path}samplers.0`, original, l.out, l.out);
  }
}

/** The diffusers tensors of a table, in the order of diffusers' state dict: weight and bias of a layer together. */
export function diffusersTensors(table: readonly TensorRow[]): NamedShape[] {
  const layers = new Map<string, NamedShape[]>();
  for (const part of table.flatMap((row) => row.parts)) {
    const layer = part.name.replace(/\.(weight|bias)$/, '');
    layers.set(layer, [...layers.get(layer) ?? [], part]);
  }
  return [...layers.values()].flat();
}

/**
 * The bytes of one part of an original tensor.
 * @param bytes the original tensor, dense
 * @param part index in `row.parts`
 */
export function takePart(row: TensorRow, bytes: Buffer, part: number): Buffer {
  const { parts, chunk } = row;
  if (parts.length === 1) return bytes;
  const out = Buffer.alloc(bytes.length / parts.length);
  const run = chunk * (bytes.length / row.original.shape[0]!);
  for (let at = 0; at < out.length; at += run) bytes.copy(out, at, at * parts.length + part * run, at * parts.length + (part + 1) * run);
  return out;
}

/** The bytes of an original tensor from those of its parts, in the order of `row.parts`: the inverse of takePart. */
export function joinParts(row: TensorRow, parts: readonly Buffer[]): Buffer {
  if (parts.length === 1) return parts[0]!;
  const size = parts[0]!.length;
  const out = Buffer.alloc(size * parts.length);
  const run = row.chunk * ((size * parts.length) / row.original.shape[0]!);
  for (const [p, bytes] of parts.entries()) {
    for (let at = 0; at < size; at += run) bytes.copy(out, at * parts.length + p * run, at, at + run);
  }
  return out;
}
