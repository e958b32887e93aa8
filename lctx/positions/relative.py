"""Terms of logits by distance: one row for each distance, read by a shift."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from lctx.positions.base import Score, Tile
from lctx.positions.steps import Plus
from lctx.products import met_by_all
from lctx.types import Array, Coords, distance


@struct.dataclass
class Relative(Score):
  """Adds what the distance says: (q + v) . r + c, and u . k by rotation.

  Row p of `r_PNH` and `c_PN` is distance p - `ahead`; negative ones are of
  keys ahead. Distances past the ends use the rows there. Queries are scaled,
  so biases and c are scaled here. Any of the four may be None.
  """

  r_PNH: Array | None
  u_NH: Array | None
  v_NH: Array | None
  c_PN: Array | None
  scale: float = struct.field(pytree_node=False)
  ahead: int = struct.field(pytree_node=False, default=0)

  def rotate(self, q_BTNH, k_BSKH, q_at, k_at):
    return with_bias(q_BTNH, self.u_NH, self.scale), k_BSKH

  def block(self, s_NBTS, q_BTNH, q_at, k_at):
    if not _shiftable(q_at, k_at):
      row_1BTS = distance(q_at, k_at, 'position') + self.ahead
      if self.r_PNH is None:
        c_NP = self.c_PN.T * self.scale
        return s_NBTS + jnp.take(c_NP, row_1BTS[0], axis=1, mode='clip')
      rows = self.r_PNH, self.c_PN
      x_NBTP = by_distance(self, q_BTNH, rows, q_at.length)
      return s_NBTS + gathered(x_NBTP, row_1BTS)
    spread = self._spread(q_at, k_at)
    rows = jax.tree.map(spread.rows, (self.r_PNH, self.c_PN))
    x_NBTP = by_distance(self, q_BTNH, rows, q_at.length)
    x_NBTP = spread.repeated(x_NBTP, axis=-1)
    return s_NBTS + shifted(x_NBTP, k_at.length)

  def along(self, q_at, k_at):
    if not _shiftable(q_at, k_at):
      return self
    spread = self._spread(q_at, k_at, whole=True)
    r_PNH, c_PN = jax.tree.map(
      lambda x_P: spread.repeated(spread.rows(x_P), axis=0),
      (self.r_PNH, self.c_PN),
    )
    return RelativeRows(r_PNH, self.v_NH, c_PN, self.scale)

  def steps(self, q_BTNH, q_at, k_at):
    rows = self.along(q_at, k_at)
    c_PN = None if rows.c_PN is None else rows.c_PN * rows.scale
    if rows.r_PNH is None:
      return (Plus(c=c_PN),)
    qr_BTNH = with_bias(q_BTNH, rows.v_NH, rows.scale)
    return (Plus(qr_BTNH, rows.r_PNH, c_PN),)

  def of_heads(self, heads_N):
    def some(x, axis):
      if x is None or x.shape[axis] == 1:  # all heads share it
        return x
      return jnp.take(x, heads_N, axis=axis)

    return self.replace(
      r_PNH=some(self.r_PNH, 1),
      c_PN=some(self.c_PN, 1),
      u_NH=some(self.u_NH, 0),
      v_NH=some(self.v_NH, 0),
    )

  def _spread(self, q_at, k_at, whole=False):
    rows = jax.tree.leaves((self.r_PNH, self.c_PN))[0].shape[0]
    return spread_of(q_at, k_at, rows, self.ahead, whole or self.ahead > 0)


@struct.dataclass
class RelativeRows(Score):
  """`Relative` along one source: from row to row a step less, after the first.

  So a tile needs rows that lie together, one more than its sides are long.
  """

  r_PNH: Array | None
  v_NH: Array | None
  c_PN: Array | None
  scale: float = struct.field(pytree_node=False)

  def block(self, s_NBTS, q_BTNH, q_at, k_at):
    rows = self.r_PNH, self.c_PN
    x_NBTP = by_distance(self, q_BTNH, rows, q_at.length)
    return s_NBTS + shifted(x_NBTP, k_at.length)

  def cut(self, tile):
    start, count = _rows(tile)

    def cut(x_P):
      return jax.lax.dynamic_slice_in_dim(x_P, start, count)

    r_PNH, c_PN = jax.tree.map(cut, (self.r_PNH, self.c_PN))
    return self.replace(r_PNH=r_PNH, c_PN=c_PN)

  def put(self, total, part, tile):
    start, count = _rows(tile)

    def add(total_P, part_P):
      part_P += jax.lax.dynamic_slice_in_dim(total_P, start, count)
      return jax.lax.dynamic_update_slice_in_dim(total_P, part_P, start, 0)

    r_PNH, c_PN = jax.tree.map(
      add, (total.r_PNH, total.c_PN), (part.r_PNH, part.c_PN)
    )
    v_NH = jax.tree.map(jnp.add, total.v_NH, part.v_NH)
    return total.replace(r_PNH=r_PNH, v_NH=v_NH, c_PN=c_PN)


class Spread(NamedTuple):
  """Which rows the distances of a source use, from the longest down."""

  far: int  # distances that use the last row
  start: int  # rows that are used once each: from `start` to `stop` - 1,
  stop: int
  step: int  # every `step`-th
  near: int  # distances that use the first row

  def rows(self, x_P: Array) -> Array:
    """The rows that occur, in order."""
    middle = jax.lax.slice_in_dim(x_P, self.start, self.stop, self.step)
    parts = [jnp.flip(middle, axis=0)]
    if self.far:
      parts.insert(0, x_P[-1:])
    if self.near:
      parts.append(x_P[:1])
    return jnp.concatenate(parts) if len(parts) > 1 else parts[0]

  def repeated(self, x: Array, axis: int) -> Array:
    """What was made of the rows, as often as their distances occur."""
    parts, size = [x], x.shape[axis]
    if self.far > 1:
      first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
      parts.insert(0, _times(first, self.far - 1, axis))
    if self.near > 1:
      last = jax.lax.slice_in_dim(x, size - 1, size, axis=axis)
      parts.append(_times(last, self.near - 1, axis))
    return jnp.concatenate(parts, axis=axis) if len(parts) > 1 else x


def spread_of(
  q_at: Coords, k_at: Coords, rows: int, ahead: int, whole: bool
) -> Spread:
  """For a table of `rows`, of which the first `ahead` are of keys ahead.

  `whole`: one row for each distance that occurs, and one more. Else what lies
  ahead of a query has no row: garbage, for the mask to hide.
  """
  step, longest = q_at.step, rows - 1 - ahead
  highest = q_at.start + step * (q_at.length - 1) - k_at.start
  count = q_at.length + k_at.length
  if not whole:
    count = max(highest // step + 1, k_at.length) + 1
  far = min(max(-(-(highest - longest) // step), 0), count)
  top = highest - far * step + ahead  # the first row that is used once
  middle = min(max(top // step + 1, 0), count - far)
  start = top - (middle - 1) * step if middle else 0
  stop = top + 1 if middle else 0
  return Spread(far, start, stop, step, count - far - middle)


def steps_along(q_at: Coords, k_at: Coords) -> Array:
  """The distance of each row of `RelativeRows`: int32 [T + S]."""
  longest = q_at.start + q_at.step * (q_at.length - 1) - k_at.start
  rows = jnp.arange(q_at.length + k_at.length, dtype=jnp.int32)
  return longest - q_at.step * rows


def by_distance(score, q_BTNH: Array | None, rows, length: int) -> Array:
  """What each query thinks of each row: float32 [N, B or 1, T, P]."""
  r_PNH, c_PN = rows
  if r_PNH is None:
    c_NP = c_PN.T * score.scale
    return jnp.broadcast_to(
      c_NP[:, None, None], (c_NP.shape[0], 1, length, c_NP.shape[1])
    )
  q_BTNH = with_bias(q_BTNH, score.v_NH, score.scale)
  x_NBTP = met_by_all(q_BTNH, r_PNH.astype(q_BTNH.dtype))
  if c_PN is None:
    return x_NBTP
  return x_NBTP + (c_PN * score.scale).T[:, None, None, :]


def gathered(x_NBTP: Array, row_1BTS: Array) -> Array:
  """x[..., i, row(i, j)], clipped to the table: any coordinates."""
  clipped = jnp.clip(row_1BTS, 0, x_NBTP.shape[-1] - 1)
  batch = max(x_NBTP.shape[1], clipped.shape[1])
  x_NBTP, clipped = (
    jnp.broadcast_to(x, (x.shape[0], batch, *x.shape[2:]))
    for x in (x_NBTP, clipped)
  )
  return jnp.take_along_axis(x_NBTP, clipped, axis=-1)


def shifted(x_NBTP: Array, keys: int) -> Array:
  """out[..., i, j] = x at the distance from key j back to query i.

  Dai et al. 2019, appendix B. The columns of x are distances from the longest
  down, one more than are read, so cutting the flat rows one shorter moves each
  by one more than the row before.
  """
  heads, batch, queries, columns = x_NBTP.shape
  width = columns - 1
  flat = x_NBTP.reshape(heads, batch, queries * columns)
  flat = flat[..., queries - 1 : queries - 1 + queries * width]
  return flat.reshape(heads, batch, queries, width)[..., :keys]


def _rows(tile: Tile):
  """The first row that a tile needs, and how many."""
  start = tile.length - tile.queries - tile.query + tile.key
  return start, tile.queries + tile.keys


def _shiftable(q_at: Coords, k_at: Coords) -> bool:
  return None not in (q_at.start, k_at.start) and q_at.step == k_at.step


def with_bias(q_BTNH, bias_NH, scale) -> Array:
  """Queries, which are scaled already, with a bias that is not."""
  if bias_NH is None:
    return q_BTNH
  return q_BTNH + (bias_NH * scale).astype(q_BTNH.dtype)[None, None]


def _times(x: Array, count: int, axis: int) -> Array:
  shape = list(x.shape)
  shape[axis] = count
  return jnp.broadcast_to(x, shape)
