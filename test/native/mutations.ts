// Changes the CUDA kernels one deliberate defect at a time, and shows that the emulated tests fail each time:
//   npm run test:mutations [SUBSTRING…]      (of a file or a reason; all without any)
// Sources are not touched: the changed copy is compiled and linked beside the others, with the commands of the build tree
// (Ninja). mutations.json lists the defects: `text` occurs once in `file`; `replacement`; `filter`, the cases that must
// fail and that pass without the change; `compile`, the kernels that include `file` when it is a header.
import { execFileSync, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

interface Mutation {
  file: string;
  text: string;
  replacement: string;
  filter: string[];
  why: string;
  compile?: string[];
}

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', '..');
const build = path.join(root, 'build', 'cmake');
const wanted = process.argv.slice(2);
const all = JSON.parse(fs.readFileSync(path.join(root, 'test', 'native', 'mutations.json'), 'utf8')) as Mutation[];
const mutations = all.filter(({ file, why }) => wanted.length === 0 || wanted.some((w) => `${file} ${why}`.includes(w)));

execFileSync('cmake', ['--build', build, '--target', 'if_tests'], { stdio: 'inherit' });
const commands = execFileSync('ninja', ['-C', build, '-t', 'commands', 'if_tests'], { encoding: 'utf8', maxBuffer: 1 << 28 }).split('\n');
const link = commands.findLast((c) => c.includes('-o if_tests'))!;
const work = fs.mkdtempSync(path.join(os.tmpdir(), 'mutations-'));

function shell(command: string): void {
  const { status, stderr } = spawnSync('bash', ['-c', command], { cwd: build, encoding: 'utf8' });
  if (status !== 0) throw new Error(`does not compile: ${stderr.slice(0, 2000)}`);
}

/** The last line of a run, or how it ended; a run that fails, crashes or hangs has found the defect. */
function run(executable: string, filter: string[]): { passed: boolean; outcome: string } {
  const { status, signal, stdout } = spawnSync(executable, filter, { encoding: 'utf8', timeout: 120_000, maxBuffer: 1 << 28 });
  const summary = stdout.trim().split('\n').at(-1) ?? '';
  return { passed: status === 0, outcome: signal ? `ended by ${signal}` : summary };
}

function mutate({ file, text, replacement, compile = [file] }: Mutation): string {
  const source = fs.readFileSync(path.join(root, file), 'utf8');
  const count = source.split(text).length - 1;
  if (count !== 1) throw new Error(`the text occurs ${count} times`);
  const include = path.join(work, 'include');
  const changed = path.join(include, path.relative('native', file));
  fs.rmSync(include, { recursive: true, force: true });
  fs.mkdirSync(path.dirname(changed), { recursive: true });
  fs.writeFileSync(changed, source.replace(text, () => replacement));
  const executable = path.join(work, 'if_tests');
  let linking = link.replace('-o if_tests', `-o ${executable}`);
  compile.forEach((unit, i) => {
    const from = path.join(root, unit);
    const command = commands.find((c) => c.endsWith(` -c ${from}`) && !c.includes('sanitize'));
    const object = command && / -o (\S+) /.exec(command)?.[1];
    if (!object || !linking.includes(object)) throw new Error(`${unit} is not part of if_tests`);
    const own = path.join(work, `${i}.o`);
    shell(command.replace(/ -MD -MT \S+ -MF \S+/, '').replace(' -I', ` -I${include} -I`).replace(` -o ${object} `, ` -o ${own} `)
      .replace(` -c ${from}`, ` -c ${unit === file ? changed : from}`));
    linking = linking.replace(object, own);
  });
  shell(linking);
  return executable;
}

const unchanged = new Map<string, string>();
let missed = 0;
for (const mutation of mutations) {
  const { file, why, filter } = mutation;
  let line: string;
  try {
    const key = filter.join('\n');
    if (!unchanged.has(key)) {
      const { passed, outcome } = run(path.join(build, 'if_tests'), filter);
      if (!passed) throw new Error(`fails without the change: ${outcome}`);
      unchanged.set(key, outcome);
    }
    const { passed, outcome } = run(mutate(mutation), filter);
    missed += Number(passed);
    line = `${passed ? 'MISSED' : 'found '}  ${file}: ${why}: ${outcome}`;
  } catch (error) {
    missed++;
    line = `INVALID ${file}: ${why}: ${(error as Error).message}`;
  }
  console.log(line);
}
fs.rmSync(work, { recursive: true });
console.log(`${mutations.length} mutations, ${mutations.length - missed} found`);
process.exit(missed || mutations.length === 0 ? 1 : 0);
