"""PyTorch (and diffusers, if installed) on the same step as `npm run bench -- unet-step`: random weights, one forward pass.

    python bench/peer/unet_step.py IF-I-L --dtype bf16 --batch 2 --threads 2 [--size 64] [--nchw] [--runs 5] [--device cuda]

Needs torch. Prints one JSON line with median_s and min_s.
"""
import argparse, json, os, resource, time
import torch
from torch_unet import make

a = argparse.ArgumentParser()
a.add_argument('config'); a.add_argument('--dtype', default='bf16'); a.add_argument('--batch', type=int, default=2)
a.add_argument('--size', type=int); a.add_argument('--threads', type=int, default=2); a.add_argument('--runs', type=int, default=5)
a.add_argument('--nchw', action='store_true', help='default: channels_last, the faster one'); a.add_argument('--device', default='cpu')
A = a.parse_args()
torch.set_num_threads(A.threads)
config = json.load(open(os.path.join(os.path.dirname(__file__), '..', 'model-configs.json')))[A.config]
dtype = dict(bf16=torch.bfloat16, f16=torch.float16, f32=torch.float32)[A.dtype]
torch.set_default_dtype(dtype); torch.set_default_device(A.device)
net, run, network = make(config)
net.eval()
if not A.nchw: net = net.to(memory_format=torch.channels_last)
size = A.size or config['sample_size']
x = torch.randn(A.batch, config['in_channels'], size, size)
if not A.nchw: x = x.to(memory_format=torch.channels_last)
text = torch.randn(A.batch, 77, config['encoder_hid_dim'])
labels = torch.full((A.batch,), 250) if config.get('class_embed_type') else None
seconds = []
with torch.inference_mode():
    for i in range(A.runs + 1):
        start = time.perf_counter()
        run(x, 500, text, class_labels=labels)
        if A.device != 'cpu': torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
seconds = sorted(seconds[1:])
print(json.dumps(dict(peer=f'torch {torch.__version__}', network=network, config=A.config, dtype=A.dtype, batch=A.batch, size=size, threads=A.threads, device=A.device,
    channels_last=not A.nchw, median_s=seconds[len(seconds) // 2], min_s=seconds[0], peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)))
