"""What users choose from: bits per byte against tokens per second.

A trained model reads the same held-out text with its memory, at several
segments and memories, and in windows, at several strides.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import timing
from benchmarks.windows import Windows
from lctx import data
from lctx.errors import UserError
from lctx.evaluation.rows import Rows
from lctx.evaluation.score import Evaluation, Scorer
from lctx.loaded import Loaded
from lctx.prepared import store_folder

STRIDES = (256, 64, 16, 1)
COLUMNS = ('', 'bits per byte', 'tokens/s', 'wall s', 'CPU s')


@dataclasses.dataclass(frozen=True)
class Text:
  """The beginnings of held-out documents, [B, n] each; all counts."""

  tokens: np.ndarray
  targets: np.ndarray
  num_bytes: int  # that the targets stand for

  @property
  def rows(self) -> Rows:
    shape = self.tokens.shape
    return Rows(
      tokens=self.tokens,
      targets=self.targets,
      document=np.zeros(shape, np.int32),
      weight=np.ones(shape, np.float32),
      distance=np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape),
      source=np.arange(shape[0], dtype=np.int32),
      other=None,
      opens=True,
    )


def held_out(loaded: Loaded, workdir: str, rows: int, length: int) -> Text:
  """The first `length` tokens of `rows` test documents, spread evenly.

  Raises UserError where too few are so long.
  """
  folder = store_folder(loaded.config, Path(workdir))
  store = data.open_store(
    loaded.config.data.corpus, loaded.codec, 'test', folder
  )
  enough = np.flatnonzero(np.diff(store.offsets) > length)
  if len(enough) < rows:
    raise UserError(
      f'--rows={rows} and --tokens={length} need as many test documents of '
      f'more than {length} tokens, and there are {len(enough)}. Lower one.'
    )
  chosen = enough[np.arange(rows) * len(enough) // rows]
  at = store.offsets[chosen][:, None] + np.arange(length + 1)
  ids = store.tokens[at].astype(np.int32)
  num_bytes = int(loaded.codec.num_bytes[ids[:, 1:]].sum())
  return Text(ids[:, :-1], ids[:, 1:], num_bytes)


def measure(loaded: Loaded, text: Text, rounds: int) -> list[dict]:
  """A record for every way of reading, timed in turns.

  `attention` is the farthest that a token sees, itself included.
  """
  segment, memory = loaded.config.data.segment, loaded.model.memory.length
  attention, length = segment + memory, text.tokens.shape[1]
  if attention > length:
    raise UserError(
      f'--tokens={length} is less than one window of {attention} tokens (the '
      'segment and the memory of the model). Give more.'
    )
  calls, kinds = {}, {}
  quarter = max(1, segment // 4)
  for now, before in dict.fromkeys(
    [
      (segment, memory),
      (quarter, attention - quarter),
      (segment, 2 * memory),
    ]
  ):
    name = f'memory: segment {now}, memory {before}'
    calls[name], kinds[name] = _recurrent(loaded, text, now, before), 'memory'
  windows = Windows(loaded.model, loaded.params, attention, batch=16)
  for stride in (s for s in STRIDES if s <= attention):
    name = f'windows of {attention}: stride {stride}'
    calls[name], kinds[name] = _strided(windows, text, stride), 'windows'
  nats: dict[str, float] = {}
  kept = {n: functools.partial(_keep, nats, n, c) for n, c in calls.items()}
  found = timing.interleaved(kept, rounds)
  return [
    {
      'name': name,
      'kind': kinds[name],
      'bits_per_byte': nats[name] / math.log(2) / text.num_bytes,
      'tokens_per_second': text.tokens.size / seconds.wall,
      'wall_seconds': seconds.wall,
      'cpu_seconds': seconds.cpu,
    }
    for name, seconds in found.items()
  ]


def _keep(nats, name, call):
  nats[name] = float(call().sum(dtype=np.float64))


def _recurrent(
  loaded: Loaded, text: Text, segment: int, memory: int
) -> Callable[[], np.ndarray]:
  model = Evaluation(memory=memory).model(loaded.model)
  scorer = Scorer(model, loaded.params, segment)
  return lambda: next(nats['own'] for _, nats in scorer([text.rows]))


def _strided(
  windows: Windows, text: Text, stride: int
) -> Callable[[], np.ndarray]:
  return lambda: windows.nats(text.tokens, text.targets, stride)


def table(found: list[dict]) -> str:
  rows = [
    [
      record['name'],
      f'{record["bits_per_byte"]:.4f}',
      record['tokens_per_second'],
      record['wall_seconds'],
      record['cpu_seconds'],
    ]
    for record in found
  ]
  return timing.table(COLUMNS, rows)


def picture(found: list[dict], title: str, path: str) -> None:
  """Draws the frontier: good is below, and fast is to the right."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(7, 4.5), dpi=150, layout='constrained')
  FigureCanvasAgg(figure)
  axes = figure.add_subplot()
  for kind, color, marker, side in (
    ('memory', '#0072B2', 'o', 'right'),
    ('windows', '#D55E00', 's', 'left'),
  ):
    some = [record for record in found if record['kind'] == kind]
    some.sort(key=lambda record: record['tokens_per_second'])
    x = [record['tokens_per_second'] for record in some]
    y = [record['bits_per_byte'] for record in some]
    axes.plot(x, y, color=color, marker=marker, label=kind)
    for line, record in enumerate(some):
      below = -12 * line - 18  # the points of memory lie close together
      axes.annotate(
        record['name'].partition(': ')[2],
        (record['tokens_per_second'], record['bits_per_byte']),
        xytext=(4, 5) if side == 'left' else (-24, below),
        ha=side,
        textcoords='offset points',
        fontsize=8,
      )
  axes.set_xscale('log')
  axes.margins(0.2)
  axes.set(title=title, xlabel='tokens per second', ylabel='bits per byte')
  axes.legend(frameon=False)
  figure.savefig(path)
