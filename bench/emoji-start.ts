// Start weights of stage II and III of if-emoji: the random weights of a folder, of which one step from pure noise draws the
// enlarged low-resolution picture nearly as it is. `npx tsx bench/emoji-start.ts FOLDER` changes FOLDER/unet; what it is good for:
// docs/if-emoji.md.
//
// A group of channels of the widest level holds c, −c, K, −K for a colour c: its mean is 0 and its deviation almost a constant, so
// that the group norm keeps c, and gelu(c) − gelu(−c) = c. The skip from conv_in to the last resnet's shortcut brings it there;
// v at α = 0 is −x0.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { writeModel } from '../lib/weights/safetensors-writer.js';
import { floats, readSafetensors } from '../test/support/safetensors.js';

const K = 4;
const MEAN_SQUARE = 0.6; // of c, in emojis on white
const COLOURS = 3;

const folder = path.join(process.argv[2]!, 'unet');
const config = JSON.parse(readFileSync(path.join(folder, 'config.json'), 'utf8')) as { block_out_channels: number[]; norm_num_groups: number; layers_per_block: number };
const tensors = readSafetensors(path.join(folder, 'diffusion_pytorch_model.safetensors'));
const width = config.block_out_channels[0]!;
const perGroup = width / config.norm_num_groups;
if (perGroup < 4 || config.norm_num_groups < COLOURS) throw new Error(`${folder}: expected three groups of at least four channels, got ${config.norm_num_groups} of ${perGroup}`);
const last = `up_blocks.${config.block_out_channels.length - 1}.resnets.${config.layers_per_block}`;
const deviation = Math.sqrt((2 * MEAN_SQUARE + 2 * K * K) / perGroup);
const all = new Map([...tensors.keys()].map((name) => [name, floats(tensors, name)]));
const get = (name: string): Float32Array => all.get(name)!;

get('conv_out.weight').fill(0, 0, COLOURS * width * 9);
get('conv_out.bias').fill(0, 0, COLOURS);
for (let colour = 0; colour < COLOURS; colour++) {
  for (let i = 0; i < perGroup; i++) {
    const channel = colour * perGroup + i;
    const sign = i % 2 === 0 ? 1 : -1;
    get('conv_in.weight').fill(0, channel * 6 * 9, (channel + 1) * 6 * 9);
    get('conv_in.bias')[channel] = i === 2 || i === 3 ? sign * K : 0;
    if (i < 2) get('conv_in.weight')[(channel * 6 + COLOURS + colour) * 9 + 4] = sign;
    get(`${last}.conv_shortcut.weight`).fill(0, channel * 2 * width, (channel + 1) * 2 * width);
    get(`${last}.conv_shortcut.weight`)[channel * 2 * width + width + channel] = 1;
    get(`${last}.conv_shortcut.bias`)[channel] = 0;
    get(`${last}.conv2.weight`).fill(0, channel * width * 9, (channel + 1) * width * 9);
    get(`${last}.conv2.bias`)[channel] = 0;
    get('conv_norm_out.weight')[channel] = deviation;
    get('conv_norm_out.bias')[channel] = 0;
    if (i < 2) get('conv_out.weight')[(colour * width + channel) * 9 + 4] = -sign;
  }
}
await writeModel(folder, 'diffusion_pytorch_model', [...all].map(([name, data]) => ({ name, dtype: 'f32' as const, shape: tensors.get(name)!.shape, read: async () => ({ bytes: Buffer.from(data.buffer, data.byteOffset, data.byteLength), dtype: 'f32' as const }) })));
