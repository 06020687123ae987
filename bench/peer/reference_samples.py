"""What diffusers draws from a pipeline folder of stage I, for the tests: reference_samples.json of the second folder gives prompts,
seed, timesteps and guidance, and "a red apple" is drawn alone from seed 1; float32.

    python bench/peer/reference_samples.py models/if-emoji test/golden/if-emoji

Needs torch, transformers, sentencepiece, diffusers and safetensors. Writes reference_samples.safetensors into the second folder.
"""
import json, os, sys
import torch
from diffusers import IFPipeline
from safetensors.torch import save_file

folder, out = sys.argv[1:]
settings = json.load(open(os.path.join(out, 'reference_samples.json')))
pipe = IFPipeline.from_pretrained(folder, torch_dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)


def draw(prompts, seed):
    return pipe(prompts, timesteps=settings['timesteps'], guidance_scale=settings['guidance'], clean_caption=False,
                generator=torch.Generator().manual_seed(seed), output_type='pt').images.contiguous()


grid = draw(settings['prompts'], settings['seed'])
name = f"grid{len(settings['prompts'])}_seed{settings['seed']}"
save_file({name: grid, 'a_red_apple_seed1': draw(['a red apple'], 1)}, os.path.join(out, 'reference_samples.safetensors'))
print(grid.shape, float(grid.min()), float(grid.max()))
