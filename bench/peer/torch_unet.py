"""The UNet of DeepFloyd IF in plain PyTorch, for hosts without diffusers: the layers, names and results of
UNet2DConditionModel.from_config (checked by `python bench/peer/torch_unet.py CONFIG.json`, which needs diffusers)."""
import math
import torch
from torch import nn
import torch.nn.functional as F

ACT = dict(silu=F.silu, gelu=F.gelu)


class Resnet(nn.Module):
    def __init__(self, c, cin, cout, scale, resample=None):
        super().__init__()
        self.act, self.scale, self.resample = ACT[c['act_fn']], scale, resample
        self.skip_act = c.get('resnet_skip_time_act', False)
        self.norm1 = nn.GroupNorm(c.get('norm_num_groups', 32), cin, c.get('norm_eps', 1e-5))
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.time_emb_proj = nn.Linear(c['time_dim'], 2 * cout)
        self.norm2 = nn.GroupNorm(c.get('norm_num_groups', 32), cout, c.get('norm_eps', 1e-5))
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        if cin != cout: self.conv_shortcut = nn.Conv2d(cin, cout, 1)

    def forward(self, x, emb):
        h = self.act(self.norm1(x))
        if self.resample == 'down': x, h = F.avg_pool2d(x, 2), F.avg_pool2d(h, 2)
        if self.resample == 'up': x, h = F.interpolate(x, scale_factor=2.0), F.interpolate(h, scale_factor=2.0)
        scale, shift = self.time_emb_proj(emb if self.skip_act else self.act(emb))[:, :, None, None].chunk(2, 1)
        h = self.conv2(self.act(self.norm2(self.conv1(h)) * (1 + scale) + shift))
        return ((self.conv_shortcut(x) if hasattr(self, 'conv_shortcut') else x) + h) / self.scale


class Attention(nn.Module):
    def __init__(self, c, channels, head_dim, only_text):
        super().__init__()
        self.heads, self.only_text = channels // head_dim, only_text
        self.group_norm = nn.GroupNorm(c.get('norm_num_groups', 32), channels, 1e-5)
        if c.get('cross_attention_norm'): self.norm_cross = nn.GroupNorm(32, c['cross_attention_dim'], 1e-5)
        self.to_q = nn.Linear(channels, channels)
        if not only_text: self.to_k, self.to_v = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.add_k_proj, self.add_v_proj = nn.Linear(c['cross_attention_dim'], channels), nn.Linear(c['cross_attention_dim'], channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x, text):
        n, channels, height, width = x.shape
        tokens = self.group_norm(x.flatten(2)).transpose(1, 2)
        if hasattr(self, 'norm_cross'): text = self.norm_cross(text.transpose(1, 2)).transpose(1, 2)
        k, v = self.add_k_proj(text), self.add_v_proj(text)
        if not self.only_text: k, v = torch.cat([k, self.to_k(tokens)], 1), torch.cat([v, self.to_v(tokens)], 1)
        split = lambda t: t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        h = F.scaled_dot_product_attention(split(self.to_q(tokens)), split(k), split(v)).transpose(1, 2).flatten(2)
        return x + self.to_out[0](h).transpose(1, 2).unflatten(2, (height, width))


class Block(nn.Module):
    """Down, mid and up blocks alike: residual blocks, each followed by an attention block where there is one."""
    def __init__(self, resnets, attentions, down=None, up=None):
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        if attentions: self.attentions = nn.ModuleList(attentions)
        if down: self.downsamplers = nn.ModuleList([down])
        if up: self.upsamplers = nn.ModuleList([up])


class Embedding(nn.Module):
    def __init__(self, cin, dim, act, post=None):
        super().__init__()
        self.linear_1, self.linear_2, self.act, self.post = nn.Linear(cin, dim), nn.Linear(dim, dim), act, post

    def forward(self, x):
        x = self.linear_2(self.act(self.linear_1(x)))
        return self.post(x) if self.post else x


class Pooling(nn.Module):
    def __init__(self, heads, width):
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(1, width) / math.sqrt(width))
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        x = torch.cat([x.mean(1, keepdim=True) + self.positional_embedding, x], 1)
        split = lambda t: t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return F.scaled_dot_product_attention(split(self.q_proj(x[:, :1])), split(self.k_proj(x)), split(self.v_proj(x))).transpose(1, 2).flatten(2)[:, 0]


class TextTime(nn.Module):
    def __init__(self, width, dim, heads):
        super().__init__()
        self.norm1, self.pool, self.proj, self.norm2 = nn.LayerNorm(width), Pooling(heads, width), nn.Linear(width, dim), nn.LayerNorm(dim)

    def forward(self, text):
        return self.norm2(self.proj(self.pool(self.norm1(text))))


