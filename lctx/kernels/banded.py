"""Attention in a band: the cost of a window, whatever the length.

Queries are cut into blocks, and each block becomes a row of its own with the
keys that its window reaches; dilated heads are first parted by the remainder
of the index, so that a gap becomes a step of one. What is left is `Dense` on
short rows, some at a time: O(T x window) in time, O(T + window^2) in memory.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lctx.kernels.band import Band, ceil
from lctx.kernels.base import Kernel
from lctx.kernels.chunked import Chunked
from lctx.kernels.dense import Dense
from lctx.kernels.dropout import Dropout
from lctx.kernels.source import Source, rotated
from lctx.types import Array


@dataclasses.dataclass(frozen=True)
class Banded(Kernel):
  """For patterns whose reach has an end on both sides.

  `block` queries share the keys of a row; None = half of the window. As many
  rows of all texts are met at a time as have `at_once` MiB of logits, but at
  least one of each: what is small stays in the caches of a CPU, other devices
  want more. Where that takes several turns, the backward pass makes each again.
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
    if not 0 < self.at_once < math.inf:
      raise ValueError(
        f'model.compute.kernel.at_once = {self.at_once} is the MiB of logits '
        'that exist at a time and must be a finite number above 0.'
      )

  def check(self, pattern):
    if None in pattern.reach:
      raise ValueError(
        'model.compute.kernel = banded needs a pattern with an end on both '
        f'sides, such as window or dilated, but that of the model, {pattern}, '
        f'has reach {pattern.reach}. Use model.compute.kernel=chunked.'
      )

  def check_far(self, patterns, memory):
    if any(None in pattern.reach for pattern in patterns):
      raise ValueError(
        'model.compute.kernel = banded needs an end on both sides of what is '
        f'seen, but of model.memory = {memory} all is. Use '
        'model.compute.kernel=chunked.'
      )

  def for_decoding(self):
    return Chunked()

  def __call__(self, sources, dropout):
    for source in sources:
      self.check(source.pattern)
      assert None not in (source.q_at.start, source.k_at.start)
    gaps = sources[0].pattern.stride or (1,) * sources[0].q.shape[2]
    assert all(s.pattern.stride == sources[0].pattern.stride for s in sources)
    sources = tuple(map(_rotated_once, sources))
    parts, order = [], []
    for gap in sorted(set(gaps)):
      heads = np.flatnonzero(np.array(gaps) == gap)
      some = sources if len(heads) == len(gaps) else _of_heads(sources, heads)
      part = self._attend(some, dropout, gap)
      if part.shape[2] != len(heads):
        raise TypeError(
          f'Of {len(heads)} heads {part.shape[2]} came out: one of the scores '
          f'{sources[0].scores} has something for each head and no of_heads.'
        )
      parts.append(part)
      order.extend(heads)
    if len(parts) == 1:
      return parts[0]
    return jnp.concatenate(parts, axis=2)[:, :, np.argsort(order)]

  def _attend(self, sources, dropout: Dropout | None, gap: int) -> Array:
    """For heads that see every `gap`-th key."""
    batch, queries, heads, _ = sources[0].q.shape
    reaches = [[side // gap for side in s.pattern.reach] for s in sources]
    lead = (sources[0].q_at.start - sources[0].k_at.start) % gap
    length = ceil(lead + queries, gap)
    block = self.block or max(16, ceil(max(map(sum, reaches)), 2))
    block = min(block, length)
    blocks = ceil(length, block)
    keys = block * sum(1 + sum(ceil(n, block) for n in r) for r in reaches)
    logits = 4 * batch * gap * heads * block * keys
    turn = _at_a_time(blocks, int(self.at_once * 2**20 / logits))
    band = Band(gap, lead, block, turn, ceil(blocks, turn))
    rows = tuple(
      band.rows(source, reach) for source, reach in zip(sources, reaches)
    )
    if dropout is not None:
      number = jnp.arange(batch) if dropout.rows is None else dropout.rows
      dropout = dropout.replace(rows=band.repeated(number))
    return band.whole(_in_turns(rows, dropout), queries)


def _at_a_time(blocks: int, most: int) -> int:
  """Blocks of a turn, near `most`, so that few of the last are empty."""
  most = min(max(1, most), blocks)
  sizes = range(most, most // 2, -1)
  return min(sizes, key=lambda size: ceil(blocks, size) * size)


def _in_turns(rows: tuple[Source, ...], dropout: Dropout | None) -> Array:
  """`Dense` of one turn after another: [turns, rows, block, N, H]."""

  def dense(given):
    cut, number = given
    sources = (
      part.replace(scores=source.scores, heads=source.heads)
      for part, source in zip(cut, rows, strict=True)
    )
    return Dense()(tuple(sources), dropout and dropout.replace(rows=number))

  cut = tuple(source.replace(scores=(), heads=None) for source in rows)
  turns = cut, dropout and dropout.rows
  if len(rows[0].q) == 1:
    return dense(jax.tree.map(lambda x: x[0], turns))[None]
  return jax.lax.map(jax.checkpoint(dense, prevent_cse=False), turns)


def _rotated_once(source: Source) -> Source:
  """Rotated already, if its scores do no more: keys lie in several rows."""
  if not all(score.only_rotates for score in source.scores):
    return source
  q_BTNH, k_BSKH = rotated(source)
  return source.replace(q=q_BTNH, k=k_BSKH, scores=())


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
