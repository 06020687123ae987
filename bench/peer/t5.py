"""PyTorch + transformers on the same encoding as `npm run bench -- t5`: random weights, 77 tokens per prompt.

    python bench/peer/t5.py T5-XXL --dtype bf16 --batch 2 --threads 2 [--runs 5]

Needs torch and transformers. Prints one JSON line with median_s and min_s.
"""
import argparse, json, os, resource, time
import torch
from transformers import T5Config, T5EncoderModel

a = argparse.ArgumentParser()
a.add_argument('config'); a.add_argument('--dtype', default='bf16'); a.add_argument('--batch', type=int, default=2)
a.add_argument('--threads', type=int, default=2); a.add_argument('--runs', type=int, default=5)
A = a.parse_args()
torch.set_num_threads(A.threads)
config = json.load(open(os.path.join(os.path.dirname(__file__), '..', 'model-configs.json')))[A.config]
torch.set_default_dtype(dict(bf16=torch.bfloat16, f32=torch.float32)[A.dtype])
with torch.device('meta'):
    net = T5EncoderModel(T5Config(**config))
net = net.to_empty(device='cpu').eval()
with torch.no_grad():
    for p in net.parameters(): p.normal_(0, 0.02)
ids = torch.randint(0, config['vocab_size'], (A.batch, 77))
mask = torch.ones_like(ids)
seconds = []
with torch.inference_mode():
    for i in range(A.runs + 1):
        start = time.perf_counter()
        net(input_ids=ids, attention_mask=mask)
        seconds.append(time.perf_counter() - start)
seconds = sorted(seconds[1:])
print(json.dumps(dict(peer=f'torch {torch.__version__}', config=A.config, dtype=A.dtype, batch=A.batch, tokens=77, threads=A.threads,
    median_s=seconds[len(seconds) // 2], min_s=seconds[0], peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)))
