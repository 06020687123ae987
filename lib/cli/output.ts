import { stat } from 'node:fs/promises';
import path from 'node:path';
import { addon } from '../addon.js';
import { IFError } from '../errors.js';
import { checkWritable } from '../files.js';
import { writePng } from '../image.js';
import type { GenerateResult } from '../pipelines/cascade.js';
import { imageAt, Tensor, type Images } from '../tensor.js';

export interface OutputPlan {
  /** Path without its extension. */
  stem: string;
  format: 'png' | 'safetensors';
}

/**
 * Decides where the result goes, and checks that it can be written, before any work is done.
 * @param out FILE.png or FILE.safetensors; left out: a PNG in the current folder, named after prompt and seed
 * @throws IFError `INVALID_ARGUMENT` for another extension, `IO` when the folder is missing or not writable
 */
export async function outputPlan(out: string | undefined, prompt: string, seed: bigint): Promise<OutputPlan> {
  const file = out ?? `${slug(prompt)}-${seed}.png`;
  const extension = path.extname(file).toLowerCase();
  if (extension !== '.png' && extension !== '.safetensors') throw new IFError('INVALID_ARGUMENT', `--out: expected FILE.png or FILE.safetensors, got "${file}"`);
  const stem = file.slice(0, -extension.length);
  if ((await stat(file).catch(() => undefined))?.isDirectory()) throw new IFError('IO', `--out: ${file} is a folder`);
  const folder = path.dirname(file);
  if (!(await stat(folder).catch(() => undefined))) throw new IFError('IO', `--out: there is no folder ${folder} for ${file}: create it first, or check the spelling`);
  await checkWritable(`${stem}.stage2-1024${extension}`); // the longest name that saveResult makes
  return { stem, format: extension === '.png' ? 'png' : 'safetensors' };
}

/**
 * Writes the pictures. PNG: one file per picture (STEM.png, or STEM-1.png, STEM-2.png, …), with prompt, seed and settings
 * in text chunks. safetensors: one file with `images` (N, C, H, W). With saveStages also STEM.stage1…, for every stage but
 * the last.
 * @returns the files, the last stage's first
 */
export async function saveResult(result: GenerateResult, plan: OutputPlan, about: { prompts: string[]; negative: string; numImages: number; saveStages: boolean }): Promise<string[]> {
  const files = await saveImages(result.images, plan.stem, plan, result, about);
  if (about.saveStages) {
    for (const [i, images] of result.stages.slice(0, -1).entries()) {
      files.push(...await saveImages(images, `${plan.stem}.stage${i + 1}`, plan, result, about));
    }
  }
  return files;
}

async function saveImages(images: Images, stem: string, plan: OutputPlan, result: GenerateResult, about: { prompts: string[]; negative: string; numImages: number }): Promise<string[]> {
  const { dtype, t5Dtype, precision, lora } = result;
  const settings = JSON.stringify({ dtype, ...(t5Dtype === dtype ? {} : { t5Dtype }), precision, ...(lora.length ? { lora } : {}), stages: result.settings });
  const common = { 'negative prompt': about.negative, seed: String(result.seed), settings, Software: 'deepfloyd-if' };
  if (plan.format === 'safetensors') {
    const file = `${stem}.safetensors`;
    using tensor = Tensor.from(images.data, images.shape, 'cpu');
    await addon.safetensorsSave(file, ['images'], [tensor.handle], 'f32', Object.entries({ prompts: JSON.stringify(about.prompts), ...common }));
    return [file];
  }
  const files: string[] = [];
  const [count] = images.shape;
  for (let n = 0; n < count; n++) {
    const file = count === 1 ? `${stem}.png` : `${stem}-${n + 1}.png`;
    const prompt = about.prompts[Math.floor(n / about.numImages)]!;
    await writePng(file, imageAt(images, n), { prompt, ...common, picture: `${n + 1} of ${count}` });
    files.push(file);
  }
  return files;
}

function slug(prompt: string): string {
  const words = prompt.toLowerCase().replace(/[^\p{L}\p{M}\p{N}]+/gu, '-').replace(/^-+|-+$/g, '');
  return [...words].slice(0, 40).join('').replace(/-+$/, '') || 'picture';
}
