"""Files written here in diffusers and torch, and theirs here: loaded without a warning, equal bit for bit, the same picture.

    npm run build && python bench/peer/interchange.py [--out bench/results/interchange.json]

Needs torch, diffusers, transformers, sentencepiece and peft. Every check prints one line; the exit code is 1 when one fails.
"""
import argparse, json, logging, os, subprocess, sys, tempfile, warnings

root = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
parser = argparse.ArgumentParser()
parser.add_argument('--out', help='file for the results')
A = parser.parse_args()
golden = lambda *p: os.path.join(root, 'test', 'golden', *p)
work = tempfile.TemporaryDirectory()
at = lambda *p: os.path.join(work.name, *p)

import torch, diffusers, transformers
from safetensors.torch import load_file
torch.set_num_threads(2)
diffusers.utils.logging.disable_progress_bar(); transformers.utils.logging.disable_progress_bar()

# ---- every warning of the libraries, whichever way it is given
messages = []
class Collect(logging.Handler):
    def emit(self, record): messages.append(f'{record.name}: {record.getMessage()}')
for library in (diffusers, transformers):
    library.utils.logging.set_verbosity_warning()
    logging.getLogger(library.__name__).addHandler(Collect(logging.WARNING))
warnings.showwarning = lambda message, category, *_: messages.append(f'{category.__name__}: {message}')
warnings.simplefilter('always')

results = {}
def check(name, ok, **about):
    results[name] = dict(ok=bool(ok), **about)
    print('ok    ' if ok else 'FAILED', name, about or '')
def node(command, *args):
    run = subprocess.run(['node', os.path.join(root, 'dist', 'cli', f'{command}.js'), *args], capture_output=True, text=True, env={**os.environ, 'IF_CACHE_DIR': at('cache')})
    assert run.returncode == 0, run.stderr
def same(a, b): return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)
def folder_state(path):
    files = [f for f in os.listdir(path) if f.endswith('.safetensors')]
    return {k: v for f in files for k, v in load_file(os.path.join(path, f)).items()}
def load(cls, path):
    messages.clear(); value = cls.from_pretrained(path, dtype=torch.float32, low_cpu_mem_usage=False)
    return value, set(messages)
PIPELINE, UNET = diffusers.DiffusionPipeline, diffusers.UNet2DConditionModel
# what the libraries say about this environment when they load folders that they wrote themselves
usual = load(PIPELINE, golden('tiny-if-I'))[1] | load(PIPELINE, golden('tiny-if-II'))[1] | load(UNET, golden('tiny-if-I', 'unet'))[1]
def quietly(name, cls, path):
    """Loads a folder; the check is that the libraries warn of nothing but the usual."""
    value, found = load(cls, path)
    check(name, not found - usual, **(dict(warnings=sorted(found - usual)) if found - usual else {})); return value

# Networks of random weights amplify rounding: with guidance 7 and 6 steps the float32 and float64 results of diffusers
# itself differ by 0.1 for golden/original/I; with 1.5 and 3 by 5e-5, and by 1.1e-3 after stage II.
PROMPT, STEPS, GUIDANCE, SEED = 'a photo of a red apple', 3, 1.5, 5
TOLERANCE = 2e-3  # test/golden/README.md: pipelines, float32, absolute

def picture(pipeline, **kw):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(PROMPT, num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type='pt', generator=kw.pop('generator', None) or torch.Generator().manual_seed(SEED), **kw).images
def draw(*stages, lora=()):
    flags = [part for i, path in enumerate(stages) for part in (f'--stage{i + 1}', path)]
    each = lambda value: ','.join([str(value)] * len(stages))
    node('if-sample', PROMPT, *flags, '--steps', each(STEPS), '--guidance', each(GUIDANCE), '--seed', str(SEED), '--exact', *[part for path in lora for part in ('--lora', path)], '--out', at('ours.safetensors'))
    return load_file(at('ours.safetensors'))['images']
def compare_pictures(name, theirs, ours):
    error = float((theirs - ours).abs().max())
    check(name, error <= TOLERANCE, largest_difference=error, tolerance=TOLERANCE)

# ---- original IF checkpoint → diffusers folder, loaded by diffusers
for options, name in (([], 'original'), (['--max-shard-size', '100kB', '--dtype', 'f32'], 'original, sharded float32')):
    out = at(name.replace(', ', '-').replace(' ', '-'))
    node('if-convert', 'original-to-diffusers', golden('original', 'I'), out, '--text-encoder', golden('tiny-if-I'), *options)
    pipe = quietly(f'{name}: diffusers loads the folder without a warning', PIPELINE, out)
    compare_pictures(f'{name}: the same picture', picture(pipe), draw(out))
out = at('II')
node('if-convert', 'original-to-diffusers', golden('original', 'II'), out, '--text-encoder', golden('tiny-if-I'))
second = quietly('original stage II: diffusers loads the folder without a warning', PIPELINE, out)
generator = torch.Generator().manual_seed(SEED)  # one generator through both stages
low = picture(pipe, generator=generator)
compare_pictures('original stages I and II: the same picture', picture(second, image=low, generator=generator), draw(at('original'), out))

