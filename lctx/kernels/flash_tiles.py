"""One tile of the fused kernels: its logits, its mask, and their gradient.

Everything here runs inside a kernel, on the blocks of one tile: T queries, S
keys, and the P = T + S relative rows that lie between them.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lctx.types import MASKED, Array

GROUP = 8  # rows that a vector register holds
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


class Place(NamedTuple):
  """Where tokens sit: int32 [T, 1] of queries, [1, S] of keys."""

  index: Array
  document: Array
  segment: Array
  role: Array
  offset: Array


class Operands(NamedTuple):
  """What all kernels read: whole tiles, and heads before the length.

  A kernel sees one block of each, without the leading axes.
  """

  q: Array  # [B, N, T, H] as it meets keys
  k: Array  # [B, K, S, H]
  v: Array  # [B, K, S, H]
  qr: Array | None  # [B, N, T, H] as it meets `r`
  r: Array | None  # [N, P, H]
  c: Array | None  # float32 [N, 1, P]
  q_place: Array  # int32 [B, 8, T], rows as in `Place`
  k_place: Array  # int32 [B, 8, S]
  heads: Array  # int32 [N]: their numbers
  seeds: Array | None  # int32 [B * N * 2]: the two words of each mask's key
  tables: tuple[Array, ...]  # [N or 1, rows, columns] each


class Upstream(NamedTuple):
  """What the backward kernels read besides."""

  dy: Array  # [B, N, T, H]
  lse: Array  # float32 [B, N, 1, T]
  delta: Array  # float32 [B, N, 1, T]: of each query, dy . y


class Found(NamedTuple):
  """What a tile gives to the gradients, [T, S]."""

  kept: Array  # the weights of values
  ds: Array  # the gradient of what the products gave


def product(x: Array, y: Array, axes: tuple[int, int]) -> Array:
  """x and y summed over an axis of each; float32.

  Short numbers multiply exactly, so a wish for precision is not theirs.
  """
  short = x.dtype != jnp.float32
  return jax.lax.dot_general(
    x,
    y.astype(x.dtype),
    (((axes[0],), (axes[1],)), ((), ())),
    precision=jax.lax.Precision.DEFAULT if short else None,
    preferred_element_type=jnp.float32,
  )


def logits(flash, x: Operands, head: Array) -> tuple[Array, Array | None]:
  """Logits, hidden ones `MASKED`, and the tangents of the cap if there is one.

  With a cap, a logit is cap * tangent, and its slope 1 - tangent ** 2.
  """
  s_TS = product(x.q[...], x.k[...], (1, 1))
  if x.r is not None or x.c is not None:
    s_TS += skewed(_by_row(x), s_TS.shape[1])
  tangent_TS = None
  if flash.cap is not None:
    tangent_TS = jnp.tanh(s_TS / flash.cap)
    s_TS = flash.cap * tangent_TS
  q_at, k_at = places(x)
  tables = (table[...] for table in x.tables)
  seen = flash.visible(q_at, k_at, x.heads[head], *tables)
  seen &= (q_at.document == k_at.document) & (k_at.document >= 0)
  return jnp.where(seen, s_TS, MASKED), tangent_TS


def found(flash, x: Operands, up: Upstream, head: Array, row: Array) -> Found:
  """The tile made again, and its gradients (Dao et al. 2022, algorithm 4)."""
  s_TS, tangent_TS = logits(flash, x, head)
  p_TS = jnp.exp(s_TS - up.lse[...].T)
  dp_TS, kept_TS = product(up.dy[...], x.v[...], (1, 1)), p_TS
  if flash.rate:
    keep_TS = keep(flash.rate, x, row)
    dp_TS, kept_TS = dp_TS * keep_TS, p_TS * keep_TS
  ds_TS = p_TS * (dp_TS - up.delta[...].T)
  if tangent_TS is not None:
    ds_TS *= 1 - tangent_TS**2
  return Found(kept_TS, ds_TS)


def places(x: Operands) -> tuple[Place, Place]:
  columns = x.q_place[...].T
  q_at = (columns[:, n : n + 1] for n in range(len(Place._fields)))
  k_at = (x.k_place[n : n + 1, :] for n in range(len(Place._fields)))
  return Place(*q_at), Place(*k_at)


def _by_row(x: Operands) -> Array:
  """What each query thinks of each relative row: float32 [T, P]."""
  if x.r is None:
    return jnp.broadcast_to(x.c[...], (x.q.shape[0], x.c.shape[1]))
  by_row_TP = product(x.qr[...], x.r[...], (1, 1))
  return by_row_TP if x.c is None else by_row_TP + x.c[...]


def skewed(x_TP: Array, keys: int) -> Array:
  """[T, S]: out[t, s] = x[t, T - 1 - t + s].

  The last query starts at the first row, and each one before it a row later.
  """
  return pltpu.roll(x_TP, keys + 1, 1, stride=1, stride_axis=0)[:, :keys]


def unskewed(ds_TS: Array) -> Array:
  """[T, P]: the gradient of what `skewed` was given.

  Row t moves right by T - 1 - t. The chip turns rows by steps that grow, not
  shrink, so groups of rows are turned last to first, and rows within a group
  by each power of two of which their distance is made.
  """
  queries, keys = ds_TS.shape
  groups, rows = queries // GROUP, queries + keys
  x_TP = jnp.concatenate([ds_TS, jnp.zeros((queries, queries))], axis=1)
  t_T1 = jax.lax.broadcasted_iota(jnp.int32, (queries, 1), 0)
  for steps in (1, 2, 4):
    moves = (queries - 1 - t_T1) & steps != 0
    x_TP = jnp.where(moves, pltpu.roll(x_TP, steps, 1), x_TP)
  x_GGP = _turned(x_TP.reshape(groups, GROUP, rows))
  x_GGP = pltpu.roll(x_GGP, 0, 2, stride=GROUP, stride_axis=0)
  return _turned(x_GGP).reshape(queries, rows)


def _turned(x: Array) -> Array:
  """Last to first."""
  return jnp.concatenate([x[n : n + 1] for n in reversed(range(x.shape[0]))])


def keep(rate: float, x: Operands, row: Array) -> Array:
  """[T, S]: 1 / (1 - rate) or 0, bit for bit as `Dropout.keep` draws it."""
  q_at, k_at = places(x)
  key = x.seeds[2 * row], x.seeds[2 * row + 1]
  bits_TS = threefry(key, q_at.index, k_at.index)
  uniform_TS = _right(bits_TS, 8).astype(jnp.float32) * 2.0**-24
  return jnp.where(uniform_TS >= rate, 1 / (1 - rate), 0.0)


def threefry(key: tuple[Array, Array], x: Array, y: Array) -> Array:
  """The first word of Threefry-2x32 in 20 rounds (Salmon et al. 2011).

  In int32, whose sums wrap as those of uint32 do.
  """
  keys = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
  x, y = x + keys[0], y + keys[1]
  for n in range(5):
    for steps in ROTATIONS[n % 2]:
      x = x + y
      y = ((y << steps) | _right(y, 32 - steps)) ^ x
    x, y = x + keys[(n + 1) % 3], y + keys[(n + 2) % 3] + (n + 1)
  return x


def _right(x: Array, steps: int) -> Array:
  return jax.lax.shift_right_logical(x, jnp.full_like(x, steps))


class Walk(NamedTuple):
  """The blocks that each block meets: from `first` to `end` - 1."""

  first: np.ndarray
  end: np.ndarray

  @property
  def steps(self) -> int:
    """As many as any of them meets; at least the one that writes zeros."""
    return max(1, int((self.end - self.first).max()))

  def turned(self, others: int) -> 'Walk':
    """The same meetings, as each of the other blocks sees them."""
    j = np.arange(others)[:, None]
    meets = (self.first <= j) & (j < self.end)
    some, blocks = meets.any(axis=1), meets.shape[1]
    first = np.where(some, meets.argmax(axis=1), 0)
    end = np.where(some, blocks - meets[:, ::-1].argmax(axis=1), 0)
    return Walk(first.astype(np.int32), end.astype(np.int32))


def nearest(first, end, block, step) -> Array:
  """The block to meet at a step, or the last one once all are met."""
  return jnp.minimum(first[block] + step, jnp.maximum(end[block] - 1, 0))


def specs(flash, x: Operands, where) -> Operands:
  """Which block of each operand a kernel sees.

  `where` turns a point of its grid into (row, head, block of queries, block
  of keys).
  """
  rows, columns = flash.queries, flash.keys
  group = x.q.shape[1] // x.k.shape[1]

  def spec(array, shape, index):
    def at(*point):
      return index(*where(*point))

    return None if array is None else pl.BlockSpec(shape, at)

  def of_queries(array):
    shape = None, None, rows, None if array is None else array.shape[-1]
    return spec(array, shape, lambda b, n, i, j: (b, n, i, 0))

  def shared(n):  # `//` asks which chip this is, before one is known
    return jax.lax.div(n, jnp.full_like(n, group))

  def of_keys(array):
    shape = None, None, columns, array.shape[-1]
    return spec(array, shape, lambda b, n, i, j: (b, shared(n), j, 0))

  def of_head(table):
    heads, *shape = table.shape
    return spec(
      table, (None, *shape), lambda b, n, i, j: (n if heads > 1 else 0, 0, 0)
    )

  scalars = pl.BlockSpec(memory_space=pltpu.SMEM)
  return Operands(
    q=of_queries(x.q),
    k=of_keys(x.k),
    v=of_keys(x.v),
    qr=of_queries(x.qr),
    **_windows(flash, x, spec),
    q_place=spec(x.q_place, (None, 8, rows), lambda b, n, i, j: (b, 0, i)),
    k_place=spec(x.k_place, (None, 8, columns), lambda b, n, i, j: (b, 0, j)),
    heads=scalars,
    seeds=None if x.seeds is None else scalars,
    tables=tuple(of_head(table) for table in x.tables),
  )


def _windows(flash, x: Operands, spec):
  """Which relative rows a tile needs; windows of neighbours overlap."""
  blocks = x.q.shape[2] // flash.queries
  window = pl.Element(flash.queries + flash.keys)
  width = pl.Element(1 if x.r is None else x.r.shape[-1])

  def of_r(b, n, i, j):
    return n, first_row(flash, blocks, i, j), 0

  def of_c(b, n, i, j):
    return n, 0, first_row(flash, blocks, i, j)

  return {
    'r': spec(x.r, (pl.Squeezed(), window, width), of_r),
    'c': spec(x.c, (pl.Squeezed(), pl.Element(1), window), of_c),
  }


def first_row(flash, blocks: int, i: Array, j: Array) -> Array:
  """The first relative row of a tile, with `blocks` blocks of queries."""
  start = (blocks - 1 - i) * flash.queries + j * flash.keys
  return pl.multiple_of(start, math.gcd(flash.queries, flash.keys))
