"""Writes tests/golden/longt5/*.npz: transformers' attention with global blocks.

Run: pip install -e '.[golden]' && python scripts/golden_longt5.py

Each file has `config` (JSON), the parameters by their official names, `x`
[B, T, D], which is normed already, `mask` [B, T], 1 = a token, and `y`.
"""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import LongT5Config
from transformers.models.longt5.modeling_longt5 import (
  LongT5TransientGlobalAttention,
)

FOLDER = Path(__file__).parents[1] / 'tests/golden/longt5'
CASES = {  # tokens of each row, of `length`
  'whole_blocks': {'length': 24, 'block': 4, 'radius': 5, 'tokens': (24, 24)},
  'left_over': {'length': 23, 'block': 5, 'radius': 3, 'tokens': (23, 23)},
  'padded': {'length': 26, 'block': 4, 'radius': 7, 'tokens': (26, 18, 10)},
  'a_wide_block': {'length': 17, 'block': 16, 'radius': 2, 'tokens': (17, 16)},
}


def write(name, case):
  config = {
    'd_model': 12,
    'd_kv': 6,
    'num_heads': 3,
    'local_radius': case['radius'],
    'global_block_size': case['block'],
    'relative_attention_num_buckets': 8,
    'relative_attention_max_distance': 9,
    'layer_norm_epsilon': 1e-6,
    'dropout_rate': 0.0,
  }
  layer = LongT5TransientGlobalAttention(
    LongT5Config(**config), has_relative_attention_bias=True
  ).eval()
  random = np.random.default_rng(len(name))
  for parameter in layer.parameters():
    size = parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 1.0
    if parameter.shape[-1] == 3:
      size = 1.0  # a table of biases
    values = random.standard_normal(parameter.shape) / size
    parameter.data = torch.tensor(values, dtype=torch.float32)
  rows, length = len(case['tokens']), case['length']
  x = random.standard_normal((rows, length, 12)).astype(np.float32)
  held = np.array(case['tokens'])[:, None]
  mask = (np.arange(length)[None] < held).astype(np.int64)
  with torch.no_grad():
    y = layer(torch.tensor(x), mask=torch.tensor(mask))[0]
  parameters = {key: value.numpy() for key, value in layer.state_dict().items()}
  path = FOLDER / f'{name}.npz'
  np.savez(
    path, config=json.dumps(config), x=x, mask=mask, y=y.numpy(), **parameters
  )
  print(path, y.shape)


FOLDER.mkdir(parents=True, exist_ok=True)
for name, case in CASES.items():
  write(name, case)
