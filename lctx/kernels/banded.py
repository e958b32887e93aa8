"""Attention in a band: the cost of a window, whatever the length.

Queries are cut into blocks, and each block becomes a row of its own with the
keys that its window reaches; dilated heads are first parted by the remainder
of the index, so that a gap becomes a step of one. What is left is `Dense` on
short rows, some at a time: O(T x window) in time, O(T) in memory.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lctx.kernels.base import Kernel
from lctx.kernels.chunked import Chunked
from lctx.kernels.dense import Dense
from lctx.kernels.dropout import Dropout
from lctx.kernels.source import Source, rotated
from lctx.types import EMPTY, Array, Coords

CUT = 'q', 'k', 'v', 'q_at', 'k_at'  # what a source has for every slot


@dataclasses.dataclass(frozen=True)
class Banded(Kernel):
  """For patterns whose reach has an end on both sides.

  `block` queries share the keys of a row; None = half of the window. Of each
  text as many rows are met at a time as have `at_once` MiB of logits, one at
  least; what is small stays in the caches of a CPU. The backward pass makes
  them again.
  """

  any_order: ClassVar[bool] = False

  block: int | None = None
  at_once: float = 4.0

  def __post_init__(self):
    if self.block is not None and self.block < 1:
      raise ValueError(
        f'model.compute.kernel.block = {self.block} counts queries and must be '
        'at least 1. Use none for half of the window.'
      )
    if self.at_once <= 0:
      raise ValueError(
        f'model.compute.kernel.at_once = {self.at_once} is the MiB of logits '
        'that exist at a time and must be above 0.'
      )

  def check(self, pattern):
    if None in pattern.reach:
      raise ValueError(
        'model.compute.kernel = banded needs a pattern with an end on both '
        f'sides, such as window or dilated, but that of the model, {pattern}, '
        f'has reach {pattern.reach}. Use model.compute.kernel=chunked.'
      )

  def for_decoding(self):
    return Chunked()

  def __call__(self, sources, dropout):
    for source in sources:
      self.check(source.pattern)
      assert None not in (source.q_at.start, source.k_at.start)
    gaps = sources[0].pattern.stride or (1,) * sources[0].q.shape[2]
    assert all(s.pattern.stride == sources[0].pattern.stride for s in sources)
    sources = tuple(map(_turned, sources))
    parts, order = [], []
    for gap in sorted(set(gaps)):
      heads = np.flatnonzero(np.array(gaps) == gap)
      some = sources if len(heads) == len(gaps) else _of_heads(sources, heads)
      parts.append(self._attend(some, dropout, gap))
      order.extend(heads)
    if len(parts) == 1:
      return parts[0]
    return jnp.concatenate(parts, axis=2)[:, :, np.argsort(order)]

  def _attend(self, sources, dropout: Dropout | None, gap: int) -> Array:
    """For heads that see every `gap`-th key."""
    batch, queries, heads, _ = sources[0].q.shape
    reaches = [[side // gap for side in s.pattern.reach] for s in sources]
    lead = (sources[0].q_at.start - sources[0].k_at.start) % gap
    length = _ceil(lead + queries, gap)
    block = self.block or max(16, _ceil(max(map(sum, reaches)), 2))
    block = min(block, length)
    blocks = _ceil(length, block)
    keys = block * sum(1 + sum(_ceil(n, block) for n in r) for r in reaches)
    logits = 4 * batch * gap * heads * block * keys
    turn = _turn(blocks, int(self.at_once * 2**20 / logits))
    band = Band(gap, lead, block, turn, _ceil(blocks, turn))
    rows = tuple(
      band.rows(source, reach) for source, reach in zip(sources, reaches)
    )
    if dropout is not None:
      number = jnp.arange(batch) if dropout.rows is None else dropout.rows
      dropout = dropout.replace(rows=band.repeated(number))
    return band.whole(_in_turns(rows, dropout), queries)


def _turn(blocks: int, most: int) -> int:
  """Blocks of a turn, near `most`, so that few of the last are empty."""
  most = min(max(1, most), blocks)
  sizes = range(most, most // 2, -1)
  return min(sizes, key=lambda size: _ceil(blocks, size) * size)


def _in_turns(rows: tuple[Source, ...], dropout: Dropout | None) -> Array:
  """`Dense` of one turn after another: [turns, rows, block, N, H]."""

  def dense(turn):
    parts, number = turn
    sources = (s.replace(**part) for s, part in zip(rows, parts, strict=True))
    return Dense()(tuple(sources), dropout and dropout.replace(rows=number))

  parts = [{name: getattr(source, name) for name in CUT} for source in rows]
  turns = parts, dropout and dropout.rows
  if len(rows[0].q) == 1:
    return dense(jax.tree.map(lambda x: x[0], turns))[None]
  return jax.lax.map(jax.checkpoint(dense, prevent_cse=False), turns)


@dataclasses.dataclass(frozen=True)
class Band:
  """How a text is laid out: [turns, B x remainders x blocks of a turn, block].

  The blocks of a turn are met at once. Texts stay side by side in each, so that
  devices that share them work side by side.
  """

  gap: int
  lead: int  # empty slots before the first query
  block: int  # queries
  turn: int  # blocks
  turns: int

  @property
  def blocks(self) -> int:
    return self.turn * self.turns

  def rows(self, source: Source, reach: list[int]) -> Source:
    """Every block of queries beside the blocks of keys it reaches."""
    before, after = (_ceil(side, self.block) for side in reach)
    size = self.block * self.gap
    ahead = source.q_at.start - self.lead - source.k_at.start  # of the queries
    span = (self.blocks + before + after) * size

    def of_queries(x, fill=0):
      x = _fitted(x, self.lead, self.blocks * size, fill)
      return self._rows(self._parted(x), 0, 0)

    def of_keys(x, fill=0):
      x = _fitted(x, before * size - ahead, span, fill)
      return self._rows(self._parted(x), before, after)

    return source.replace(
      q=of_queries(source.q),
      k=of_keys(source.k),
      v=of_keys(source.v),
      q_at=self._coords(source.q_at, of_queries, before * size),
      k_at=self._coords(source.k_at, of_keys, 0),
    )

  def repeated(self, number_B: Array) -> Array:
    """What is known of each text, for each of its rows."""
    number = jnp.repeat(number_B, self.gap * self.turn)
    return jnp.broadcast_to(number, (self.turns, *number.shape))

  def whole(self, y: Array, length: int) -> Array:
    """The rows of queries put together again: [B, length, N, H]."""
    heads = y.shape[-2:]
    y = y.reshape(self.turns, -1, self.turn * self.block, *heads)
    y = jnp.moveaxis(y, 0, 1).reshape(
      -1, self.gap, self.blocks * self.block, *heads
    )
    y = jnp.moveaxis(y, 1, 2).reshape(len(y), -1, *heads)
    return y[:, self.lead : self.lead + length]

  def _coords(self, at: Coords, laid, start: int) -> Coords:
    """Counted, in each row, from the first key of the row."""
    rows = jax.tree.map(laid, at)
    return rows.replace(
      document=laid(at.document, EMPTY), start=start, step=self.gap
    )

  def _parted(self, x: Array) -> Array:
    """[B, n, ...] to [B x gap, n / gap, ...]: a row for each remainder."""
    if self.gap == 1:
      return x
    x = x.reshape(x.shape[0], -1, self.gap, *x.shape[2:])
    return jnp.moveaxis(x, 2, 1).reshape(-1, x.shape[1], *x.shape[3:])

  def _rows(self, x: Array, before: int, after: int) -> Array:
    """Each block beside those before and after it, as a row."""
    x = x.reshape(x.shape[0], -1, self.block, *x.shape[2:])
    beside = [x[:, i : i + self.blocks] for i in range(before + 1 + after)]
    x = jnp.concatenate(beside, axis=2)
    x = x.reshape(len(x), self.turns, self.turn, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0).reshape(self.turns, -1, *x.shape[3:])


def _ceil(length: int, size: int) -> int:
  return -(-length // size)


def _turned(source: Source) -> Source:
  """Rotated already, if its scores do no more: keys lie in several rows."""
  if not all(score.only_rotates for score in source.scores):
    return source
  q_BTNH, k_BSKH = rotated(source)
  return source.replace(q=q_BTNH, k=k_BSKH, scores=())


def _fitted(x: Array, front: int, length: int, fill) -> Array:
  """`front` slots put before [B, n, ...], or taken, then `length` of it."""
  x = x[:, max(-front, 0) :][:, : length - max(front, 0)]
  back = length - max(front, 0) - x.shape[1]
  width = ((0, 0), (max(front, 0), back)) + ((0, 0),) * (x.ndim - 2)
  return jnp.pad(x, width, constant_values=fill)


def _of_heads(
  sources: tuple[Source, ...], heads: np.ndarray
) -> tuple[Source, ...]:
  """The sources as some of the heads see them."""

  def of_some(source):
    key = heads // (source.q.shape[2] // source.k.shape[2])
    return source.replace(
      q=source.q[:, :, heads],
      k=source.k[:, :, key],
      v=source.v[:, :, key],
      scores=tuple(score.of_heads(heads) for score in source.scores),
      heads=source.heads_N[heads],
    )

  return tuple(map(of_some, sources))
