import type { ComponentReport, InspectReport, TensorCount } from '../weights/inspect.js';
import { shapeText } from '../weights/file-dtype.js';
import { firstNames } from '../suggest.js';

/** An InspectReport for people, one block per component. */
export function inspectText(report: InspectReport): string {
  const lines = [`${report.path}: ${KINDS[report.kind]}${report.className ? `, ${report.className}` : ''}`];
  for (const component of report.components) lines.push('', ...componentLines(component));
  if (report.lora) {
    const { ranks, alphas, modules, origin } = report.lora;
    lines.push('', `rank ${ranks.join(', ')}, alpha ${alphas.join(', ')}, ${modules.length} modules: ${firstNames(modules)}`);
    lines.push(...Object.entries(origin).map(([key, value]) => `  ${key}: ${shortened(value)}`));
  }
  if (report.contents) lines.push('', 'contents', ...Object.entries(report.contents).map(([key, what]) => `  ${key ? `${key}: ` : ''}${what}`));
  const metadata = Object.entries(report.metadata ?? {});
  if (metadata.length) lines.push('', 'metadata', ...metadata.map(([key, value]) => `  ${key}: ${shortened(value)}`));
  return lines.join('\n');
}

const KINDS: Record<InspectReport['kind'], string> = {
  pipeline: 'diffusers pipeline', component: 'component of a pipeline', original: 'checkpoint of the original IF code', lora: 'LoRA adapter',
  safetensors: 'safetensors file', archive: 'torch archive',
};

function componentLines({ name, className, files, config, total, dtypes, differences, problem }: ComponentReport): string[] {
  const lines = [`${name}${className ? `  ${className}` : ''}`, ...(files.length ? [`  files: ${firstNames(files)}`] : [])];
  if (total) {
    lines.push(`  ${count(total)}`);
    const types = Object.entries(dtypes!);
    if (types.length > 1) lines.push(...types.map(([dtype, part]) => `    ${dtype}: ${count(part)}`));
    else if (types.length) lines.push(`  all ${types[0]![0]}`);
  }
  if (config && total) lines.push(`  config: ${Object.entries(config).filter(([key, value]) => SHOWN.includes(key) && value !== null).map(([key, value]) => `${key} ${shortened(JSON.stringify(value))}`).join(', ')}`);
  if (differences) {
    const { missing, unexpected, misshapen } = differences;
    if (missing.length) lines.push(`  ${missing.length} missing: ${firstNames(missing)}`);
    if (unexpected.length) lines.push(`  ${unexpected.length} unexpected: ${firstNames(unexpected)}`);
    if (misshapen.length) lines.push(`  ${misshapen.length} of another shape or type: ${firstNames(misshapen.map((t) => `${t.name} (expected ${shapeText(t.expected)}, got ${shapeText(t.got)} ${t.dtype})`))}`);
    if (missing.length + unexpected.length + misshapen.length === 0) lines.push('  complete: every tensor that the config asks for, and no other');
  }
  if (problem !== undefined) lines.push(`  problem: ${problem}`);
  return lines;
}

/** The fields of a config.json that tell networks apart; `--json` has all. */
const SHOWN = [
  'sample_size', 'in_channels', 'out_channels', 'block_out_channels', 'layers_per_block', 'attention_head_dim', 'cross_attention_dim', 'encoder_hid_dim',
  'only_cross_attention', 'class_embed_type', 'd_model', 'd_ff', 'num_layers', 'num_heads', 'vocab_size',
];

function count({ tensors, parameters, bytes }: TensorCount): string {
  return `${parameters.toLocaleString('en-US')} parameters in ${tensors} tensors, ${metric(bytes)}`;
}

/** Four digits and a decimal prefix. */
function metric(bytes: number): string {
  for (const [prefix, size] of [['G', 1e9], ['M', 1e6], ['k', 1e3]] as const) {
    if (bytes >= size) return `${(bytes / size).toPrecision(4)} ${prefix}B`;
  }
  return `${bytes} B`;
}

function shortened(text: string): string {
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}
