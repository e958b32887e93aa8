"""One tile of the fused kernels for GPUs: its logits, and their gradient.

As in `flash_tiles`, T queries meet S keys and the T + S relative rows between
them. A tile may lie on its side, keys down and queries across: `axis` is the
one that queries run along.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from lctx.kernels.flash_tiles import (
  Found,
  Operands,
  Place,
  Upstream,
  changed,
  product,
  threefry,
)
from lctx.patterns.tables import LookUp
from lctx.positions.steps import Step
from lctx.types import MASKED, Array


class Tile(NamedTuple):
  """Of a problem: its row, head, block of queries and block of keys."""

  flash: Any
  x: Operands
  b: Array
  n: Array
  i: Array
  j: Array


class Strip(NamedTuple):
  """Memory of one program, in which the rows of a tile are shifted.

  Threads of a GPU hold parts of rows, and none can tell by how much to shift
  its part when compiling. So they write one way and read another, float32
  [T, R] in main memory: small enough to stay in cache. Column p holds relative
  row p modulo R, a power of two of at least T + S; between writing and reading
  all threads must `meet`.
  """

  memory: Array  # float32 [programs, T, R]
  program: Array
  interpret: bool

  def meet(self) -> None:
    if not self.interpret:  # which runs one step after the other
      plgpu.debug_barrier()

  def put(self, x_TS: Array, row: Array) -> None:
    """Relative rows from `row` on, straight."""
    self.memory[self.program, :, self._columns(row, x_TS.shape[1])] = x_TS

  def take(self, row: Array, more: int, keys: int, low, high) -> Array:
    """[T, S], straight: rows from `row` + `more` on of a tile put skewed.

    Zeros where the key of a query and a row, counted from the first key of the
    tile at `row`, is not from `low` to `high` - 1.
    """
    shape = self.memory.shape[1], keys
    t_TS, s_TS = (
      jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1)
    )
    key_TS = more + s_TS + t_TS - (shape[0] - 1)
    held_TS = (low <= key_TS) & (key_TS < high)
    here = self.memory.at[self.program, :, self._columns(row + more, keys)]
    return plgpu.load(here, mask=held_TS, other=0.0)

  def put_skewed(self, x_TS: Array, row: Array) -> None:
    """A tile whose window starts at `row`: what `take_skewed` gives."""
    self._skewed(row, x_TS.shape, 0)[...] = x_TS

  def take_skewed(self, row: Array, shape: tuple[int, int], axis: int) -> Array:
    """out[t, s] = x[t, T - 1 - t + s], with `row` as the first of x."""
    return self._skewed(row, shape, axis)[...]

  def _columns(self, row, keys):
    return pl.ds(pl.multiple_of(row & (self.memory.shape[2] - 1), keys), keys)

  def _skewed(self, row, shape, axis):
    column = (row + steps(shape, axis)) & (self.memory.shape[2] - 1)
    t = jax.lax.broadcasted_iota(jnp.int32, shape, axis)
    return self.memory.at[self.program, t, column]


def strips(flash, programs: int) -> jax.ShapeDtypeStruct:
  """Memory for the strips of all programs."""
  columns = pl.next_power_of_2(flash.queries + flash.keys)
  shape = programs, flash.queries, columns
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def warps(x: Operands) -> int:
  """That share a tile, of 32 threads each: few numbers then leave registers."""
  return 4 if max(x.q.shape[-1], x.v.shape[-1]) <= 64 else 8


def steps(shape: tuple[int, int], axis: int = 0) -> Array:
  """Relative rows from the first of a tile to each query and key's own."""
  t = jax.lax.broadcasted_iota(jnp.int32, shape, axis)
  s = jax.lax.broadcasted_iota(jnp.int32, shape, 1 - axis)
  return shape[axis] - 1 - t + s


def of_queries(tile: Tile, array) -> Array:
  """[T, H] of an array [B, N, T, H]."""
  return array[tile.b, tile.n, _block(tile.i, tile.flash.queries), :]


def of_keys(tile: Tile, array) -> Array:
  """[S, H] of an array [B, K, S, H]."""
  group = tile.x.q.shape[1] // array.shape[1]
  k = jax.lax.div(tile.n, jnp.full_like(tile.n, group))
  return array[tile.b, k, _block(tile.j, tile.flash.keys), :]


def _block(number, size):
  return pl.ds(number * size, size)


def relative(x: Operands) -> Step:
  """The step whose `r` queries meet, if any does: always the first."""
  return x.steps[0] if x.steps else Step()


def relative_queries(tile: Tile) -> Array | None:
  """[T, H]: queries as they meet relative rows; None = they meet none."""
  qr = relative(tile.x).qr
  return None if qr is None else of_queries(tile, qr)


def by_row(tile: Tile, qr_TH: Array, row: Array) -> Array:
  """What each query thinks of S relative rows from `row` on: [T, S]."""
  step, rows = relative(tile.x), pl.ds(row, tile.flash.keys)
  by_row_TS = product(qr_TH, step.r[tile.n, rows, :], (1, 1))
  if step.c is None:
    return by_row_TS
  return by_row_TS + step.c[tile.n, 0, rows][None]


