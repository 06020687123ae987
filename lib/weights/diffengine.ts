// diffengine's `epoch_N.pth` and `iter_N.pth` (mmengine checkpoints) → diffusers folders.
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { IFError } from '../errors.js';
import { writeFileAtomic } from '../files.js';
import { changedJson, readJson } from '../models/json.js';
import { parseT5Config } from '../models/t5-config.js';
import { parseUNetConfig } from '../models/unet-config.js';
import type { ConvertOptions } from './convert.js';
import { resolveStage, type Component, type StageFolder } from './folder.js';
import { writeFolder } from './output-path.js';
import { rewritePipeline, sourceTensors } from './rewrite.js';
import type { WrittenTensor } from './safetensors-writer.js';
import { requireTensors } from './tensor-check.js';
import { diffusersTensors, unetTable } from './tensor-map.js';
import { T5_ALIASES, t5Tensors } from './t5-tensors.js';
import { TorchArchive } from './torch-archive.js';
import type { TensorRef } from './torch-globals.js';
import { archiveSource } from './tensor-source.js';

export interface DiffengineOptions extends ConvertOptions {
  /** Components that the new folder gets. Default: all of the base. */
  saveKeys?: Component[];
}

/**
 * Makes a diffusers pipeline folder of a diffengine checkpoint.
 * @param checkpoint the .pth file: `state_dict` with names `unet.…` and, when it was trained, `text_encoder.…`
 * @param base the diffusers folder that the training started from: its configuration, and the weights that were not trained.
 *   A predicted variance is not trained by diffengine (models/editors/deepfloyd_if.py drops it from the loss), so the
 *   scheduler gets `fixed_small`.
 * @throws IFError `NOT_FOUND`, `FILE_FORMAT`, `UNSUPPORTED`; `WEIGHTS` with all tensors that do not fit the base; `IO`,
 *   `INVALID_ARGUMENT` for the output (see writeFolder), `CANCELLED`
 */
export async function diffengineToDiffusers(checkpoint: string, base: string, output: string, options: DiffengineOptions = {}): Promise<void> {
  const stage = await resolveStage(base);
  const archive = await TorchArchive.open(checkpoint);
  try {
    const nested = archive.root instanceof Map && archive.root.has('state_dict');
    const trained = splitByComponent(archive.stateDict(nested ? ['state_dict'] : []), checkpoint);
    const replace = new Map<string, WrittenTensor[]>();
    for (const [component, tensors] of trained) {
      const source = archiveSource(archive, tensors);
      await checkComponent(component, source.specs, stage, checkpoint);
      replace.set(component, sourceTensors(source, options.dtype));
    }
    for (const key of options.saveKeys ?? []) {
      if (!replace.has(key) && !stage.modelIndex.components.has(key)) throw new IFError('NOT_FOUND', `--save-keys: neither ${checkpoint} nor ${base} has a ${key}`);
    }
    await writeFolder(output, [checkpoint, base], options, async (dir) => {
      await rewritePipeline(stage.dir, dir, { ...options, ...(options.saveKeys ? { components: options.saveKeys } : {}), replace });
      const scheduler = path.join(dir, 'scheduler', 'scheduler_config.json');
      await writeFileAtomic(scheduler, changedJson(await readFile(scheduler, 'utf8'), scheduler, { variance_type: 'fixed_small' }));
    });
  } finally {
    await archive.close();
  }
}

/** `unet.…` and `text_encoder.…` without their prefix. Other networks (data_preprocessor, vae) are left out. */
function splitByComponent(tensors: ReadonlyMap<string, TensorRef>, checkpoint: string): Map<Component, Map<string, TensorRef>> {
  const parts = new Map<Component, Map<string, TensorRef>>();
  for (const [name, tensor] of tensors) {
    const component = (['unet', 'text_encoder'] as const).find((prefix) => name.startsWith(`${prefix}.`));
    if (!component) continue;
    const rest = name.slice(component.length + 1);
    if (rest.startsWith('base_model.model.')) throw new IFError('UNSUPPORTED', `${checkpoint}: it holds a PEFT adapter of the ${component} (${name}), not its weights; save the adapter with peft instead`);
    parts.set(component, (parts.get(component) ?? new Map<string, TensorRef>()).set(rest, tensor));
  }
  if (!parts.has('unet')) throw new IFError('FILE_FORMAT', `${checkpoint}: expected tensors called unet.…, as diffengine saves them; found ${[...tensors.keys()].slice(0, 3).join(', ') || 'none'}`);
  return parts;
}

async function checkComponent(component: Component, specs: Parameters<typeof requireTensors>[0], stage: StageFolder, checkpoint: string): Promise<void> {
  const folder = component === 'unet' ? stage.unet : stage.textEncoder;
  if (!folder) throw new IFError('NOT_FOUND', `${checkpoint} has a text encoder, ${stage.dir} has none to take the configuration from`);
  const file = path.join(folder, 'config.json');
  const json = await readJson(file);
  const where = `${checkpoint}: ${component}`;
  if (component === 'unet') requireTensors(specs, diffusersTensors(unetTable(parseUNetConfig(json, file))), where);
  else requireTensors(specs, t5Tensors(parseT5Config(json, file)), where, T5_ALIASES);
}
