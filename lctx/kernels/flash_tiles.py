"""One tile of the fused kernels: its logits, its mask, and their gradient.

Everything here runs inside a kernel, on the blocks of one tile: T queries, S
keys, and the P = T + S relative rows that lie between them.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lctx.kernels.flash_skew import skewed
from lctx.patterns.tables import looked_up
from lctx.positions.steps import Step
from lctx.types import MASKED, Array

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

  Of a step that is qr [B, N, T, H], r [N, P, H], and in float32 c [N, 1, P] and
  by_query [B, N, 1, T]. A kernel sees one block of each, without the leading
  axes.
  """

  q: Array  # [B, N, T, H] as it meets keys
  k: Array  # [B, K, S, H]
  v: Array  # [B, K, S, H]
  steps: tuple[Step, ...]
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
  ds: Array  # the gradient of what queries think of keys
  dterms: tuple[Array | None, ...]  # and of the term of each step


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


def logits(flash, x: Operands, head: Array) -> Array:
  """float32 [T, S], hidden ones `MASKED`."""
  return _hidden(flash, x, head, changed(x.steps, *_met(x)))


def found(flash, x: Operands, up: Upstream, head: Array, row: Array) -> Found:
  """The tile made again, and its gradients (Dao et al. 2022, algorithm 4)."""
  s_TS, back = jax.vjp(functools.partial(changed, x.steps), *_met(x))
  p_TS = jnp.exp(_hidden(flash, x, head, s_TS) - up.lse[...].T)
  dp_TS, kept_TS = product(up.dy[...], x.v[...], (1, 1)), p_TS
  if flash.rate:
    keep_TS = keep(flash.rate, x, row)
    dp_TS, kept_TS = dp_TS * keep_TS, p_TS * keep_TS
  return Found(kept_TS, *back(p_TS * (dp_TS - up.delta[...].T)))


def _met(x: Operands) -> tuple[Array, tuple[Array | None, ...]]:
  """What queries think of keys, and the term of each step, [T, S] each."""
  s_TS = product(x.q[...], x.k[...], (1, 1))
  return s_TS, tuple(_term(step, *s_TS.shape) for step in x.steps)


def _term(step: Step, queries: int, keys: int) -> Array | None:
  by_row = []
  if step.r is not None:
    by_row.append(product(step.qr[...], step.r[...], (1, 1)))
  if step.c is not None:
    by_row.append(step.c[...])
  if not by_row:
    return None
  by_row_TP = functools.reduce(jnp.add, by_row)
  by_row_TP = jnp.broadcast_to(by_row_TP, (queries, queries + keys))
  term_TS = skewed(by_row_TP, keys)
  if step.by_query is not None:
    term_TS += step.by_query[...].T
  return term_TS


def changed(steps: tuple[Step, ...], s_TS: Array, terms) -> Array:
  """Logits, of what queries think of keys and of the term of each step."""
  for step, term_TS in zip(steps, terms, strict=True):
    s_TS = step(s_TS, term_TS)
  return s_TS


def _hidden(flash, x: Operands, head: Array, s_TS: Array) -> Array:
  q_at, k_at = places(x)
  look_ups = (functools.partial(looked_up, table[...]) for table in x.tables)
  seen = flash.visible(q_at, k_at, x.heads[head], *look_ups)
  seen &= (q_at.document == k_at.document) & (k_at.document >= 0)
  return jnp.where(seen, s_TS, MASKED)


def places(x: Operands) -> tuple[Place, Place]:
  columns = x.q_place[...].T
  q_at = (columns[:, n : n + 1] for n in range(len(Place._fields)))
  k_at = (x.k_place[n : n + 1, :] for n in range(len(Place._fields)))
  return Place(*q_at), Place(*k_at)


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
  at, rows, columns = _Specs(flash, x, where), flash.queries, flash.keys
  scalars = pl.BlockSpec(memory_space=pltpu.SMEM)
  return Operands(
    q=at.of_queries(x.q),
    k=at.of_keys(x.k),
    v=at.of_keys(x.v),
    steps=tuple(map(at.of_step, x.steps)),
    q_place=at(x.q_place, (None, 8, rows), lambda b, n, i, j: (b, 0, i)),
    k_place=at(x.k_place, (None, 8, columns), lambda b, n, i, j: (b, 0, j)),
    heads=scalars,
    seeds=None if x.seeds is None else scalars,
    tables=tuple(map(at.of_head, x.tables)),
  )


class _Specs(NamedTuple):
  flash: Any
  x: Operands
  where: Callable

  def __call__(self, array, shape, index):
    def at(*point):
      return index(*self.where(*point))

    return None if array is None else pl.BlockSpec(shape, at)

  def of_queries(self, array):
    width = None if array is None else array.shape[-1]
    shape = None, None, self.flash.queries, width
    return self(array, shape, lambda b, n, i, j: (b, n, i, 0))

  def of_keys(self, array):
    group = self.x.q.shape[1] // self.x.k.shape[1]

    def shared(n):  # `//` asks which chip this is, before one is known
      return jax.lax.div(n, jnp.full_like(n, group))

    shape = None, None, self.flash.keys, array.shape[-1]
    return self(array, shape, lambda b, n, i, j: (b, shared(n), j, 0))

  def of_step(self, step):
    flash, one = self.flash, pl.Squeezed()
    window = pl.Element(flash.queries + flash.keys)
    width = pl.Element(1 if step.r is None else step.r.shape[-1])
    blocks = self.x.q.shape[2] // flash.queries

    def first(i, j):
      return first_row(flash, blocks, i, j)

    return step.replace(
      qr=self.of_queries(step.qr),
      r=self(
        step.r, (one, window, width), lambda b, n, i, j: (n, first(i, j), 0)
      ),
      c=self(
        step.c,
        (one, pl.Element(1), window),
        lambda b, n, i, j: (n, 0, first(i, j)),
      ),
      by_query=self(
        step.by_query,
        (None, None, 1, flash.queries),
        lambda b, n, i, j: (b, n, 0, i),
      ),
    )

  def of_head(self, table):
    heads, *shape = table.shape
    return self(
      table, (None, *shape), lambda b, n, i, j: (n if heads > 1 else 0, 0, 0)
    )


def first_row(flash, blocks: int, i: Array, j: Array) -> Array:
  """The first relative row of a tile, with `blocks` blocks of queries."""
  start = (blocks - 1 - i) * flash.queries + j * flash.keys
  return pl.multiple_of(start, math.gcd(flash.queries, flash.keys))
