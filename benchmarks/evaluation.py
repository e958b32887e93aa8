"""What memory saves in evaluation, against windows that are read anew.

python -m benchmarks.evaluation [--quick] [--json=FILE]
python -m benchmarks.evaluation --workdir=DIR [--picture=FILE]

1. Seconds per predicted token with a memory, and with a window recomputed for
   every token, at equal attention lengths (Dai et al. 2019, table 9: 363 times
   at 800 to 1,874 times at 3,800, on a GPU).
2. A memory of projected keys and values against one of hidden states, which
   every segment projects anew, at the published segment (80) and memory (2,100)
   for enwik8. FLOPs say by how much it could be faster.
3. With a trained model in --workdir: bits per byte against tokens/s, with its
   memory and with windows of several strides.
"""

import functools

import jax
from absl import flags

import lctx
from benchmarks import frontier, timing
from benchmarks.cases import VOCABULARY, compile_timed, random_rows
from benchmarks.windows import Windows
from lctx.evaluation.score import Scorer
from lctx.models.segments import scan_segments, split
from lctx.models.text import Decoder
from lctx.training import flops
from lctx.types import Params, segment_coords

MODEL = flags.DEFINE_string(
  'model', '4x128x4', 'Part 1: LAYERSxWIDTHxHEADS of the model.'
)
WIDE = flags.DEFINE_string(
  'wide',
  '2x512x8',
  'Part 2: likewise. Layers are alike, so their number changes no ratio.',
)
LENGTHS = flags.DEFINE_list(
  'lengths', ['800', '1800', '2800', '3800'], 'Part 1: attention lengths.'
)
SEGMENT = flags.DEFINE_integer(
  'segment', 128, 'Part 1: tokens read at a time; memory is the rest.', 1
)
TOKENS_AT_ONCE = flags.DEFINE_integer(
  'tokens_at_once', 8192, 'Part 1: tokens of windows read together.', 1
)
WORKDIR = flags.DEFINE_string('workdir', '', 'Part 3: what train.py was given.')
ROWS = flags.DEFINE_integer('rows', 8, 'Part 3: documents read.', 1)
TOKENS = flags.DEFINE_integer('tokens', 1024, 'Part 3: tokens of each.', 1)
PICTURE = flags.DEFINE_string('picture', 'frontier.png', 'Part 3: a PNG file.')
JSON = flags.DEFINE_string('json', '', 'A file for everything that was found.')
QUICK = flags.DEFINE_bool('quick', False, 'The first length only, one round.')

REUSED, SLOW_DOWNS = 'projected keys and values', {800: 363, 3800: 1874}


def main() -> None:
  lengths = [_number(length) for length in LENGTHS.value]
  lengths, rounds = (lengths[:1], 1) if QUICK.value else (lengths, 3)
  found = {'machine': timing.machine(), 'windows': [], 'carriers': []}
  print(timing.heading(found['machine']))
  print(
    f'\nMemory against a window for every token: model {MODEL.value}, segment '
    f'{SEGMENT.value}\n'
  )
  for length in lengths:
    found['windows'].append(against_windows(length, rounds))
  print(window_table(found['windows']))
  for count in (1, 4):
    found['carriers'] += carriers(sized(WIDE.value, 2100), count, rounds)
  print(f'\n{carrier_heading()}\n\n{carrier_table(found["carriers"])}')
  if WORKDIR.value:
    found['frontier'] = _frontier(rounds=1)
  else:
    print('\nNo --workdir, so no bits per byte against tokens/s.')
  timing.save_json(found, JSON.value)


def sized(size: str, memory: int) -> Decoder:
  """A model of bytes of the size LAYERSxWIDTHxHEADS."""
  numbers = [_number(number) for number in size.split('x')]
  if len(numbers) != 3:
    raise lctx.UserError(
      f'{size!r} is no size. Write LAYERSxWIDTHxHEADS, as 4x128x4.'
    )
  return lctx.presets.transformer_xl(*numbers, memory, vocab=VOCABULARY)


def _number(text: str) -> int:
  if not text.strip().isdigit():
    raise lctx.UserError(f'{text!r} is no whole number. Give one, as 800.')
  return int(text)


