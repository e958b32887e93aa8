"""The pictures of a run: its curve, loss by distance, and gain by distance."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lctx.evaluation.gain import FEWEST, Comparison, Estimate, Stretch
from lctx.evaluation.report import Result

TRAIN, VALID = 'loss', 'valid/bits_per_token'  # in records; nats, bits
_STYLES = {  # Okabe and Ito's colours; lines differ without them, too
  'own': ('own memory', '#0072B2', '-', 'o'),
  'swap': ("another document's memory", '#D55E00', '--', 's'),
  'none': ('no memory', '#555555', ':', '^'),
}

_DWARFING = 16  # first tokens, whose loss would dwarf the rest in a picture


def curve(records: Iterable[Mapping], path: str | Path) -> None:
  """Training and validation loss by step, in bits per token.

  Of each record, `step` and whichever of TRAIN and VALID it has are read.
  """
  records = list(records)
  train = _series(records, TRAIN, 1 / math.log(2))
  valid = _series(records, VALID, 1.0)
  figure, axes = _open('Loss by step')
  if train:
    axes.plot(*zip(*train), color='#9DC6E0', linewidth=1)
    axes.plot(*zip(*_smooth(train)), color='#0072B2', label='training')
  if valid:
    axes.plot(
      *zip(*valid),
      color='#D55E00',
      linestyle='--',
      marker='o',
      label='validation',
    )
  axes.set(xlabel='step', ylabel='bits per token')
  axes.set_xlim(left=0)
  axes.xaxis.set_major_formatter('{x:,.0f}')
  _zoom(axes, [y for _, y in (_smooth(train) + valid)])
  if train or valid:
    _legend(axes)
  _save(figure, path)


def pictures(result: Result, folder: str | Path) -> list[Path]:
  """Draws what the result has into `folder`; the paths of its PNG files.

  Losses begin at a quarter of a segment: those of the first tokens, larger by
  far, would flatten the rest.
  """
  comparison, folder, drawn = result.comparison, Path(folder), []
  folder.mkdir(parents=True, exist_ok=True)
  for name in ('loss_by_distance.png', 'gain_by_distance.png'):
    (folder / name).unlink(missing_ok=True)  # of an evaluation before this
  segment = comparison.segment if comparison else None
  start = _DWARFING if segment is None else segment // 4
  if seen := [s for s in result.positions if s.first >= start]:
    drawn.append(folder / 'loss_by_distance.png')
    _draw_losses(_enough(seen), segment, drawn[-1])
  if comparison and comparison.bins and comparison.past.gain is not None:
    drawn.append(folder / 'gain_by_distance.png')
    _draw_gain(comparison, drawn[-1])
  return drawn


def _draw_losses(
  seen: Sequence[Stretch], segment: int | None, path: Path
) -> None:
  figure, axes = _open('Loss by distance into the document')
  for name in _STYLES:
    losses = [getattr(s, name) for s in seen]
    if all(loss is not None for loss in losses):
      bits = [loss.bits_per_byte for loss in losses]
      _draw(axes, seen, bits, _STYLES[name])
  _distance_axis(axes, segment)
  axes.set_ylabel('bits per byte')
  if len(axes.get_legend_handles_labels()[1]) > 1:
    _legend(axes)
  _save(figure, path)


def _draw_gain(comparison: Comparison, path: Path) -> None:
  seen = _enough(comparison.bins)
  figure, axes = _open('What its own memory saves, by distance')
  axes.axhline(0, color='black', linewidth=1)
  for name, field, label in (
    ('none', 'gain', 'against no memory'),
    ('swap', 'gain_over_swap', "against another document's memory"),
  ):
    gains = [getattr(s, field) for s in seen]
    if all(gain is not None for gain in gains):
      _, *style = _STYLES[name]
      _draw(axes, seen, gains, (label, *style))
  _distance_axis(axes, comparison.segment)
  axes.set_ylabel('bits per byte saved')
  _legend(axes)
  _save(figure, path)


def _draw(
  axes,
  stretches: Sequence[Stretch],
  estimates: Sequence[Estimate],
  style: tuple,
) -> None:
  """One line with its interval, over the middles of the bins."""
  label, color, line, marker = style
  points = [
    (_middle(s), e)
    for s, e in zip(stretches, estimates)
    if e.value is not None and math.isfinite(e.value)
  ]
  axes.plot(
    [x for x, _ in points],
    [e.value for _, e in points],
    color=color,
    linestyle=line,
    marker=marker,
    label=label,
  )
  shaded = [(x, e.low, e.high) for x, e in points if e.low is not None]
  if shaded:
    axes.fill_between(*zip(*shaded), color=color, alpha=0.15, linewidth=0)


def _distance_axis(axes, segment: int | None) -> None:
  axes.set_xscale('log', base=2)
  axes.xaxis.set_major_formatter('{x:,.0f}')
  axes.set_xlabel('tokens into the document (logarithmic)')
  if segment is None:
    return
  axes.axvline(segment, color='black', linewidth=1, linestyle=(0, (4, 3)))
  axes.annotate(
    'first segment ends',
    (segment, 1),
    xycoords=axes.get_xaxis_transform(),
    xytext=(4, -4),
    textcoords='offset points',
    va='top',
    fontsize=9,
  )


def _middle(stretch: Stretch) -> float:
  """Of the tokens first + 1 to end, counted from 1, on a logarithmic axis."""
  return math.sqrt((stretch.first + 1) * stretch.end)


def _enough(stretches: Sequence[Stretch]) -> Sequence[Stretch]:
  return [s for s in stretches if s.documents >= FEWEST] or stretches


def _series(records, name: str, scale: float) -> list[tuple[int, float]]:
  return [
    (record['step'], scale * record[name])
    for record in records
    if record.get(name) is not None and math.isfinite(record[name])
  ]


def _smooth(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
  """A mean over about 1/50 of the points on either side of each."""
  reach = len(points) // 50
  smooth = []
  for i, (step, _) in enumerate(points):
    near = [y for _, y in points[max(0, i - reach) : i + reach + 1]]
    smooth.append((step, sum(near) / len(near)))
  return smooth


def _zoom(axes, values: list[float]) -> None:
  """Leaves out the highest 3 in 100, so that a steep start hides nothing."""
  if not values:
    return
  low, high = min(values), sorted(values)[int(0.97 * (len(values) - 1))]
  space = max(high - low, 1e-3)
  axes.set_ylim(low - 0.1 * space, high + 0.15 * space)


def _legend(axes) -> None:
  """Above the axes, where it can hide no line."""
  axes.legend(
    loc='lower left',
    bbox_to_anchor=(0, 1),
    ncols=3,
    frameon=False,
    fontsize=11,
    borderaxespad=0.2,
    borderpad=0.2,
    columnspacing=1.5,
    handlelength=2.2,
  )


def _open(title: str):
  """A figure without a window, so that it works on any machine."""
  import matplotlib
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  with matplotlib.rc_context(
    {
      'font.size': 12,
      'axes.spines.top': False,
      'axes.spines.right': False,
      'axes.grid': True,
      'grid.color': '#E6E6E6',
      'axes.axisbelow': True,
      'lines.linewidth': 2,
      'lines.markersize': 4,
    }
  ):
    figure = Figure(figsize=(7, 4), dpi=150, layout='constrained')
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.02, horizontalalignment='left', fontsize=14)
    return figure, figure.add_subplot()


def _save(figure, path: str | Path) -> None:
  figure.savefig(path)
