"""Losses of several runs by step, side by side: a table and a picture.

python -m benchmarks.curves --run=WORKDIR [--run=...] --picture=FILE.png

A run is the workdir of train.py and goes by the name of its folder. Losses are
bits of each token that is predicted, in training as the mean since the last
that was logged; those of objectives that predict different things do not
compare.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

from absl import flags

import lctx
from benchmarks import timing
from lctx.evaluation.pictures import TRAIN, VALID

COLUMNS = 4


class Curve(NamedTuple):
  """Losses of a run in bits per token: by step, and on the test split."""

  name: str
  train: list[tuple[int, float]]
  valid: list[tuple[int, float]]
  test: float


def read(folder: Path) -> Curve:
  """Raises UserError for a folder in which no training has ended."""
  try:
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    units = json.loads((folder / 'eval.json').read_text())['units']
  except FileNotFoundError as error:
    raise lctx.UserError(
      f'--run={folder} has no {Path(error.filename).name}. Give the workdir of '
      'a training that has ended.'
    ) from error
  records = [json.loads(line) for line in lines]
  scales = {TRAIN: 1 / math.log(2), VALID: 1.0}
  train, valid = (
    [(x['step'], scale * x[key]) for x in records if x.get(key) is not None]
    for key, scale in scales.items()
  )
  if not train or not valid:
    raise lctx.UserError(
      f'--run={folder} has logged no finite loss of '
      f'{"training" if not train else "validation"}, so there is no curve.'
    )
  return Curve(folder.name, train, valid, units['bits_per_token'])


def table(curves: list[Curve]) -> str:
  """The first and last loss that was logged, the last validation, the test."""
  rows = []
  for name, train, valid, test in curves:
    (first, began), (last, ended) = train[0], train[-1]
    losses = [f'{x:.3f}' for x in (began, ended, valid[-1][1], test)]
    rows.append([name, f'{first:,} to {last:,}', *losses])
  columns = ['run', 'steps', 'training, first', 'last', 'validation', 'test']
  return timing.table(columns, rows)


def draw(curves: list[Curve], path: str) -> None:
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  rows = -(-len(curves) // COLUMNS)
  figure = Figure(figsize=(12, 2.6 * rows), dpi=120, layout='constrained')
  FigureCanvasAgg(figure)
  grid = figure.subplots(rows, COLUMNS, sharex=True, squeeze=False)
  for axes in grid.flat[len(curves) :]:
    axes.set_axis_off()
  for axes, curve in zip(grid.flat, curves):
    axes.plot(*zip(*curve.train), color='#0072B2', label='training')
    axes.plot(
      *zip(*curve.valid),
      'o--',
      color='#D55E00',
      label='validation',
      markersize=4,
    )
    axes.set_title(curve.name, loc='left')
    axes.grid(color='#E6E6E6')
    axes.spines[['top', 'right']].set_visible(False)
    axes.xaxis.set_major_formatter('{x:,.0f}')
  for axes in grid[-1]:
    axes.set_xlabel('step')
  for axes in grid[:, 0]:
    axes.set_ylabel('bits per token')
  grid[0, 0].legend(frameon=False)
  figure.savefig(path)


def program() -> None:
  """The command line; its flags are defined only where it is the program."""
  runs = flags.DEFINE_multi_string('run', None, 'Workdirs of trainings.')
  picture = flags.DEFINE_string('picture', None, 'A PNG file.')

  def main() -> None:
    curves = [read(Path(run)) for run in runs.value]
    draw(curves, picture.value)
    print(f'{table(curves)}\n\nwrote {picture.value}')

  timing.run(main, required=[runs, picture])


if __name__ == '__main__':
  program()
