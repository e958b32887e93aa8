"""Fused attention with Transformer-XL's term, against others on a GPU.

pip install -e '.[cuda]' torch==2.13.0
python -m benchmarks.gpu_attention [--json=FILE]

Against Dense, in XLA; PyTorch, eager, compiled, and by FlexAttention; the
kernel itself without the term; and cuDNN without it. Causal, bfloat16, 8 heads
of 64. Times are medians of turns in one run; a ratio is of the kernel's time to
another's, so below 1 the kernel is faster. "off" is the largest difference of
an output from Dense's, relative to the largest: they must compute the same.
"""

import os

import jax
from absl import flags

import lctx
from benchmarks import timing
from benchmarks.attention_cells import KERNELS, Problem
from lctx.patterns import Causal

try:
  import torch
except ImportError:
  torch = None

LENGTHS = flags.DEFINE_multi_integer(
  'length', [1024, 2048, 4096, 8192], 'Tokens; may be given several times.', 1
)
KERNEL = flags.DEFINE_string('kernel', 'fused', 'The kernel that is compared.')
ROUNDS = flags.DEFINE_integer('rounds', 20, 'Turns that are timed.', 1)
JSON = flags.DEFINE_string('json', '', 'A file for everything that was found.')

DECIDES = 8192  # tokens at which the goals are set
GOALS = {  # what the kernel's time may be, in that of others
  'without the term': 2.0,
  'cuDNN, without the term': 3.0,
  'PyTorch, eager': 1.0,
  'PyTorch, compiled': 1.0,
  'PyTorch, FlexAttention': 1.0,
}


def main() -> None:
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # two share
  check()
  from benchmarks import gpu_contenders  # needs PyTorch

  found = {'machine': timing.machine(), 'torch': torch.__version__, 'times': []}
  print(f'{timing.heading(found["machine"])}\ntorch {torch.__version__}')
  try:
    for length in LENGTHS.value:
      problem = Problem(length, 'xl', Causal(), dtype='bfloat16')
      everyone = gpu_contenders.contenders(problem, KERNEL.value, 'cuda')
      records = with_ratios(gpu_contenders.measure(everyone, ROUNDS.value))
      found['times'] += [{'length': length, **record} for record in records]
      print(f'\n{length:,} tokens\n\n{table(records)}', flush=True)
      if length == DECIDES:
        print('\n' + verdict(records))
  finally:
    timing.save_json(found, JSON.value)


def check() -> None:
  """Raises UserError where this cannot run."""
  if jax.default_backend() != 'gpu':
    raise lctx.UserError(
      f'this benchmark needs a GPU, and jax has found {jax.devices()[0]}. '
      "Install jax for it: pip install 'lctx[cuda]'."
    )
  if torch is None or not torch.cuda.is_available():
    raise lctx.UserError(
      'this benchmark needs a PyTorch that sees the GPU too. Install it beside '
      'lctx: pip install torch==2.13.0.'
    )
  if KERNEL.value not in KERNELS:
    raise lctx.UserError(
      f'--kernel={KERNEL.value} is none of {", ".join(KERNELS)}. Choose one.'
    )


def with_ratios(records: list[dict]) -> list[dict]:
  """Ratios of the kernel's time, both ways, to that of each."""
  kernel = next(r for r in records if r['name'] == KERNEL.value)
  for record in records:
    for way in ('forward', 'both'):
      times = kernel[f'{way}_ms'], record[f'{way}_ms']
      known = None not in times
      record[f'{way}_ratio'] = times[0] / times[1] if known else None
  return records


def table(records: list[dict]) -> str:
  names = 'forward_ms', 'forward_ratio', 'both_ms', 'both_ratio', 'off'
  columns = '', 'forward ms', 'ratio', 'both ms', 'ratio', 'off'
  rows = [[r['name'], *(r[name] for name in names)] for r in records]
  lines = [timing.table(columns, rows)]
  lines += [
    f'{record["name"]}: not run, for {record["not_run"]}'
    for record in records
    if record['not_run']
  ]
  return '\n'.join(lines)


def verdict(records: list[dict]) -> str:
  """Forward and backward together, against the goals."""
  lines = []
  for record in records:
    goal, ratio = GOALS.get(record['name']), record['both_ratio']
    if goal is not None and ratio is not None:
      lines.append(
        f'{KERNEL.value} takes {ratio:.2f} times as long as '
        f'{record["name"]}; at most {goal:g} is the goal: '
        f'{"met" if ratio <= goal else "missed"}'
      )
  return '\n'.join(lines)


if __name__ == '__main__':
  timing.run(main)
