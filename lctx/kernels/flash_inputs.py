"""What fused attention reads, and how it is laid out for its kernels."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lctx.kernels.flash_tiles import Operands, Place
from lctx.positions.steps import Plus, Step
from lctx.types import EMPTY, Array


class Inputs(NamedTuple):
  """What attention reads. K divides N: head n looks at keys n // (N / K).

  `qr`, `r` and `c` are those of a `Plus`, the step that comes before `steps`;
  queries and `c` are scaled already.
  """

  q: Array  # [B, T, N, H] as it meets keys
  k: Array  # [B, S, K, H]
  v: Array  # [B, S, K, Hv]
  q_place: Array  # int32 [B, 5, T], rows as in `Place`
  k_place: Array  # int32 [B, 5, S]
  qr: Array | None = None  # [B, T, N, Hr]
  r: Array | None = None  # [P, N, Hr]
  c: Array | None = None  # [P, N]
  heads: Array | None = None  # int32 [N]: their numbers; None = from 0
  seeds: Array | None = None  # uint32 [B, N, 2]: dropout's key of each mask
  tables: tuple[Array, ...] = ()  # [N or 1, rows, columns] each: to look up in
  steps: tuple[Step, ...] = ()  # what changes logits, in order

  @property
  def all_steps(self) -> tuple[Step, ...]:
    if self.r is None and self.c is None:
      return self.steps
    return Plus(self.qr, self.r, self.c), *self.steps


def check(flash: Any, x: Inputs) -> None:
  """Raises ValueError for inputs that do not go together."""
  rows = x.q.shape[1] + x.k.shape[1]
  for step, name in itertools.product(x.all_steps, ('r', 'c')):
    array = getattr(step, name)
    if array is not None and array.shape[0] not in (rows - 1, rows):
      raise ValueError(
        f'{name} has {array.shape[0]} rows, but {x.q.shape[1]} queries and '
        f'{x.k.shape[1]} keys lie {rows - 1} distances apart. Lay it out along '
        'them, one row a distance.'
      )
  if (x.qr is None) != (x.r is None):
    raise ValueError('qr and r meet each other: give both, or neither.')
  if bool(flash.rate) != (x.seeds is not None):
    raise ValueError(
      f'Flash.rate = {flash.rate} and seeds make dropout together: give both, '
      'or neither.'
    )


def laid_out(flash: Any, x: Inputs) -> Operands:
  """Filled up to whole tiles, heads before the length."""
  more_q, more_k = -x.q.shape[1] % flash.queries, -x.k.shape[1] % flash.keys
  rows = x.q.shape[1] + more_q + x.k.shape[1] + more_k
  heads = jnp.arange(x.q.shape[2]) if x.heads is None else x.heads
  words = x.seeds
  if words is not None:
    words = jax.lax.bitcast_convert_type(words, jnp.int32).reshape(-1)
  return Operands(
    q=_along(x.q, more_q),
    k=_along(x.k, more_k),
    v=_along(x.v, more_k),
    steps=tuple(_step(step, more_q, rows) for step in x.all_steps),
    q_place=_place(x.q_place, more_q),
    k_place=_place(x.k_place, more_k),
    heads=heads.astype(jnp.int32),
    seeds=words,
    tables=x.tables,
  )


def _along(x_BLNH: Array, more: int) -> Array:
  return jnp.moveaxis(
    jnp.pad(x_BLNH, ((0, 0), (0, more), (0, 0), (0, 0))), 2, 1
  )


def _step(step: Step, more_q: int, rows: int) -> Step:
  """Its relative rows follow the queries put behind, and fill up to `rows`."""

  def of_rows(x_P):
    after = rows - more_q - x_P.shape[0]
    width = (more_q, after), *((0, 0),) * (x_P.ndim - 1)
    return jnp.moveaxis(jnp.pad(x_P, width), 0, 1)

  qr, r, c, by_query = step.qr, step.r, step.c, step.by_query
  if by_query is not None:
    width = (0, 0), (0, 0), (0, more_q)
    by_query = jnp.pad(by_query.astype(jnp.float32), width)[:, :, None]
  return step.replace(
    qr=None if qr is None else _along(qr, more_q),
    r=None if r is None else of_rows(r),
    c=None if c is None else of_rows(c.astype(jnp.float32))[:, None],
    by_query=by_query,
  )


def _place(x_B5L: Array, more: int) -> Array:
  x_B5L = jnp.pad(x_B5L, ((0, 0), (0, 0), (0, more)), constant_values=EMPTY)
  return jnp.pad(x_B5L, ((0, 0), (0, 8 - len(Place._fields)), (0, 0)))
