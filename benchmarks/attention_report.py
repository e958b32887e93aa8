"""What was found about attention: tables, notes and a picture."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from benchmarks import timing
from benchmarks.attention_times import COMPARED, WAYS

COLORS = ('#000000', '#999999', '#0072B2', '#D55E00', '#009E73', '#CC79A7')
QUANTITIES = {'seconds': 'seconds', 'temporary_mib': 'MiB'}
Records = Sequence[Mapping]


def table(records: Records) -> str:
  """A line for each length and kernel; "both" is forward and backward."""
  ratios = [f'ratio_to_{name}' for name in COMPARED]
  names = ['seconds', *ratios, 'temporary_mib', 'compile_seconds']
  columns = ['']
  for way in WAYS:
    columns += [f'{way} s', *(f'/ {name}' for name in COMPARED)]
    columns += ['MiB', 'compile s']
  rows = [
    [
      f'{ways["forward"]["length"]:,} {ways["forward"]["kernel"]}',
      *(ways[way][name] for way in WAYS for name in names),
    ]
    for ways in _by_way(records)
  ]
  return timing.table(columns, rows)


def doublings(records: Records) -> str:
  """By what time and memory grow when the length doubles, if any does."""
  known = {(r['kernel'], r['length'], r['way']): r for r in records}
  rows = []
  for kernel, length in dict.fromkeys((k, n) for k, n, _ in known):
    if (kernel, 2 * length, 'both') not in known:
      continue
    row = [f'{length:,} to {2 * length:,} {kernel}']
    for way in WAYS:
      short, long = (known[kernel, n, way] for n in (length, 2 * length))
      row += [
        _quotient(long[x], short[x]) for x in ('seconds', 'temporary_mib')
      ]
    rows.append(row)
  if not rows:
    return ''
  columns = ['times', 'forward s', 'MiB', 'both s', 'MiB']
  return '\n\n' + timing.table(columns, rows)


def notes(records: Records, refused: Mapping[str, str | None]) -> str:
  """Why there is no time: of programs, and of whole kernels."""
  lines = [
    f'{record["kernel"]}, {record["length"]:,}, {record["way"]}: not run, '
    f'for it {record["not_run"]}.'
    for record in records
    if record['not_run']
  ]
  lines += [
    f'{name}: left out, for {why}' for name, why in refused.items() if why
  ]
  return ''.join('\n' + line for line in ['', *lines]) if lines else ''


def picture(records: Records, title: str, path: str) -> None:
  """Draws time and memory, forward and backward, by length.

  Memory of programs that were compiled and not run is there too.
  """
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  patterns, scores, kernels = (
    list(dict.fromkeys(record[name] for record in records))
    for name in ('pattern', 'score', 'kernel')
  )
  lines = list(itertools.product(patterns, QUANTITIES))
  size = max(5, 1.5 + 2.2 * len(scores)), 1.2 + 2.1 * len(lines)
  figure = Figure(figsize=size, dpi=120, layout='constrained')
  FigureCanvasAgg(figure)
  grid = figure.subplots(
    len(lines), len(scores), sharex=True, sharey='row', squeeze=False
  )
  shown = {}
  for axes, (line, score) in zip(
    grid.flat, itertools.product(lines, scores), strict=True
  ):
    (pattern, quantity), colors = line, itertools.cycle(COLORS)
    for kernel, color in zip(kernels, colors):
      x, y = _curve(records, (pattern, score, kernel), quantity)
      if x:
        style = {'color': color, 'marker': 'o', 'markersize': 3}
        (shown[kernel],) = axes.plot(x, y, **style)
    axes.set_xscale('log', base=2)
    axes.set_yscale('log')
    axes.grid(alpha=0.3)
  for axes, score in zip(grid[0], scores, strict=True):
    axes.set_title(f'score: {score}', fontsize=10)
  for axes, (pattern, quantity) in zip(grid[:, 0], lines, strict=True):
    axes.set_ylabel(f'{pattern}: {QUANTITIES[quantity]}')
  lengths = sorted({record['length'] for record in records})
  for axes in grid[-1]:
    axes.set_xlabel('tokens')
    axes.set_xticks(lengths, [f'{n:,}' for n in lengths], rotation=90)
    axes.set_xticks([], minor=True)
  figure.suptitle(title, fontsize=9)
  below = {'loc': 'outside lower center', 'ncols': 6, 'frameon': False}
  figure.legend(shown.values(), shown, **below)
  figure.savefig(path)


def title(found: Mapping) -> str:
  """Of the picture: what was measured, and where."""
  flags, about = found['flags'], found['machine']
  return (
    f'Attention forward and backward: {flags["heads"]} heads of '
    f'{flags["width"]}, rows: {flags["rows"]}, {flags["dtype"]}; window: '
    f'{flags["window"]}\n{about["device"]}, jax {about["jax"]}, {about["date"]}'
  )


def _curve(records, place, quantity) -> tuple[list[int], list[float]]:
  points = [
    (record['length'], record[quantity])
    for record in records
    if (record['pattern'], record['score'], record['kernel']) == place
    and record['way'] == 'both'
    and record[quantity]
  ]
  return [x for x, _ in points], [y for _, y in points]


def _by_way(records: Records) -> Iterator[dict[str, Mapping]]:
  """The records of each kernel and length together."""
  for some in zip(*[iter(records)] * len(WAYS), strict=True):
    yield {record['way']: record for record in some}


def _quotient(long: float | None, short: float | None) -> float | None:
  return long / short if long and short else None
