import { existsSync } from 'node:fs';
import { IFError } from '../errors.js';
import { checkLora } from '../weights/lora-format.js';
import { adapts, STAGE_NAMES, type AppliedLora } from '../weights/lora.js';
import { diffusersTensors, unetTable } from '../weights/tensor-map.js';
import { EMBEDDED_MODEL } from './embedded.js';
import type { Stage } from './stage.js';

/**
 * The adapters of each stage: the one that they say, else the first that they fit.
 * @throws IFError `INVALID_ARGUMENT` for a stage that the cascade does not have; `WEIGHTS` when an adapter fits none
 */
export function assignLoras(loras: readonly AppliedLora[], stages: readonly Stage[]): AppliedLora[][] {
  const perStage = stages.map((): AppliedLora[] => []);
  for (const lora of loras) {
    if (!adapts(lora, 'unet')) continue;
    const { stage } = lora.origin;
    const index = stage === undefined ? fittingStage(lora, stages) : STAGE_NAMES.findIndex((name) => name === stage);
    if (!perStage[index]) throw new IFError('INVALID_ARGUMENT', `lora ${lora.path}: it was trained on stage ${stage}; the cascade has ${stages.length === 1 ? 'stage I only' : `${stages.length} stages`}`);
    perStage[index].push(lora);
  }
  return perStage;
}

function fittingStage(lora: AppliedLora, stages: readonly Stage[]): number {
  const errors = stages.map((stage) => {
    try {
      checkLora(lora, 'unet', diffusersTensors(unetTable(stage.config)), lora.path);
      return undefined;
    } catch (error) {
      return error;
    }
  });
  const index = errors.indexOf(undefined);
  if (index < 0) throw errors[0];
  return index;
}

/**
 * The stage I that adapters were trained on, for a caller who names none.
 * @throws IFError `NOT_FOUND` when it is recorded and not there
 */
export function loraBase(loras: readonly AppliedLora[]): string | undefined {
  const lora = loras.find(({ origin }) => origin.stage === 'I' && origin.baseModel !== undefined && origin.baseModel !== EMBEDDED_MODEL);
  const base = lora?.origin.baseModel;
  if (base !== undefined && !existsSync(base)) throw new IFError('NOT_FOUND', `lora ${lora!.path}: it was trained on "${base}", which is not here: say where stage I lies with stage1`);
  return base;
}