class UNet(nn.Module):
    def __init__(self, config):
        super().__init__()
        widths = config['block_out_channels']
        levels, first = len(widths), widths[0]
        c = self.c = dict(config, time_dim=config.get('time_embedding_dim') or 4 * first)
        each = lambda v: list(v) if isinstance(v, (list, tuple)) else [v] * levels
        layers, heads, only = each(c.get('layers_per_block', 2)), each(c['attention_head_dim']), each(c.get('only_cross_attention', False))
        mid_only = c.get('only_cross_attention', False) if isinstance(c.get('only_cross_attention', False), bool) else False
        act, out_scale, mid_scale = ACT[c['act_fn']], c.get('resnet_out_scale_factor', 1), c.get('mid_block_scale_factor', 1)
        post = c.get('timestep_post_act')
        self.time_embedding = Embedding(first, c['time_dim'], act, ACT[post] if post else None)
        if c.get('class_embed_type'): self.class_embedding = Embedding(first, c['time_dim'], act)
        self.encoder_hid_proj = nn.Linear(c['encoder_hid_dim'], c['cross_attention_dim'])
        self.add_embedding = TextTime(c['encoder_hid_dim'], c['time_dim'], c.get('addition_embed_type_num_heads', 64))
        self.conv_in = nn.Conv2d(c['in_channels'], first, 3, padding=1)
        attends = lambda types, i: 'CrossAttn' in types[i]
        self.down_blocks, skips, width = nn.ModuleList(), [first], first
        for i in range(levels):
            resnets, attentions = [], []
            for _ in range(layers[i]):
                resnets.append(Resnet(c, width, widths[i], out_scale))
                width = widths[i]
                if attends(c['down_block_types'], i): attentions.append(Attention(c, width, heads[i], only[i]))
                skips.append(width)
            down = Resnet(c, width, width, out_scale, 'down') if i < levels - 1 else None
            if down: skips.append(width)
            self.down_blocks.append(Block(resnets, attentions, down=down))
        self.mid_block = Block([Resnet(c, width, width, mid_scale), Resnet(c, width, width, mid_scale)], [Attention(c, width, heads[-1], mid_only)])
        self.up_blocks = nn.ModuleList()
        for j in range(levels):
            i, resnets, attentions = levels - 1 - j, [], []
            for _ in range(layers[i] + 1):
                resnets.append(Resnet(c, width + skips.pop(), widths[i], out_scale))
                width = widths[i]
                if attends(c['up_block_types'], j): attentions.append(Attention(c, width, heads[i], only[i]))
            self.up_blocks.append(Block(resnets, attentions, up=Resnet(c, width, width, out_scale, 'up') if j < levels - 1 else None))
        self.conv_norm_out = nn.GroupNorm(c.get('norm_num_groups', 32), first, c.get('norm_eps', 1e-5))
        self.conv_out = nn.Conv2d(first, c['out_channels'], 3, padding=1)
        self.checkpointing = False

    def enable_gradient_checkpointing(self): self.checkpointing = True

    def sinusoid(self, t, like):
        half = self.c['block_out_channels'][0] // 2
        freq = torch.exp(-math.log(10000) * torch.arange(half, device=like.device, dtype=torch.float32) / (half - self.c.get('freq_shift', 0)))
        a = torch.as_tensor(t, device=like.device).float().expand(len(like))[:, None] * freq
        parts = [a.cos(), a.sin()] if self.c.get('flip_sin_to_cos', True) else [a.sin(), a.cos()]
        return torch.cat(parts, 1).to(self.conv_in.weight.dtype)

    def run(self, module, *inputs):
        if not self.checkpointing: return module(*inputs)
        return torch.utils.checkpoint.checkpoint(module, *inputs, use_reentrant=False)

    def forward(self, x, t, text, class_labels=None):
        emb = self.time_embedding(self.sinusoid(t, x))
        if class_labels is not None: emb = emb + self.class_embedding(self.sinusoid(class_labels, x))
        emb = emb + self.add_embedding(text)
        if self.c.get('time_embedding_act_fn'): emb = ACT[self.c['time_embedding_act_fn']](emb)
        text = self.encoder_hid_proj(text)
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            for i, resnet in enumerate(block.resnets):
                x = self.run(resnet, x, emb)
                if hasattr(block, 'attentions'): x = self.run(block.attentions[i], x, text)
                skips.append(x)
            if hasattr(block, 'downsamplers'):
                x = self.run(block.downsamplers[0], x, emb)
                skips.append(x)
        x = self.run(self.mid_block.resnets[0], x, emb)
        x = self.run(self.mid_block.attentions[0], x, text)
        x = self.run(self.mid_block.resnets[1], x, emb)
        for block in self.up_blocks:
            for i, resnet in enumerate(block.resnets):
                x = self.run(resnet, torch.cat([x, skips.pop()], 1), emb)
                if hasattr(block, 'attentions'): x = self.run(block.attentions[i], x, text)
            if hasattr(block, 'upsamplers'): x = self.run(block.upsamplers[0], x, emb)
        return self.conv_out(ACT[self.c['act_fn']](self.conv_norm_out(x)))


def make(config, plain=False):
    """diffusers' network where diffusers is installed (its result is .sample), else the one above."""
    try:
        if plain: raise ImportError
        from diffusers import UNet2DConditionModel
        net = UNet2DConditionModel.from_config(config)
        return net, lambda *a, **k: net(*a, **k).sample, 'diffusers'
    except ImportError:
        net = UNet(config)
        return net, net, 'plain torch'


if __name__ == '__main__':
    import json, sys
    config = json.load(open(sys.argv[1]))
    torch.manual_seed(0)
    (theirs, run, name), (ours, _, _) = make(config), make(config, plain=True)
    assert name == 'diffusers', 'needs diffusers'
    ours.load_state_dict(theirs.state_dict())
    theirs.eval()
    x, text = torch.randn(2, config['in_channels'], 16, 16), torch.randn(2, 7, config['encoder_hid_dim'])
    labels = torch.full((2,), 250) if config.get('class_embed_type') else None
    with torch.inference_mode():
        a, b = run(x, 500, text, class_labels=labels), ours(x, 500, text, labels)
    error = ((a - b).norm() / a.norm()).item()
    print(f'relative difference {error:.2e}')
    sys.exit(not error <= 1e-5)
