"""Two trained models on the same held-out documents, by distance.

python -m benchmarks.twins --workdir=DIR --twin=DIR [--json=FILE]

The evidence that a memory is worth having: not only against itself with the
memory off, but against a twin that was trained without one, or in a longer
window of equal cost. Both read each document from its beginning, every token is
predicted once by each, and intervals resample the documents: what is drawn is
the difference, so the spread between documents does not hide it.
"""

import dataclasses
import itertools
from pathlib import Path

from absl import flags

import lctx
from benchmarks import timing
from lctx import data
from lctx.evaluation.gain import Comparison, Stretch, compare
from lctx.evaluation.rows import by_document
from lctx.evaluation.score import Scorer
from lctx.evaluation.tally import Tally
from lctx.loaded import Loaded
from lctx.prepared import store_folder

COLUMNS = ('distance', 'docs', 'model', 'twin', 'twin - model', '95% interval')


def compared(
  first: Loaded, second: Loaded, folder: Path, tokens: int
) -> Comparison:
  """The twin takes the place of 'none': what the first model gains over it.

  Raises UserError where the two do not read the same tokens.
  """
  lanes, settings = first.config.data, first.config.eval
  if first.codec.hash != second.codec.hash:
    raise lctx.UserError(
      'The two models have different tokenizers, so their tokens cannot be '
      'compared one by one. Compare the bits per byte of eval.py instead.'
    )
  home = store_folder(first.config, folder)
  store = data.open_store(lanes.corpus, first.codec, settings.split, home)
  tally, readings = Tally(lanes.segment), []
  pieces = by_document(store, settings.rows, lanes.segment, tokens)
  for loaded, some in zip((first, second), itertools.tee(pieces)):
    segment = loaded.config.data.segment
    readings.append(Scorer(loaded.model, loaded.params, segment)(some))
  for (rows, ours), (_, theirs) in zip(*readings, strict=True):
    nats = {'own': ours['own'], 'none': theirs['own']}
    tally.add(rows, first.codec.num_bytes[rows.targets], nats)
  return compare(tally)


def table(found: Comparison) -> str:
  rows = [_row(f'{s.first:,} to {s.end - 1:,}', s) for s in found.bins]
  return timing.table(COLUMNS, [_row('past the first', found.past), *rows])


def _row(name: str, stretch: Stretch) -> list[object]:
  gain = stretch.gain
  interval = None
  if gain.low is not None:
    interval = f'{gain.low:+.3f}..{gain.high:+.3f}'
  ours, theirs = stretch.own.bits_per_byte, stretch.none.bits_per_byte
  return [
    *(name, stretch.documents, f'{ours.value:.3f}', f'{theirs.value:.3f}'),
    *(f'{gain.value:+.3f}', interval),
  ]


def program() -> None:
  """The command line; its flags are defined only where it is the program."""
  workdir = flags.DEFINE_string('workdir', None, 'What train.py was given.')
  twin = flags.DEFINE_string('twin', None, 'The workdir of the other model.')
  tokens = flags.DEFINE_integer('tokens', 200_000, 'How many to predict.', 1)
  path = flags.DEFINE_string('json', '', 'A file for all that was found.')

  def main() -> None:
    both = [lctx.load(folder) for folder in (workdir.value, twin.value)]
    found = compared(*both, Path(workdir.value), tokens.value)
    print(timing.heading(timing.machine()))
    for name, loaded in zip(('model', 'twin'), both, strict=True):
      segment, memory = loaded.config.data.segment, loaded.model.memory.length
      print(f'{name}: step {loaded.step:,}, segment {segment}, memory {memory}')
    print(f'\nBits per byte\n{table(found)}')
    timing.save_json(dataclasses.asdict(found), path.value)

  timing.run(main, required=[workdir, twin])


if __name__ == '__main__':
  program()
