"""How fast models train and evaluate here, and what each option costs.

python -m benchmarks.train_step [--quick] [--json=FILE]
python -m benchmarks.train_step --config=FILE[:arg] [--config.NAME=VALUE ...]

Without a config: the sizes at which the published PyTorch code was timed, and
the quickstart's; and ratios of options at the smaller of the two. With one:
that model, and ratios at its size. Tokens are random: speed does not depend on
the text. Memory is what XLA plans for a step beside parameters and batch.
"""

from absl import flags

import lctx
from benchmarks import ratios, timing
from benchmarks.cases import (
  BASE,
  QUICKSTART,
  SMALL,
  Case,
  evaluation,
  from_config,
  train_step,
)
from lctx import command, config

CONFIG = flags.DEFINE_string(
  'config',
  None,
  'A Python file that defines get_config(arg=None), to time its model.',
)
JSON = flags.DEFINE_string('json', '', 'A file for everything that was found.')
QUICK = flags.DEFINE_bool('quick', False, 'Small sizes only, and few rounds.')

PUBLISHED = (
  'PyTorch: the published code, float32, measured elsewhere on two such\n'
  'cores, not in this run. Ratio: of tokens/s here to that. "a CPU s": tokens\n'
  'per second of all threads of this process, and of no other program.'
)


def main(overrides: command.Overrides) -> None:
  if overrides and CONFIG.value is None:
    raise lctx.UserError(
      f'--config.{next(iter(overrides))} changes a config, but there is none. '
      'Give --config=FILE too.'
    )
  cases = [SMALL, QUICKSTART] if QUICK.value else [BASE, SMALL, QUICKSTART]
  if CONFIG.value is not None:
    cases = [from_config(config.load(CONFIG.value, overrides))]
  rounds = 2 if QUICK.value else 5
  found = {'machine': timing.machine(), 'speeds': [], 'ratios': {}}
  print(timing.heading(found['machine']))
  for case in cases:
    found['speeds'] += speeds(case, rounds)
  print('\n' + speed_table(found['speeds']) + '\n\n' + PUBLISHED)
  timed = cases[0] if CONFIG.value is not None else SMALL
  print(f'\nRatios at {timed.name}')
  for name, variants in ratios.RATIOS.items():
    found['ratios'][name] = ratios.measure(variants(timed), rounds)
    print(f'\n{name}\n{ratios.table(found["ratios"][name])}')
  timing.save_json(found, JSON.value)


def speeds(case: Case, rounds: int) -> list[dict]:
  """Training and evaluation of a case: a record each."""
  step, about = train_step(case)
  read, tokens, read_about = evaluation(case)
  found = timing.interleaved({'train': step, 'evaluate': read}, rounds)
  published = case.published or (None, None)
  return [
    _speed(case, 'train', case.tokens, found['train'], published[0]) | about,
    _speed(case, 'evaluate', tokens, found['evaluate'], published[1])
    | read_about,
  ]


def _speed(case, what, tokens, found, published) -> dict:
  speed = tokens / found.wall
  return {
    'case': case.name,
    'what': what,
    'tokens_per_second': speed,
    'tokens_per_cpu_second': tokens / found.cpu,
    'wall_seconds': found.wall,
    'cpu_seconds': found.cpu,
    'published_pytorch_tokens_per_second': published,
    'ratio_to_published': speed / published if published else None,
  }


def speed_table(found: list[dict]) -> str:
  columns = (
    *('', 'tokens/s', 'a CPU s', 'wall s', 'CPU s', 'compile s', 'MiB'),
    *('PyTorch tokens/s', 'ratio'),
  )
  names = (
    *('tokens_per_second', 'tokens_per_cpu_second', 'wall_seconds'),
    *('cpu_seconds', 'compile_seconds', 'temporary_mib'),
    *('published_pytorch_tokens_per_second', 'ratio_to_published'),
  )
  rows = [
    [f'{record["what"]}: {record["case"]}', *map(record.get, names)]
    for record in found
  ]
  return timing.table(columns, rows)


if __name__ == '__main__':
  command.run(main)