def terms(tile: Tile, strip: Strip, qr_TH, fresh, axis=0):
  """The term of each step; None = it has none.

  `fresh` are the rows of the tile, by their distance from its first, that no
  tile before it has put into the strip; S of each are.
  """

  def term(step):
    if step.r is not None:
      term = _met(tile, strip, qr_TH, fresh, axis)
    elif step.c is not None:
      row = first_row(tile)
      term = step.c[tile.n, 0, row + steps(_shape(tile, axis), axis)]
    else:
      return None
    if step.by_query is not None:
      rows = _block(tile.i, tile.flash.queries)
      term += along(step.by_query[tile.b, tile.n, 0, rows], axis)
    return term

  return tuple(map(term, tile.x.steps))


def _met(tile, strip, qr_TH, fresh, axis):
  """What queries think of relative rows, each in its place."""
  row = first_row(tile)
  parts = [by_row(tile, qr_TH, row + more) for more in fresh]
  strip.meet()
  for more, part_TS in zip(fresh, parts, strict=True):
    strip.put(part_TS, row + more)
  strip.meet()
  return strip.take_skewed(row, _shape(tile, axis), axis)


def _shape(tile, axis):
  return (tile.flash.queries, tile.flash.keys)[:: 1 - 2 * axis]


def first_row(tile: Tile) -> Array:
  """The first relative row of a tile."""
  queries, keys = tile.flash.queries, tile.flash.keys
  blocks = tile.x.q.shape[2] // queries
  row = (blocks - 1 - tile.i) * queries + tile.j * keys
  return pl.multiple_of(row, keys)


def window(flash) -> range:
  """Where each S of a tile's T + S relative rows start."""
  return range(0, flash.queries + flash.keys, flash.keys)


def hidden(tile: Tile, s, axis=0) -> Array:
  """Logits, those of keys that are not seen `MASKED`."""
  q_at, k_at = places(tile, axis)
  look_ups = (look_up(table, tile.n) for table in tile.x.tables)
  seen = tile.flash.visible(q_at, k_at, tile.x.heads[tile.n], *look_ups)
  seen &= (q_at.document == k_at.document) & (k_at.document >= 0)
  return jnp.where(seen, s, MASKED)


def look_up(table, n: Array) -> LookUp:
  """In a head's part of a table; outside of it there are any entries."""
  heads, rows, columns = table.shape

  def entries(row, column):
    shape = jnp.broadcast_shapes(row.shape, column.shape)
    row, column = (
      jnp.clip(jnp.broadcast_to(x, shape), 0, size - 1)
      for x, size in ((row, rows), (column, columns))
    )
    return table[n if heads > 1 else 0, row, column]

  return entries


def found(tile: Tile, up: Upstream, s, terms, dp, axis=0) -> Found:
  """Gradients of a tile (Dao et al. 2022, algorithm 4).

  `s` is what queries think of keys, `dp` the products of dy and values.
  """
  s, back = jax.vjp(functools.partial(changed, tile.x.steps), s, terms)
  s = hidden(tile, s, axis)
  rows = _block(tile.i, tile.flash.queries)
  lse, delta = (
    along(a[tile.b, tile.n, 0, rows], axis) for a in (up.lse, up.delta)
  )
  p = kept = jnp.exp(s - lse)
  if tile.flash.rate:
    keeps = keep(tile, axis)
    dp, kept = dp * keeps, p * keeps
  return Found(kept, *back(p * (dp - delta)))


def keep(tile: Tile, axis=0) -> Array:
  """1 / (1 - rate) or 0, bit for bit as `Dropout.keep` draws it."""
  (q_at, k_at), rate = places(tile, axis), tile.flash.rate
  mask = 2 * (tile.b * tile.x.q.shape[1] + tile.n)
  seeds = tile.x.seeds[mask], tile.x.seeds[mask + 1]
  bits = threefry(seeds, q_at.index, k_at.index)
  high = jax.lax.shift_right_logical(bits, jnp.full_like(bits, 8))
  uniform = high.astype(jnp.float32) * 2.0**-24
  return jnp.where(uniform >= rate, 1 / (1 - rate), 0.0)


def places(tile: Tile, axis) -> tuple[Place, Place]:
  def of(array, number, size, axis):
    rows = (
      array[tile.b, n, _block(number, size)] for n in range(len(Place._fields))
    )
    return Place(*(along(row, axis) for row in rows))

  q_at = of(tile.x.q_place, tile.i, tile.flash.queries, axis)
  return q_at, of(tile.x.k_place, tile.j, tile.flash.keys, 1 - axis)


def along(x_L: Array, axis: int) -> Array:
  """[L, 1] or [1, L]."""
  return x_L[:, None] if axis == 0 else x_L[None]
