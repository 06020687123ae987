"""Records test/golden/torch: small archives that torch.save wrote, and the bytes of the tensors in them.

    python bench/peer/torch_archives.py test/golden/torch

Needs torch and numpy. `message_hub.pth` has what mmengine puts beside the weights; its class is a stand-in with the
attributes of mmengine/logging/history_buffer.py, so that the pickle refers to the same names.
"""
import json, os, sys, types, zipfile
import numpy as np
import torch

OUT = sys.argv[1]
os.makedirs(OUT, exist_ok=True)
path = lambda name: os.path.join(OUT, name)

base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) - 7.5
tensors = {
    'f64': base.double() / 3, 'f32': base / 3, 'f16': (base / 3).half(), 'bf16': (base / 3).bfloat16(),
    'i64': (base * 1e12).long(), 'i32': base.int(), 'i16': base.short(), 'i8': base.char(), 'u8': base.byte(), 'bool': base > 0,
    'scalar': torch.tensor(2.5), 'empty': torch.zeros(0, 3), 'parameter': torch.nn.Parameter(base[0].clone()),
    'transposed': base.transpose(0, 2), 'stepped': base[:, ::2, 1:3], 'shared': base[1], 'half_stepped': base.half()[1:, :, ::3],
    'long_transposed': base.long().transpose(1, 2), 'bytes_transposed': base.byte().transpose(0, 1),
    'channels_last': torch.arange(36, dtype=torch.float32).reshape(1, 4, 3, 3).contiguous(memory_format=torch.channels_last),
    'size_one': base[:, 1:2, :].transpose(0, 1),
}
torch.save(tensors, path('types.pt'))
names = {torch.float64: 'f64', torch.float32: 'f32', torch.float16: 'f16', torch.bfloat16: 'bf16', torch.int64: 'i64', torch.int32: 'i32',
         torch.int16: 'i16', torch.int8: 'i8', torch.uint8: 'u8', torch.bool: 'bool'}
raw = lambda t: (t.detach().contiguous().view(torch.int16) if t.dtype == torch.bfloat16 else t.detach().contiguous()).numpy().tobytes().hex()
json.dump({k: dict(dtype=names[t.dtype], shape=list(t.shape), bytes=raw(t)) for k, t in tensors.items()}, open(path('types.json'), 'w'), indent=1)

small = {'a': base[0], 'b': base[1].half()}
for protocol in (3, 4, 5): torch.save(small, path(f'protocol{protocol}.pt'), pickle_protocol=protocol)
torch.save(small, path('legacy.pt'), _use_new_zipfile_serialization=False)
with zipfile.ZipFile(path('types.pt')) as source, zipfile.ZipFile(path('deflated.pt'), 'w', zipfile.ZIP_DEFLATED) as target:
    for name in source.namelist(): target.writestr(name, source.read(name))
torch.save(torch.nn.Linear(2, 2), path('module.pt'))

# ---- mmengine: dict(meta, state_dict, message_hub, optimizer)
module = types.ModuleType('mmengine.logging.history_buffer')
class HistoryBuffer:
    def __init__(self):
        self.max_length = 1000000
        self._statistics_methods = dict(min=HistoryBuffer.min, mean=HistoryBuffer.mean)
        self._log_history = np.array([0.5, 0.25]); self._count_history = np.array([1, 1])
    def mean(self): pass
    def min(self): pass
HistoryBuffer.__module__ = module.__name__; HistoryBuffer.__qualname__ = 'HistoryBuffer'
HistoryBuffer.mean.__module__ = HistoryBuffer.min.__module__ = module.__name__
HistoryBuffer.mean.__qualname__ = 'HistoryBuffer.mean'; HistoryBuffer.min.__qualname__ = 'HistoryBuffer.min'
module.HistoryBuffer = HistoryBuffer
for name in ('mmengine', 'mmengine.logging'): sys.modules[name] = types.ModuleType(name)
sys.modules[module.__name__] = module
weight = torch.nn.Parameter(base[0].clone()); optimizer = torch.optim.AdamW([weight]); weight.sum().backward(); optimizer.step()
torch.save({'meta': dict(epoch=1, iter=2, cfg='model = dict()', seed=None, time='20240101_000000'), 'state_dict': {'unet.conv_in.bias': base[0]},
            'message_hub': dict(log_scalars={'train/loss': HistoryBuffer()}, runtime_info={'epoch': 1, 'lr': np.float64(1e-4)}, resumed_keys={'train/loss': True}),
            'optimizer': optimizer.state_dict(), 'param_schedulers': [{'last_step': 2}]}, path('message_hub.pth'))
