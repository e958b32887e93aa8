"""Writes tests/golden/rope/*.json: what transformers makes of rotary settings.

Run: pip install -e '.[golden]' && python scripts/golden_rope.py
"""

import json
from pathlib import Path

import torch
import transformers
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.gptj import modeling_gptj as gptj
from transformers.models.llama import modeling_llama as llama

FOLDER = Path(__file__).parents[1] / 'tests/golden/rope'
SIZES = [(8, 5e5, 64), (24, 1e4, 4096), (64, 1e4, 2048)]  # width, base, trained
YARN = [
  {},
  {'truncate': False},
  {'mscale': 0.707, 'mscale_all_dim': 1.0},
  {'attention_factor': 1.25},
  {'beta_fast': 16.0, 'beta_slow': 2.0},
]


def settings(width):
  """Each kind of stretch with its parameters, but for the trained length."""
  short = [1 + 0.01 * i for i in range(width // 2)]
  long = [1 + 0.5 * i for i in range(width // 2)]
  for factor in (1.0, 4.0, 32.0):
    yield 'linear', {'factor': factor}
    yield 'dynamic', {'factor': factor}
    for more in YARN:
      yield 'yarn', {'factor': factor, **more}
    yield 'llama3', bounds(factor, 1.0, 4.0)
    yield 'longrope', searched(short, long, {'factor': factor})
  yield 'llama3', bounds(8.0, 2.0, 8.0)
  yield 'longrope', searched(short, long, {'attention_factor': 1.5})


def bounds(factor, low, high):
  return {'factor': factor, 'low_freq_factor': low, 'high_freq_factor': high}


def searched(short, long, more):
  return {'short_factor': short, 'long_factor': long, **more}


def config_of(kind, width, base, trained, parameters):
  """A Llama of one head; 'dynamic' alone takes its longest for the trained."""
  parameters = {'rope_type': kind, 'rope_theta': base, **parameters}
  if kind in ('yarn', 'longrope', 'llama3'):
    parameters['original_max_position_embeddings'] = trained
  longest = trained * (1 if kind in ('default', 'linear', 'dynamic') else 4)
  return LlamaConfig(
    hidden_size=width,
    num_attention_heads=1,
    head_dim=width,
    max_position_embeddings=longest,
    rope_parameters=parameters,
  )


def frequencies():
  """Every kind at every size, and where it counts at three lengths."""
  for width, base, trained in SIZES:
    for kind, parameters in settings(width):
      by_length = kind in ('dynamic', 'longrope')
      lengths = (trained // 2, trained, 3 * trained) if by_length else (None,)
      for length in lengths:
        config = config_of(kind, width, base, trained, parameters)
        theta, factor = ROPE_INIT_FUNCTIONS[kind](config, 'cpu', length)
        yield {
          'kind': kind,
          'width': width,
          'base': base,
          'trained': trained,
          'length': length,
          'parameters': parameters,
          'theta': [float(f'{x:.9g}') for x in theta.tolist()],
          'attention_factor': float(factor),
        }


def rotations():
  """Queries and keys before and after, of both ways to pair channels."""
  torch.manual_seed(0)
  q_BTNH, k_BSKH = torch.randn(1, 4, 2, 8), torch.randn(1, 4, 1, 8)
  positions = torch.tensor([[0, 1, 7, 50]])
  for kind, parameters in (('default', {}), ('yarn', {'factor': 4.0})):
    config = config_of(kind, 8, 1e4, 64, parameters)
    cos, sin = llama.LlamaRotaryEmbedding(config)(q_BTNH, positions)
    turned = llama.apply_rotary_pos_emb(q_BTNH, k_BSKH, cos, sin, 2)
    yield rotation(kind, False, positions, (q_BTNH, k_BSKH), turned)
  table = gptj.create_sinusoidal_positions(64, 8)[positions]
  sin, cos = torch.split(table, 4, dim=-1)
  turned = [gptj.apply_rotary_pos_emb(x, sin, cos) for x in (q_BTNH, k_BSKH)]
  yield rotation('default', True, positions, (q_BTNH, k_BSKH), turned)


def rotation(kind, interleaved, positions, before, after):
  numbers = {'position': positions, 'q': before[0], 'k': before[1]}
  numbers |= {'turned_q': after[0], 'turned_k': after[1]}
  return {'kind': kind, 'interleaved': interleaved} | {
    name: array.tolist() for name, array in numbers.items()
  }


def save(name, cases):
  """One case a line."""
  made_by = {'torch': torch.__version__}
  made_by['transformers'] = transformers.__version__
  lines = ',\n'.join(json.dumps(case) for case in cases)
  text = f'{{"made_by": {json.dumps(made_by)}, "cases": [\n{lines}\n]}}\n'
  FOLDER.mkdir(parents=True, exist_ok=True)
  (FOLDER / name).write_text(text)


if __name__ == '__main__':
  save('frequencies.json', frequencies())
  save('rotations.json', rotations())
