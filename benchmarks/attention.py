"""What attention costs here: every kernel, length, score and pattern.

python -m benchmarks.attention [--lengths=1024,2048] [--scores=none,xl]
  [--json=FILE] [--picture=FILE]

Times are medians of turns, in which all kernels for one length, score and
pattern take part; jax.nn.dot_product_attention too, where it can compute the
same. A ratio is of a kernel's time to theirs: below 1 it is faster. Memory is
what XLA plans for a program beside its inputs and outputs. For windows a second
table says how both grow when the length doubles.
"""

from absl import flags
from tqdm.std import tqdm

import lctx
from benchmarks import attention_report as report
from benchmarks import timing
from benchmarks.attention_cells import KERNELS, Problem, refusal
from benchmarks.attention_scores import SCORES
from benchmarks.attention_times import GIB, Limits, measure, memory_limit
from lctx.patterns import Causal, Pattern, Window

LENGTHS = flags.DEFINE_list(
  'lengths', [str(2**n) for n in range(10, 18)], 'Tokens of a text.'
)
KERNEL_NAMES = flags.DEFINE_list('kernels', list(KERNELS), 'By name.')
SCORE_NAMES = flags.DEFINE_list('scores', list(SCORES), 'By name.')
PATTERN_NAMES = flags.DEFINE_list('patterns', ['causal', 'window'], 'By name.')
WINDOW = flags.DEFINE_integer('window', 512, 'Keys that a window shows.', 1)
HEADS = flags.DEFINE_integer('heads', 8, 'Heads of a layer.', 1)
WIDTH = flags.DEFINE_integer('width', 64, 'Channels of a head.', 1)
ROWS = flags.DEFINE_integer('rows', 1, 'Texts at a time.', 1)
DTYPE = flags.DEFINE_enum(
  'dtype', 'float32', ['float32', 'bfloat16', 'float16'], 'Of activations.'
)
SECONDS = flags.DEFINE_float(
  'seconds',
  10.0,
  'For all calls of a program, which is not run if it would take longer.',
  0.0,
)
MEMORY = flags.DEFINE_float(
  'memory', None, 'GiB for a program, likewise; by default what is free.', 0.0
)
JSON = flags.DEFINE_string('json', '', 'A file for everything that was found.')
PICTURE = flags.DEFINE_string('picture', '', 'A PNG of time and memory.')

PROBE = 1024  # nothing predicts the time of the shortest text: no longer one


def main() -> None:
  lengths = sorted({number(length) for length in LENGTHS.value})
  patterns = {'causal': Causal(), 'window': Window(WINDOW.value - 1)}
  patterns = chosen(PATTERN_NAMES, patterns)
  scores, kernels = chosen(SCORE_NAMES, SCORES), chosen(KERNEL_NAMES, KERNELS)
  found = {'machine': timing.machine(), 'flags': asked(), 'cells': []}
  print(timing.heading(found['machine']))
  total = len(patterns) * len(scores) * len(lengths)
  try:
    with tqdm(total=total, disable=None, dynamic_ncols=True) as bar:
      for named in patterns.items():
        for score in scores:
          records, text = section(bar, *named, score, lengths, kernels)
          found['cells'] += records
          bar.write(text)
  finally:  # what was found before Ctrl-C counts too
    timing.save_json(found, JSON.value)
    if PICTURE.value and found['cells']:
      report.picture(found['cells'], report.title(found), PICTURE.value)
      print(f'wrote {PICTURE.value}')


def section(
  bar: tqdm, name: str, pattern: Pattern, score: str, lengths, kernels
) -> tuple[list[dict], str]:
  """Records of one score and pattern, and how they are shown."""

  def problem(length: int) -> Problem:
    sizes = HEADS.value, WIDTH.value, ROWS.value, DTYPE.value
    return Problem(length, score, pattern, *sizes)

  refused = {n: refusal(problem(lengths[0]), k) for n, k in kernels.items()}
  able = {n: kernels[n] for n, why in refused.items() if why is None}
  known = []
  for length in [PROBE] * (lengths[0] > PROBE) + lengths:
    bar.set_description_str(f'{name}, {score}, {length:,}')
    free = MEMORY.value * GIB if MEMORY.value else memory_limit()
    limits = Limits(free, SECONDS.value)
    known += measure(problem(length), able, limits, known)
    bar.update(length in lengths)
  records = [
    {'pattern': name, 'score': score, **record}
    for record in known
    if record['length'] in lengths
  ]
  text = f'\n{name}, score: {score}\n\n{report.table(records)}'
  if pattern.reach.before is not None:
    text += report.doublings(records)
  return records, text + report.notes(records, refused)


def chosen(flag: flags.FlagHolder, known: dict) -> dict:
  """Those that a flag names."""
  for name in flag.value:
    if name not in known:
      raise lctx.UserError(
        f'--{flag.name}={name} is none of {", ".join(known)}. Choose from them.'
      )
  if not flag.value:
    raise lctx.UserError(
      f'--{flag.name} is empty. Choose from {", ".join(known)}.'
    )
  return {name: known[name] for name in flag.value}


def number(text: str) -> int:
  if not text.strip().isdigit() or not int(text):
    raise lctx.UserError(
      f'--lengths={text} is no number of tokens. Give some, as 1024,2048.'
    )
  return int(text)


def asked() -> dict:
  given = WINDOW, HEADS, WIDTH, ROWS, DTYPE, SECONDS, MEMORY
  return {flag.name: flag.value for flag in given}


if __name__ == '__main__':
  timing.run(main)
