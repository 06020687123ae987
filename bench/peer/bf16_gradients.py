"""Records test/golden/bf16_gradient_error.json: the error of torch's own bfloat16 gradients on the golden networks.

    python bench/peer/bf16_gradients.py test/golden

Needs torch, diffusers and transformers. Gradients of mean(out * loss_weight) by all float32 parameters, under
torch.autocast(bfloat16) against float32, as one long vector: ‖g - g32‖ / ‖g32‖.
"""
import json, os, sys
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from transformers import T5EncoderModel

GOLDEN = sys.argv[1]
path = lambda *parts: os.path.join(GOLDEN, *parts)
torch.set_num_threads(1)


def error(model, run, weight):
    def gradients(autocast):
        model.zero_grad()
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            out = run()
        (out.float() * weight).mean().backward()
        return torch.cat([p.grad.double().reshape(-1) for p in model.parameters() if p.grad is not None])
    exact = gradients(False)
    return float((gradients(True) - exact).norm() / exact.norm())


errors = {}
for name, folder in (('unet_stage1', 'tiny-if-I/unet'), ('unet_stage2', 'tiny-if-II/unet'), ('unet_cross_only', 'unet_cross_only')):
    unet = UNet2DConditionModel.from_pretrained(path(folder), torch_dtype=torch.float32)
    io = load_file(path(f'{name}_io.safetensors'))
    errors[name] = error(unet, lambda: unet(io['sample'], io['timestep.i64'], io['encoder_hidden_states'], class_labels=io.get('class_labels.i64')).sample, io['loss_weight'])
t5 = T5EncoderModel.from_pretrained(path('tiny-if-I/text_encoder'), torch_dtype=torch.float32)
io = load_file(path('t5_tiny_io.safetensors'))
errors['t5_tiny'] = error(t5, lambda: t5(io['input_ids.i64'], attention_mask=io['attention_mask.i64'])[0], io['loss_weight'])
with open(path('bf16_gradient_error.json'), 'w') as file:
    json.dump(errors, file, indent=1)
