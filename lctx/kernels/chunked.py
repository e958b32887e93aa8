"""Attention by tiles: memory grows with the length, not with its square.

The softmax over all keys is a running maximum, sum and sum of values (Milakov
and Gimelshein 2018; Rabe and Staats 2021), and the backward pass makes each
tile again (Dao et al. 2022, algorithm 4). A tile asks scores for their own
piece of what they hold, so no [T, S] array exists, relative terms included.
Tiles that no query may see are not computed.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lctx.kernels.base import Kernel
from lctx.kernels.dropout import Dropout
from lctx.kernels.fold import folded
from lctx.kernels.tiles import (
  Around,
  Arrays,
  Known,
  Places,
  Plan,
  add,
  cut,
  equal,
  finite,
  prepared,
  put,
  tile,
)
from lctx.products import keys_gradient, met, weighed
from lctx.types import MASKED, Array


@dataclasses.dataclass(frozen=True)
class Chunked(Kernel):
  """By tiles of at most `queries` x `keys`.

  Blocks are of one size, and the last is filled up with empty slots.
  """

  queries: int = 128
  keys: int = 512

  def __post_init__(self):
    for name in ('queries', 'keys'):
      if getattr(self, name) < 1:
        raise ValueError(
          f'model.compute.kernel.{name} = {getattr(self, name)} is the side of '
          'a tile and must be at least 1.'
        )

  def __call__(self, sources, dropout):
    length = sources[0].q.shape[1]
    rows = equal(length, self.queries)
    sources = folded(sources, self.keys)
    plans, arrays, places = zip(
      *(
        prepared(source, rows, equal(source.k.shape[1], self.keys))
        for source in sources
      )
    )
    y_BTNH = _attend(plans, arrays, Around(places, dropout))
    return y_BTNH[:, :length]


class Running(NamedTuple):
  """The softmax of a block of queries over the keys met so far."""

  highest: Array  # [N, B, T]
  total: Array  # [N, B, T]
  y: Array  # [N, B, T, H], not yet divided


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plans, arrays, around):
  return forward(plans, arrays, around)[0]


def _attend_and_save(plans, arrays, around):
  y_BTNH, lse_NBT = forward(plans, arrays, around)
  return y_BTNH, (arrays, around, y_BTNH, finite(lse_NBT))


def forward(
  plans: tuple[Plan, ...], arrays: tuple[Arrays, ...], around: Around
) -> tuple[Array, Array]:
  """y [B, T, N, H], and the log of each row's sum, float32 [N, B, T].

  Of a row that sees nothing that is `MASKED`.
  """
  rows, (batch, length, heads, _) = plans[0].rows, arrays[0].q.shape
  width, dtype = arrays[0].v.shape[-1], arrays[0].v.dtype

  def block_of_queries(whole, i, bounds):
    nothing = jnp.zeros((heads, batch, rows))
    y_NBTH = jnp.zeros((*nothing.shape, width))
    running = Running(nothing + MASKED, nothing, y_NBTH)
    for one, (first, end) in zip(zip(plans, arrays, around.places), bounds):
      step = functools.partial(_step, one, around.dropout, i)
      running = _loop(first, end, step, running)
    blind = running.highest <= MASKED / 2
    log = running.highest + jnp.log(running.total)
    lse = jnp.where(blind, MASKED, log)
    y_NBTH = running.y / running.total[..., None]
    y_BTNH = jnp.moveaxis(jnp.where(blind[..., None], 0, y_NBTH), 0, 2)
    y, lse_NBT = whole
    return put(y, y_BTNH, i * rows), put(lse_NBT, lse, i * rows, 2)

  whole = (
    jnp.zeros((batch, length, heads, width), dtype),
    jnp.zeros((heads, batch, length)),
  )
  return _over_queries(plans, whole, block_of_queries)


def _step(one, dropout, i, j, running: Running) -> Running:
  """The same with the keys of one more tile."""
  made = tile(*one, i, j)
  s_NBTS = made.logits(made.parts)
  highest = jnp.maximum(running.highest, s_NBTS.max(axis=-1))
  p_NBTS = jnp.exp(s_NBTS - highest[..., None])
  fade = jnp.exp(running.highest - highest)
  total = running.total * fade + p_NBTS.sum(axis=-1)
  if dropout is not None:
    p_NBTS = p_NBTS * _kept(dropout, made.at)
  y_NBTH = weighed(p_NBTS.astype(made.v.dtype), made.v)
  return Running(highest, total, running.y * fade[..., None] + y_NBTH)


def _attend_backward(plans, saved, dy_BTNH):
  arrays, around, y_BTNH, lse_NBT = saved
  wide = [x.astype(jnp.float32) for x in (dy_BTNH, y_BTNH)]
  delta_NBT = jnp.einsum('btnh,btnh->nbt', *wide)
  known = Known(dy_BTNH, lse_NBT, delta_NBT)
  return backward(plans, arrays, around, known), None


def backward(
  plans: tuple[Plan, ...],
  arrays: tuple[Arrays, ...],
  around: Around,
  known: Known,
) -> tuple[Arrays, ...]:
  """The gradients of `arrays`."""
  rows = plans[0].rows

  def block_of_queries(grads, i, bounds):
    here = Known(
      cut(known.dy, i * rows, rows),
      *(cut(x, i * rows, rows, 2) for x in (known.lse, known.delta)),
    )
    done = []
    for one, (first, end), grad in zip(
      zip(plans, arrays, around.places), bounds, grads
    ):
      step = functools.partial(_step_back, one, around.dropout, here, i)
      nothing = (
        jnp.zeros((len(x), rows, *x.shape[2:]))
        for x in (one[1].rotated, one[1].q)
      )
      drotated, dq, grad = _loop(first, end, step, (*nothing, grad))
      rotated = put(grad.rotated, drotated, i * rows)
      q = put(grad.q, dq, i * rows)
      done.append(grad.replace(rotated=rotated, q=q))
    return tuple(done)

  grads = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), arrays)
  grads = _over_queries(plans, grads, block_of_queries)
  return jax.tree.map(lambda g, x: g.astype(x.dtype), grads, arrays)


def _step_back(one, dropout, known, i, j, state):
  """The gradients with those of one more tile."""
  (drotated, dq, grad), (dy_BTNH, lse_NBT, delta_NBT) = state, known
  made = tile(*one, i, j)
  s_NBTS, back = jax.vjp(made.logits, made.parts)
  p_NBTS = jnp.exp(s_NBTS - lse_NBT[..., None])
  dp_NBTS, kept = met(dy_BTNH, made.v), p_NBTS
  if dropout is not None:
    keep = _kept(dropout, made.at)
    dp_NBTS, kept = dp_NBTS * keep, p_NBTS * keep
  (part,) = back(p_NBTS * (dp_NBTS - delta_NBT[..., None]))
  kept, key_heads = kept.astype(dy_BTNH.dtype), made.v.shape[2]
  dv_BSKH = keys_gradient(dy_BTNH, kept, key_heads)
  scores = zip(one[1].scores, grad.scores, part.scores, strict=True)
  grad = grad.replace(
    k=add(grad.k, part.k, made.where.key),
    v=add(grad.v, dv_BSKH, made.where.key),
    scores=tuple(score.put(a, b, made.where) for score, a, b in scores),
  )
  return drotated + part.rotated, dq + part.q, grad


_attend.defvjp(_attend_and_save, _attend_backward)


def _kept(dropout: Dropout, at: Places) -> Array:
  return dropout.keep(at.heads, at.q_at, at.k_at)


def _over_queries(plans, state, step) -> Any:
  """`step(state, i, bounds)` for every block of queries."""
  bounds = np.array([(plan.first, plan.end) for plan in plans], np.int32)
  if bounds.shape[-1] == 1:
    return step(state, 0, bounds[..., 0].tolist())

  def one(state, block):
    i, bounds = block
    return step(state, i, list(bounds)), None

  blocks = (
    np.arange(bounds.shape[-1], dtype=np.int32),
    np.moveaxis(bounds, -1, 0),
  )
  return jax.lax.scan(one, state, blocks)[0]


def _loop(first, end, step, state):
  """`step(j, state)` for j from `first` to `end` - 1."""
  if isinstance(first, int) and end - first == 1:
    return step(first, state)
  return jax.lax.fori_loop(first, end, step, state)
