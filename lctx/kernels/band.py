"""How a text is laid out in a band: blocks of queries, each with its keys."""

import dataclasses

import jax
import jax.numpy as jnp

from lctx.kernels.source import Source
from lctx.types import EMPTY, Array, Coords


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
    before, after = (ceil(side, self.block) for side in reach)
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


def ceil(length: int, size: int) -> int:
  return -(-length // size)


def _fitted(x: Array, front: int, length: int, fill) -> Array:
  """`front` slots put before [B, n, ...], or taken, then `length` of it."""
  more = min(max(front, 0), length)
  x = x[:, max(-front, 0) :][:, : length - more]
  width = ((0, 0), (more, length - more - x.shape[1]))
  width += ((0, 0),) * (x.ndim - 2)
  return jnp.pad(x, width, constant_values=fill)