def against_windows(length: int, rounds: int) -> dict:
  """Seconds per predicted token, both ways; each token sees `length` keys."""
  segment = SEGMENT.value
  if length <= segment:
    raise lctx.UserError(
      f'--lengths={length} leaves no memory behind --segment={segment}. Give '
      'a longer attention or a shorter segment.'
    )
  model = sized(MODEL.value, length - segment)
  params = jax.jit(model.init_params)(jax.random.key(0))
  batch = max(1, TOKENS_AT_ONCE.value // length)
  rows = random_rows(batch, 4 * segment)
  scorer = Scorer(model, params, segment)
  windows = Windows(model, params, length, batch)
  text = random_rows(batch, length)
  _, of_memory = compile_timed(lambda: scorer.lowered(rows))
  _, of_windows = compile_timed(
    lambda: windows.lowered(text.tokens, text.targets, 1)
  )
  found = timing.interleaved(
    {
      'memory': lambda: [nats for _, nats in scorer([rows])],
      'windows': lambda: windows.read(text.tokens, text.targets, 1),
    },
    rounds,
  )
  memory = found['memory'].wall / rows.tokens.size
  window = found['windows'].wall / batch
  cpu = found['windows'].cpu * rows.tokens.size / found['memory'].cpu / batch
  return {
    'attention': length,
    'windows_at_once': batch,
    'memory_seconds_per_token': memory,
    'memory_tokens_per_second': 1 / memory,
    'window_seconds_per_token': window,
    'window_tokens_per_second': 1 / window,
    'ratio': window / memory,
    'cpu_ratio': cpu,
    'published_ratio': SLOW_DOWNS.get(length),
    **{f'memory_{name}': value for name, value in of_memory.items()},
    **{f'window_{name}': value for name, value in of_windows.items()},
  }


def window_table(found: list[dict]) -> str:
  names = (
    *('attention', 'memory_tokens_per_second', 'window_tokens_per_second'),
    *('ratio', 'cpu_ratio', 'published_ratio'),
    *('memory_compile_seconds', 'memory_temporary_mib'),
    *('window_compile_seconds', 'window_temporary_mib'),
  )
  columns = (
    *('attention', 'memory tokens/s', 'windows tokens/s', 'ratio'),
    *('ratio in CPU s', 'published', 'memory: compile s', 'MiB'),
    *('windows: compile s', 'MiB'),
  )
  return timing.table(columns, [[r[name] for name in names] for r in found])


def carriers(
  model: Decoder, count: int, rounds: int, segment: int = 80
) -> list[dict]:
  """`count` rows read with both carriers of the memory, timed in turns."""
  params = jax.jit(model.init_params)(jax.random.key(0))
  rows = random_rows(count, 4 * segment)
  carried = model.for_inference()
  scores = jax.jit(carried.scores, static_argnums=1)(params, segment)
  found = timing.interleaved(
    {
      'hidden states': _reader(model, params, None, rows, segment),
      REUSED: _reader(carried, params, scores, rows, segment),
    },
    rounds,
  )
  slow = next(iter(found.values()))
  tokens = rows.tokens.size
  return [
    {
      'carrier': f'{name}, rows: {count}',
      'tokens_per_second': tokens / seconds.wall,
      'wall_seconds': seconds.wall,
      'ratio': slow.wall / seconds.wall,
      'cpu_seconds': seconds.cpu,
      'cpu_ratio': slow.cpu / seconds.cpu,
      'flops_ratio': flops_saved(model, segment, count)
      if name == REUSED
      else 1.0,
    }
    for name, seconds in found.items()
  ]


def flops_saved(model: Decoder, segment: int, rows: int) -> float:
  """Operations of both carriers on paper, as a ratio."""
  anew = flops.count(model, segment, rows)
  # Relative keys made once are shared by rows without number.
  once = flops.count(model, segment, 10**12)
  return (anew.forward + anew.reprojection) / once.forward


def _reader(model: Decoder, params: Params, scores, rows, segment):
  """Reads the rows once, segment by segment, from an empty memory.

  Shapes are static: an empty memory costs as much as a full one.
  """
  variables = {'params': params}

  @jax.jit
  def read(carry, tokens, targets, document):
    def one(carry, inputs):
      tokens, targets, document = inputs
      at = segment_coords(document)
      hidden, carry, _ = model.apply(variables, tokens, at, carry, scores)
      return carry, model.apply(variables, hidden, targets, method='nll')

    segments = split((tokens, targets, document), segment)
    return scan_segments(one, carry, segments)

  carry = model.initial(len(rows.tokens))
  arrays = rows.tokens, rows.targets, rows.document
  return functools.partial(read, carry, *arrays)


def carrier_heading() -> str:
  return f'What memory holds: model {WIDE.value}, segment 80, memory 2,100'


def carrier_table(found: list[dict]) -> str:
  columns = ('', 'tokens/s', 'wall s', 'ratio', 'CPU s', 'ratio', 'FLOPs ratio')
  return timing.table(columns, [list(record.values()) for record in found])


def _frontier(rounds: int) -> list[dict]:
  loaded = lctx.load(WORKDIR.value)
  text = frontier.held_out(loaded, WORKDIR.value, ROWS.value, TOKENS.value)
  found = frontier.measure(loaded, text, rounds)
  title = (
    f'{text.tokens.size:,} tokens of {len(text.tokens)} held-out documents, '
    f'model of step {loaded.step:,}'
  )
  print(f'\n{title}\n\n{frontier.table(found)}')
  frontier.picture(found, title, PICTURE.value)
  print(f'\nwrote {PICTURE.value}')
  return found


if __name__ == '__main__':
  timing.run(main)
