"""PyTorch (and diffusers, if installed) on the same step as `npm run bench -- train-step`: random weights and pictures, forward, backward,
clipping and AdamW.

    python bench/peer/train_step.py IF-I-M --dtype bf16 --batch 4 --threads 2 [--size 64] [--checkpointing] [--runs 5] [--foreach] [--device cuda]

float32 parameters; bf16 is autocast, as diffusers' training scripts use it. Needs torch. Prints one JSON line
with median_s and min_s.
"""
import argparse, json, math, os, resource, time
import torch
from torch_unet import make

a = argparse.ArgumentParser()
a.add_argument('config'); a.add_argument('--dtype', default='bf16'); a.add_argument('--batch', type=int, default=4)
a.add_argument('--size', type=int); a.add_argument('--threads', type=int, default=2); a.add_argument('--runs', type=int, default=5)
a.add_argument('--checkpointing', action='store_true'); a.add_argument('--nchw', action='store_true', help='default: channels_last, the faster one')
a.add_argument('--device', default='cpu'); a.add_argument('--foreach', action='store_true', help='AdamW by foreach; default: fused, the faster one')
A = a.parse_args()
torch.set_num_threads(A.threads); torch.set_default_device(A.device)
config = json.load(open(os.path.join(os.path.dirname(__file__), '..', 'model-configs.json')))[A.config]
net, run, network = make(config)
net.train()
if A.checkpointing: net.enable_gradient_checkpointing()
if not A.nchw: net = net.to(memory_format=torch.channels_last)
size = A.size or config['sample_size']; upscales = config.get('class_embed_type') == 'timestep'
bar = lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2  # squaredcos_cap_v2
kept = torch.cumprod(1 - torch.tensor([min(1 - bar((i + 1) / 1000) / bar(i / 1000), 0.999) for i in range(1000)]), 0)
add_noise = lambda x, noise, t: kept[t].sqrt()[:, None, None, None] * x + (1 - kept[t]).sqrt()[:, None, None, None] * noise
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5, weight_decay=1e-2, **(dict(foreach=True) if A.foreach else dict(fused=True)))
x0 = torch.rand(A.batch, 3, size, size) * 2 - 1
text = torch.randn(A.batch, 77, config['encoder_hid_dim'])
t = torch.tensor([(100 + 250 * i) % 1000 for i in range(A.batch)])

def step():
    noise = torch.randn_like(x0); x = add_noise(x0, noise, t); labels = None
    if upscales:
        low = torch.nn.functional.interpolate(torch.rand(A.batch, 3, size // 4, size // 4) * 2 - 1, (size, size), mode='bilinear', align_corners=True)
        labels = torch.full((A.batch,), 250); x = torch.cat([x, add_noise(low, torch.randn_like(low), labels)], 1)
    if not A.nchw: x = x.to(memory_format=torch.channels_last)
    with torch.autocast(A.device, dtype=torch.bfloat16, enabled=A.dtype == 'bf16'):
        out = run(x, t, text, class_labels=labels)
    loss = torch.nn.functional.mse_loss(out[:, :3].float(), noise)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step(); optimizer.zero_grad(set_to_none=True)
    if A.device != 'cpu': torch.cuda.synchronize()

seconds = []
for i in range(A.runs + 1):
    start = time.perf_counter(); step(); seconds.append(time.perf_counter() - start)
seconds = sorted(seconds[1:])
print(json.dumps(dict(peer=f'torch {torch.__version__}', network=network, config=A.config, dtype=A.dtype, batch=A.batch, size=size, threads=A.threads, device=A.device, checkpointing=A.checkpointing,
    optimizer='foreach' if A.foreach else 'fused', channels_last=not A.nchw, median_s=seconds[len(seconds) // 2], min_s=seconds[0],
    peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)))
