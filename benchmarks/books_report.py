"""What `benchmarks.books` found, as tables, verdicts and a picture.

Gains are in bits per byte, positive where memory helps; intervals (95 %)
resample books.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot

from benchmarks import timing

RESAMPLES = 10_000
FAR = '2 beyond', '2 beyond, forgotten'  # what must help
DISTANCES = 1, 2, 4, 8  # segments beyond the reach
PLACES = 0, 8, 16, 32, 64, 128  # segments of the book, from one to the next
BY_DISTANCE = (
  *('memory', 'seed', 'against', 'all'),
  *(f'{n} beyond' for n in DISTANCES),
)
BY_PLACE = (
  *('memory', 'seed', 'against', 'all'),
  *(f'{a} to {b}' for a, b in itertools.pairwise(PLACES)),
)
COSTS = 'memory', 'seed', 'reach', 'steps', 'seconds', 'bits/byte'
AGAINST = 'memory', 'seed', 'MFLOPs', 'best plain', 'gain over it', ''


@dataclasses.dataclass(frozen=True)
class Gain:
  """Of a memory over something else, and its interval over books."""

  value: float
  low: float
  high: float

  def __str__(self) -> str:
    return f'{self.value:+.4f} ({self.low:+.4f}..{self.high:+.4f})'


def gain(theirs: list[float], ours: list[float]) -> Gain:
  """Of bits per byte, a number a book."""
  books = np.subtract(theirs, ours)
  drawn = np.random.default_rng(0).integers(
    len(books), size=(RESAMPLES, len(books))
  )
  low, high = np.quantile(books[drawn].mean(axis=1), [0.025, 0.975])
  return Gain(float(books.mean()), float(low), float(high))


def of_way(found: dict, name: str) -> Gain:
  """What its own memory gains over another way of reading."""
  way = found['ways'][name]
  return gain(way['bits'], found['own'][str(way['period'])])


def rivals(found: dict, every: list[dict]) -> list[dict]:
  """Plain models of its seed, from the twin to the first that costs as much."""
  plain = [x for x in every if not x['ways'] and x['seed'] == found['seed']]
  plain.sort(key=lambda x: x['flops'])
  cheap = sum(x['flops'] < found['flops'] for x in plain)
  return plain[: cheap + 1]


def rival(found: dict, every: list[dict]) -> dict | None:
  """The best of them."""
  some = rivals(found, every)
  return min(some, key=lambda x: np.mean(x['own']['1']), default=None)


def over(found: dict, plain: dict | None) -> Gain | None:
  """What a memory gains over a model without one."""
  return plain and gain(plain['own']['1'], found['own']['1'])


def by_distance(found: dict) -> dict[str, list[Gain]]:
  """What text is worth that lies so far beyond the reach, and all of it."""
  far = [f'{n} beyond' for n in DISTANCES]
  return {
    "another's": [of_way(found, name) for name in ('swap', *far)],
    'none': [
      of_way(found, name)
      for name in ('none', *(f'{name}, forgotten' for name in far))
    ],
  }


def by_place(found: dict, every: list[dict]) -> dict[str, list[Gain]]:
  """Gains over models without memory: in all, and by place in the book."""
  others = {'twin': twin_of(found, every), 'best plain': rival(found, every)}
  return {
    name: [
      over(found, other),
      *(gain(other['places'][p], found['places'][p]) for p in other['places']),
    ]
    for name, other in others.items()
    if other
  }


def twin_of(found: dict, every: list[dict]) -> dict | None:
  """The model without memory, from the same seed."""
  twins = (x for x in every if x['model'] == 'none')
  return next((x for x in twins if x['seed'] == found['seed']), None)


def verdict(found: dict, every: list[dict]) -> str:
  """'helps', 'runs, does not help yet', or '' where a model has to decide."""
  plain = rivals(found, every)
  lows = [of_way(found, name).low for name in FAR]
  lows += [over(found, x).low for x in plain]
  if not all(low > 0 for low in lows):
    return 'runs, does not help yet'
  is_met = any(x['flops'] >= found['flops'] for x in plain)
  return 'helps' if is_met and twin_of(found, every) else ''


def decided(name: str, every: list[dict]) -> str:
  """A verdict on a memory: it helps where every training of it does.

  One that does not decides, whatever is not known of the others.
  """
  found = {verdict(x, every) for x in every if x['model'] == name}
  return max(found - {'helps'}, default='helps')


def table(every: list[dict]) -> str:
  """Bits and gains of all models that remember, and bits of the others."""
  costly, far, near, against, plain = [], [], [], [], []
  for x in every:
    bits = f'{np.mean(x["own"]["1"]):.4f}'
    costs = x['flops'] / 1e6
    if not x['ways']:
      plain.append(
        (x['model'], x['seed'], x['steps'], x['seconds'], bits, costs)
      )
      continue
    best = rival(x, every)
    training = x['reach'], x['steps'], x['seconds'], bits
    costly.append((x['model'], x['seed'], *training))
    for rows, found in ((far, by_distance(x)), (near, by_place(x, every))):
      rows += [(x['model'], x['seed'], *pair) for pair in _lines(found)]
    against.append(
      (
        *(x['model'], x['seed'], costs, best and best['model']),
        *(over(x, best), verdict(x, every)),
      )
    )
  without = 'without memory', *COSTS[1:2], *COSTS[3:], 'MFLOPs'
  return '\n\n'.join(
    timing.table(columns, rows)
    for columns, rows in (
      (COSTS, costly),
      (BY_DISTANCE, far),
      (BY_PLACE, near),
      (AGAINST, against),
      (without, plain),
    )
  )


def _lines(found: dict[str, list[Gain]]) -> list[tuple]:
  return [(other, *gains) for other, gains in found.items()]


def pictured(every: list[dict], path: str) -> None:
  """Two pictures, by distance and, `_by_place`, against models without it."""
  found = [x for x in every if x['ways']]
  if not path or not found:
    return
  place = Path(path).with_stem(f'{Path(path).stem}_by_place')
  _panels(
    *(found, [by_distance(x) for x in found], DISTANCES, path),
    title='What text beyond a distance is worth: its own book in memory, '
    "against another's and none",
    label='segments beyond what attention reaches',
    straight=1e-3,
  )
  _panels(
    *(found, [by_place(x, every) for x in found], PLACES[1:], str(place)),
    title='What a memory saves against models without one',
    label='segments of the book that were read, the last counted',
  )


def _panels(
  models: list[dict],
  gains: list[dict[str, list[Gain]]],
  at: Sequence[int],
  path: str,
  *,
  title: str,
  label: str,
  straight: float | None = None,
) -> None:
  """A panel a model; the first gain of each line is of all, and no point.

  Gains above `straight`, if that is given, stand on a scale of their logs.
  """
  matplotlib.use('Agg')
  columns = min(4, len(models))
  rows = -(-len(models) // columns)
  figure, axes = pyplot.subplots(
    *(rows, columns),
    figsize=(1 + 2.6 * columns, 1 + 2.3 * rows),
    sharex=True,
    sharey=True,
    squeeze=False,
    layout='constrained',
    dpi=150,
  )
  for panel in axes.flat[len(models) :]:
    panel.set_axis_off()
  for panel in axes.flat[: len(models)][-columns:]:  # nothing stands below
    panel.xaxis.set_tick_params(labelbottom=True)
  for panel, model, lines in zip(axes.flat, models, gains):
    for shift, (other, (_, *found)) in enumerate(lines.items()):
      where = np.array(at) * 1.06**shift  # so that none hides another
      middle = np.array([g.value for g in found])
      low, high = ([getattr(g, e) for g in found] for e in ('low', 'high'))
      ends = [middle - low, high - middle]
      panel.errorbar(where, middle, ends, marker='.', capsize=2, label=other)
    panel.axhline(0, color='0.6', linewidth=1)
    panel.set_title(f'{model["model"]}, seed {model["seed"]}', fontsize=9)
    panel.set_xscale('log', base=2)
    panel.set_xticks(at, map(str, at))
    if straight is not None:
      panel.set_yscale('symlog', linthresh=straight)
  axes.flat[0].legend(fontsize=7)
  figure.suptitle(title)
  figure.supxlabel(label)
  figure.supylabel('bits per byte saved')
  figure.savefig(path)
  pyplot.close(figure)
  print(f'wrote {path}')