# ---- diffusers → original, read by torch
for stage, source in (('I', 'original'), ('II', 'II')):
    node('if-convert', 'diffusers-to-original', at(source), at(f'back-{stage}'))
    back = torch.load(at(f'back-{stage}', 'pytorch_model.bin'), weights_only=True, mmap=True)
    check(f'back to the original {stage}: torch.load with weights_only gives the tensors of the first file', same(dict(back), dict(torch.load(golden('original', stage, 'pytorch_model.bin'), weights_only=True))))

# ---- what diffusers writes as .bin, and the types
tiny = PIPELINE.from_pretrained(golden('tiny-if-I'), dtype=torch.float16, low_cpu_mem_usage=False)
tiny.unet.save_pretrained(at('bin'), safe_serialization=False)
node('if-convert', 'safetensors', at('bin'), at('from-bin'))
check('.bin of diffusers → safetensors: the same tensors', same(folder_state(at('from-bin')), dict(tiny.unet.state_dict())))
tiny.unet.save_pretrained(at('theirs'), max_shard_size='500KB')
node('if-convert', 'dtype', golden('tiny-if-I', 'unet'), at('sharded'), '--dtype', 'f16', '--max-shard-size', '500KB')
listing = lambda path: sorted(f for f in os.listdir(path) if f != 'config.json')
check('shards: the same files as diffusers', listing(at('sharded')) == listing(at('theirs')), files=len(listing(at('theirs'))))
quietly('shards: diffusers loads them without a warning', UNET, at('sharded'))
node('if-convert', 'dtype', golden('tiny-if-I', 'unet'), at('f32'), '--dtype', 'f32')
node('if-convert', 'dtype', at('f32'), at('bf16'), '--dtype', 'bf16')
check('bfloat16: rounded as torch rounds', same(folder_state(at('bf16')), {k: v.float().bfloat16() for k, v in tiny.unet.state_dict().items()}))

# ---- a diffengine checkpoint: mmengine saves dict(meta, state_dict, …)
tuned = {f'unet.{k}': v.float() * 1.25 for k, v in tiny.unet.state_dict().items()}
torch.save(dict(meta=dict(epoch=1, iter=10), state_dict=tuned, message_hub=dict(log_scalars={}, runtime_info={}, resumed_keys={})), at('epoch_1.pth'))
node('if-convert', 'diffengine', at('epoch_1.pth'), at('tuned'), '--base', golden('tiny-if-I'))
pipe = quietly('diffengine: diffusers loads the folder without a warning', PIPELINE, at('tuned'))
check('diffengine: the same tensors', same({f'unet.{k}': v for k, v in pipe.unet.state_dict().items()}, tuned))
compare_pictures('diffengine: the same picture', picture(pipe), draw(at('tuned')))

# ---- a run of if-train, UNet and text encoder, published from its checkpoint alone
from PIL import Image
os.mkdir(at('pictures'))
for i in range(4): Image.new('RGB', (32, 32), (60 * i, 200 - 40 * i, 90)).save(at('pictures', f'{i}.png'))
with open(at('pictures', 'metadata.jsonl'), 'w') as f: f.writelines(json.dumps(dict(file_name=f'{i}.png', text=f'colour {i}')) + '\n' for i in range(4))
with open(at('config.json'), 'w') as f: json.dump(dict(
    model=dict(folder=golden('tiny-if-I'), trainTextEncoder=True), data=dict(type='folder', path=at('pictures')), steps=4, batchSize=2, dtype='f32',
    previews=False, validation=False, ema=dict(decay=0.5), optimizer=dict(lr=1e-3), checkpoints=dict(every=2)), f)
node('if-train', at('config.json'), '--out', at('run'))
node('if-convert', 'publish', at('run', 'checkpoints', 'step-000004'), at('published'))
pipe = quietly('training checkpoint: diffusers loads the published folder without a warning', PIPELINE, at('published'))
check('training checkpoint: the same tensors', same(dict(pipe.unet.state_dict()), load_file(at('run', 'checkpoints', 'step-000004', 'unet_ema.safetensors'))))
check('training checkpoint: the UNet has changed', not same(dict(pipe.unet.state_dict()), {k: v.float() for k, v in tiny.unet.state_dict().items()}))
compare_pictures('training checkpoint: the same picture', picture(pipe), draw(at('published')))

# ---- LoRA: the recorded adapter, written here in both layouts
WRITE_LORA = """
import { readFileSync } from 'node:fs';
const [dist, input, config, peft, diffusers] = process.argv.slice(1);
const { openLora, writeLoraDiffusers, writeLoraPeft } = await import(`${dist}/weights/lora-format.js`);
const { diffusersTensors, unetTable } = await import(`${dist}/weights/tensor-map.js`);
const { parseUNetConfig } = await import(`${dist}/models/unet-config.js`);
const unet = diffusersTensors(unetTable(parseUNetConfig(JSON.parse(readFileSync(config, 'utf8')), config)));
const adapter = await openLora(input);
await writeLoraPeft(peft, adapter, unet);
await writeLoraDiffusers(diffusers, adapter, { unet });
await adapter.close();
"""
os.mkdir(at('lora-peft')); os.mkdir(at('lora-diffusers'))
subprocess.run(['node', '--input-type=module', '-e', WRITE_LORA, '--', os.path.abspath(os.path.join(root, 'dist')), golden('training', 'lora_peft'),
    golden('tiny-if-I', 'unet', 'config.json'), at('lora-peft'), at('lora-diffusers')], check=True)
