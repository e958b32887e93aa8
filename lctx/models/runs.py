"""Which layers of a stack are alike, and how few of them are compiled."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from lctx.memory.base import Memory
from lctx.patterns.base import Pattern
from lctx.positions.base import Position
from lctx.types import Params


class Kind(NamedTuple):
  """In what layers may differ."""

  memory: Memory
  pattern: Pattern
  position: Position


class Run(NamedTuple):
  """Layers of one kind, whose parameters and carry are stacked."""

  path: tuple[str, ...]  # of their parameters
  kind: Kind
  layers: tuple[int, ...]  # of the model, counted from 0

  @property
  def memory(self) -> Memory:
    return self.kind.memory

  @property
  def depth(self) -> int:
    return len(self.layers)

  def of(self, params: Params) -> Params:
    """Their parameters, of those of the whole stack."""
    for name in self.path:
      params = params[name]
    return params

  def put(self, params: Params, own: Params) -> Params:
    """The parameters of the whole stack with other ones of these layers."""
    return _put(params, self.path, own)


class Turns(NamedTuple):
  """Runs whose layers take turns, one of each: they are one scan."""

  name: str
  runs: tuple[Run, ...]

  def joined(self, of_runs: Sequence[Any]) -> Any:
    """What is known of each run, as the scan has it."""
    return tuple(of_runs) if len(self.runs) > 1 else of_runs[0]

  def parted(self, joined: Any) -> Sequence[Any]:
    """The way back."""
    return joined if len(self.runs) > 1 else (joined,)


def turns_of(kinds: tuple[Kind, ...]) -> tuple[Turns, ...]:
  """The layers of a stack, in the order in which they are read.

  Layers of one kind, one after the other, are a scan over one compiled layer.
  Where kinds come back in a period (five with a window, then one without) a
  scan over the period is taken, if fewer layers are compiled so.
  """
  alike = _alike(range(len(kinds)), kinds)
  best, period = alike, None
  for size in range(2, len(kinds) // 2 + 1):
    if any(a != b for a, b in zip(kinds, kinds[size:])):
      continue
    rest = len(kinds) - len(kinds) % size
    taken = [tuple(range(i, rest, size)) for i in range(size)]
    after = _alike(range(rest, len(kinds)), kinds)
    if size + len(after) < len(best):
      best, period = [*taken, *after], size
  groups = [[layers] for layers in best]
  if period:
    groups = [best[:period], *([layers] for layers in best[period:])]
  found = []
  for i, group in enumerate(groups):
    name = 'layers' if len(groups) == 1 else f'layers_{i}'
    inner = [(f'turn_{j}',) for j in range(len(group))]
    paths = [()] if len(group) == 1 else inner
    runs = (
      Run((name, *path), kinds[layers[0]], layers)
      for path, layers in zip(paths, group)
    )
    found.append(Turns(name, tuple(runs)))
  return tuple(found)


def _alike(layers, kinds) -> list[tuple[int, ...]]:
  groups = itertools.groupby(layers, key=lambda layer: kinds[layer])
  return [tuple(same) for _, same in groups]


def _put(tree: Any, path: tuple[str, ...], value: Any) -> Any:
  if not path:
    return value
  name, *rest = path
  return {**tree, name: _put(tree[name], tuple(rest), value)}
