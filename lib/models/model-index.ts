import { ConfigReader } from './config-reader.js';

/** `model_index.json` of a diffusers pipeline folder. */
export interface ModelIndex {
  /** The pipeline class, e.g. `IFPipeline`. */
  className: string;
  /** Component folder → class name, e.g. `unet` → `UNet2DConditionModel`. Components that are null are left out. */
  components: Map<string, string>;
}

/** What a stage does: makes a picture from noise, or enlarges one. */
export type StageKind = 'base' | 'super_resolution';

/** The pipeline classes of diffusers that hold an IF stage. */
export const STAGE_CLASSES: ReadonlyMap<string | null, StageKind> = new Map<string | null, StageKind>([
  ['IFPipeline', 'base'], ['IFImg2ImgPipeline', 'base'], ['IFInpaintingPipeline', 'base'],
  ['IFSuperResolutionPipeline', 'super_resolution'], ['IFImg2ImgSuperResolutionPipeline', 'super_resolution'],
  ['IFInpaintingSuperResolutionPipeline', 'super_resolution'],
]);

/**
 * Reads a `model_index.json`: `_class_name`, and entries `"name": ["library", "Class"]`; other values are settings.
 * @param json the parsed file
 * @param where how messages call the file, e.g. its path
 * @throws IFError `FILE_FORMAT` when it is not such a file, `UNSUPPORTED` when the pipeline is not one of IF
 */
export function parseModelIndex(json: unknown, where: string): ModelIndex & { kind: StageKind } {
  const r: ConfigReader = new ConfigReader(json, where); // annotated, so that its never-returning methods narrow
  const className = r.raw('_class_name', undefined);
  if (typeof className !== 'string') r.wrong('_class_name', 'the name of a pipeline class', className);
  const kind = r.choice('_class_name', className, STAGE_CLASSES);
  const components = new Map<string, string>();
  for (const [name, value] of Object.entries(json as object)) {
    if (name.startsWith('_') || !Array.isArray(value) || value[1] === null) continue;
    if (value.length !== 2 || typeof value[1] !== 'string') r.wrong(name, '["library", "Class"] or [null, null]', value);
    components.set(name, value[1]);
  }
  return { className, kind, components };
}
