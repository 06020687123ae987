"""PyTorch + diffusers on the inputs of `npm run bench:precision-error -- --save FILE`: relative L2 errors of models/if-emoji.

    python bench/peer/precision_error.py FILE models/if-emoji/unet

Needs torch, diffusers and safetensors. Prints one line per dtype.
"""
import sys
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

data = load_file(sys.argv[1])
for dtype in (torch.float32, torch.bfloat16):
    net = UNet2DConditionModel.from_pretrained(sys.argv[2], torch_dtype=dtype).eval()
    with torch.inference_mode():
        out = net(data['sample'].to(dtype), data['timestep'], data['encoder_hidden_states'].to(dtype)).sample.double()
    want = data['reference'].double()
    error = lambda a, b: float((a - b).norm() / b.norm())
    times = sorted(set(data['timestep'].tolist()), reverse=True)
    parts = [f't={t:.0f} {error(out[data["timestep"] == t], want[data["timestep"] == t]):.2e}' for t in times]
    print(f'torch {torch.__version__} {str(dtype)[6:]:9} all {error(out, want):.2e}', *parts)
