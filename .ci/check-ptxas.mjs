// Reads the output of a CUDA compilation with `-Xptxas -v` and fails on what ptxas says in passing though it costs half the
// speed: spilled registers, C7508 (setmaxnreg ignored), C7510 (wgmma serialised), C7519 (a fence put between wgmma).
//   node .ci/check-ptxas.mjs build.log
import fs from 'node:fs';
import { pathToFileURL } from 'node:url';

/** The kernels that the log names, and a line for everything that must not be there. */
export function checkPtxas(log) {
  const kernels = new Set();
  const problems = [];
  let kernel = '(no kernel)';
  for (const line of log.split('\n')) {
    const entry = /Compiling entry function '(\S+)' for '(\S+)'/.exec(line);
    if (entry) kernels.add((kernel = `${entry[1]} for ${entry[2]}`));
    const properties = /Function properties for (\S+)/.exec(line);
    if (properties && !kernel.startsWith(properties[1])) kernel = properties[1];
    const spills = /(\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line);
    if (spills && (Number(spills[1]) > 0 || Number(spills[2]) > 0)) problems.push(`${kernel}: ${spills[0]}`);
    if (/\bC75(08|10|19)\b/.test(line)) problems.push(line.trim());
  }
  return { kernels: [...kernels], problems };
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const { kernels, problems } = checkPtxas(fs.readFileSync(process.argv[2], 'utf8'));
  for (const problem of problems) console.error(`ptxas: ${problem}`);
  console.log(`ptxas: ${kernels.length} kernels, ${problems.length} problems`);
  process.exit(kernels.length === 0 || problems.length > 0 ? 1 : 0);
}