io = load_file(golden('training', 'lora_io.safetensors'))
def lora_error(unet):
    with torch.inference_mode(): out = unet(io['sample'], io['timestep.i64'], io['encoder_hidden_states']).sample
    return float((out - io['out']).norm() / io['out'].norm())
from peft import LoraConfig, PeftModel
from peft.utils import get_peft_model_state_dict
theirs = load(PIPELINE, golden('tiny-if-I'))[0]  # what diffusers says of an adapter of its own, for the UNet alone
theirs.unet.add_adapter(LoraConfig(r=4, target_modules=['to_q', 'to_k']))
diffusers.IFPipeline.save_lora_weights(at('lora-theirs'), unet_lora_layers=get_peft_model_state_dict(theirs.unet))
def adapters_warnings(apply):
    messages.clear(); apply(); return set(messages)
usual_lora = adapters_warnings(lambda: load(PIPELINE, golden('tiny-if-I'))[0].load_lora_weights(at('lora-theirs')))
pipe = load(PIPELINE, golden('tiny-if-I'))[0]
plain = lora_error(pipe.unet)
found = adapters_warnings(lambda: pipe.load_lora_weights(at('lora-diffusers'))) - usual_lora - usual
check('LoRA for diffusers: loaded without a warning', not found, **(dict(warnings=sorted(found)) if found else {}))
check('LoRA for diffusers: the recorded result, alpha and all', lora_error(pipe.unet) <= 1e-5 < plain, error=lora_error(pipe.unet), without_it=plain, tolerance=1e-5)
base = load(UNET, golden('tiny-if-I', 'unet'))[0]
messages.clear(); tuned = PeftModel.from_pretrained(base, at('lora-peft')); found = set(messages) - usual
check('LoRA for PEFT: loaded without a warning', not found, **(dict(warnings=sorted(found)) if found else {}))
check('LoRA for PEFT: the recorded result', lora_error(tuned) <= 1e-5, error=lora_error(tuned), tolerance=1e-5)

# ---- LoRA trained here: drawn by both, and merged into the weights
config = json.load(open(at('config.json')))
config['model'].pop('trainTextEncoder')
with open(at('lora.json'), 'w') as f: json.dump(dict(config, lora=dict(rank=3, alpha=12, dropout=0.1), optimizer=dict(lr=3e-2)), f)
node('if-train', at('lora.json'), '--out', at('lora-run'))
pipe = load(PIPELINE, golden('tiny-if-I'))[0]
without = picture(pipe)
found = adapters_warnings(lambda: pipe.load_lora_weights(at('lora-run'))) - usual_lora - usual
check('trained LoRA: diffusers loads it without a warning', not found, **(dict(warnings=sorted(found)) if found else {}))
with_lora = picture(pipe)
check('trained LoRA: the picture is another one', float((with_lora - without).abs().max()) > 10 * TOLERANCE, largest_difference=float((with_lora - without).abs().max()))
compare_pictures('trained LoRA: the same picture', with_lora, draw(golden('tiny-if-I'), lora=[at('lora-run')]))
pipe.set_adapters(pipe.get_active_adapters(), 0.5)
compare_pictures('trained LoRA, half of it: the same picture', picture(pipe), draw(golden('tiny-if-I'), lora=[at('lora-run') + ':0.5']))
messages.clear(); tuned = PeftModel.from_pretrained(load(UNET, golden('tiny-if-I', 'unet'))[0], at('lora-run', 'peft', 'unet')); found = set(messages) - usual
check('trained LoRA: PEFT loads it without a warning', not found, **(dict(warnings=sorted(found)) if found else {}))
merged = tuned.merge_and_unload().state_dict()
node('if-convert', 'merge-lora', golden('tiny-if-I'), at('merged'), '--lora', at('lora-run'), '--dtype', 'f32')
pipe = quietly('merged LoRA: diffusers loads the folder without a warning', PIPELINE, at('merged'))
error = max(float((v - merged[k]).abs().max() / v.abs().max()) for k, v in pipe.unet.state_dict().items())
check('merged LoRA: the weights that PEFT merges', error <= 1e-6, largest_relative_difference=error, tolerance=1e-6)
compare_pictures('merged LoRA: the same picture', picture(pipe), draw(at('merged')))

if A.out:
    with open(A.out, 'w') as f:
        json.dump(dict(versions=dict(torch=torch.__version__, diffusers=diffusers.__version__, transformers=transformers.__version__), checks=results), f, indent=1)
        f.write('\n')
sys.exit(0 if all(r['ok'] for r in results.values()) else 1)
