"""Gated linear states over some tokens at once, whatever came before them.

S = a (I - b k k^T) S + b k v^T, one token after the other, has a product of
matrices in it; Yang et al. 2024 (section 3.3) solve a triangular system for a
whole chunk of tokens instead.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lctx.memory.affine import Update, counted, product
from lctx.types import EMPTY, Array

NOTHING_LEFT = -200.0  # a log decay: exp of it leaves nothing of a float32


class Inputs(NamedTuple):
  """What tokens write and ask: float32 [B, T, N, H], and [B, T, N]."""

  q: Array
  k: Array
  v: Array
  decay: Array  # log a
  strength: Array  # b; 0 for what is no token
  document: Array  # [B, T]


class Chunk(NamedTuple):
  """What some tokens make of any states before them; `known` None = nothing."""

  q: Array  # [B, N, C, H], decayed from the start
  met: Array  # [B, N, C, C]: what each token takes of each one written
  told: Array  # [B, N, C, H]: what they write,
  known: Array | None  # less what the states before recall by these
  kept: Array  # [B, N, C, H]: keys of the last document, decayed to the end
  decay: Array  # [B, N]: of all
  document: Array  # [B, C]
  whole: Array  # [B], as `Update` has it
  last: Array  # [B]: the document of its last token; EMPTY = it has none

  def read(
    self, matrix: Array, document_B: Array
  ) -> tuple[tuple[Array, Array], Array]:
    """The states [B, N, H, H] after them, of which document they are, and y.

    Given these of the states before; y [B, C, N, H] is what queries recall.
    """
    live_BC = (self.document == document_B[:, None]) & (self.document >= 0)
    live, written = live_BC[:, None, :, None], self.told
    if self.known is not None:
      known = product('bnch,bnhv->bncv', self.known, matrix)
      written -= jnp.where(live, known, 0.0)
    old = product('bnch,bnhv->bncv', self.q, matrix)
    y = product('bncs,bnsv->bncv', self.met, written)
    y += jnp.where(live, old, 0.0)
    add = product('bnch,bncv->bnhv', self.kept, written)
    update = Update((self.decay,), (add,), self.whole, self.last)
    (matrix,) = update.of((matrix,), document_B)
    return (matrix, update.last(document_B)), y.swapaxes(1, 2)

  def update(self) -> Update:
    """What they do to the states, whatever these are."""
    keep, add = self.decay, product('bnch,bncv->bnhv', self.kept, self.told)
    if self.known is not None:
      keep = keep[..., None, None] * jnp.eye(add.shape[-2])[None, None]
      keep -= product('bnch,bncg->bnhg', self.kept, self.known)
    return Update((keep,), (add,), self.whole, self.last)


def chunk_of(
  inputs: Inputs,
  correct: Callable[[Inputs, Array, Array, Array], tuple[Array, Array | None]],
) -> Chunk:
  """All that does not depend on the states before some tokens.

  `correct(inputs, decay, told, known)` gives both as its rule writes them:
  by the delta rule (I + L)^-1 times each, L [B, N, C, C] what the key of each
  token shares with those before it; `decay` is what is left between them.
  """
  document_BC, held_BC = inputs.document, inputs.document >= 0
  sums_BNC, steps = _sums(inputs.decay)
  same = (document_BC[:, :, None] == document_BC[:, None]) & held_BC[:, None]
  seen = jnp.tril(same)[:, None]
  decay = jnp.exp(jnp.where(seen, steps, -jnp.inf))  # from key to query
  from_start = jnp.exp(sums_BNC)[..., None]  # [B, N, C, 1]
  strength = inputs.strength.swapaxes(1, 2)[..., None]
  k, v = inputs.k.swapaxes(1, 2), inputs.v.swapaxes(1, 2)  # [B, N, C, H]
  told, known = correct(inputs, decay, strength * v, strength * from_start * k)
  of_last_BC, whole_B, document_B = counted(document_BC)
  to_end = jnp.exp(steps[..., -1, :])
  return Chunk(
    q=inputs.q.swapaxes(1, 2) * from_start,
    met=product('btnh,bsnh->bnts', inputs.q, inputs.k) * decay,
    told=told,
    known=known,
    kept=jnp.where(of_last_BC[:, None], to_end, 0.0)[..., None] * k,
    decay=jnp.exp(sums_BNC[..., -1]),
    document=document_BC,
    whole=whole_B,
    last=document_B,
  )


def _sums(decay_BCN: Array) -> tuple[Array, Array]:
  """Of decays from the start [B, N, C], and after each key up to each query.

  The latter [B, N, C, C] are differences of running sums, where large numbers
  would cost small ones after them their digits; whole numbers cost nothing.
  What leaves nothing of a state is clipped for that.
  """
  decay_BNC = jnp.maximum(decay_BCN, NOTHING_LEFT).swapaxes(1, 2)
  whole_BNC = jax.lax.stop_gradient(jnp.round(decay_BNC))
  parts = whole_BNC, decay_BNC - whole_BNC
  sums = [jnp.cumsum(part, axis=-1) for part in parts]
  steps = (x[..., :, None] - x[..., None, :] for x in sums)
  return sum(sums), sum(steps)


def cut_in_chunks(inputs: Inputs, chunk: int) -> Inputs:
  """[B, T, ...] to [chunks, B, C, ...]; what fills the last is no token."""
  chunk = min(chunk, inputs.document.shape[1])
  *arrays, document = inputs
  parts = (cut(x, chunk) for x in arrays)
  return Inputs(*parts, cut(document, chunk, EMPTY))


def cut(x: Array, size: int, fill: float = 0) -> Array:
  """[B, T, ...] to [parts, B, size, ...], the last one filled up."""
  length = x.shape[1]
  count = -(-length // size)
  filling = ((0, 0), (0, count * size - length), *((0, 0),) * (x.ndim - 2))
  x = jnp.pad(x, filling, constant_values=fill)
  return jnp.moveaxis(x.reshape(-1, count, size, *x.shape[2:]), 1, 0)


@jax.custom_jvp
def inverted(lower: Array) -> Array:
  """(I + L)^-1 [B, N, C, C], for L below the diagonal, by products alone.

  The inverse of [[A, 0], [L, D]] is [[A', 0], [-D' L A', D']], so blocks of
  any size are inverted at once, and then blocks of twice that size. Solving row
  by row is as exact, but slow where products are fast; a series of powers of L
  is not exact where keys are alike.
  """
  *rows, size, _ = lower.shape
  whole = 1 << (size - 1).bit_length()
  filling = [(0, 0)] * len(rows) + [(0, whole - size)] * 2
  lower = jnp.pad(lower, filling)
  found = jnp.ones((*rows, whole, 1, 1), lower.dtype)
  block = 1
  while block < whole:
    count = whole // (2 * block)
    cut = lower.reshape(*rows, count, 2, block, count, 2, block)
    own = jnp.arange(count)
    below = jnp.moveaxis(cut[..., own, 1, :, own, 0, :], 0, len(rows))
    first, second = found[..., ::2, :, :], found[..., 1::2, :, :]
    corner = -_times(second, _times(below, first))
    nothing = jnp.zeros_like(corner)
    top = jnp.concatenate([first, nothing], axis=-1)
    bottom = jnp.concatenate([corner, second], axis=-1)
    found = jnp.concatenate([top, bottom], axis=-2)
    block *= 2
  return found[..., 0, :size, :size]


@inverted.defjvp
def _changed(lower, change):
  """d X = -X dL X of the inverse X: no block needs a gradient of its own."""
  found = inverted(*lower)
  below = jnp.tril(change[0], -1)
  return found, -_times(found, _times(below, found))


def _times(x: Array, y: Array) -> Array:
  """Small blocks are summed by elements: products of them compile slowly."""
  if x.shape[-1] < 8:
    return (x[..., None] * y[..., None, :, :]).sum(axis=-2)
  return product('...ij,...jk->...ik', x, y)
