"""Short causal convolutions over tokens, of which a layer carries the last."""

import jax
import jax.numpy as jnp

from lctx.memory.held import Held
from lctx.types import Array, Coords


def convolved(
  kernel_WNH: Array, before: Held, x_BTNH: Array, at: Coords
) -> Array:
  """float32 [B, T, N, H]: x of W tokens, weighted by how long ago they were.

  `before` holds x of the W - 1 tokens before these. Tokens of another document
  count as zeros.
  """
  x = jnp.concatenate([before.states, x_BTNH], axis=1).astype(jnp.float32)
  document = jnp.concatenate([before.at.document, at.document], axis=1)
  length, back, y = at.length, before.at.length, 0.0
  for steps, kernel_NH in enumerate(kernel_WNH):
    first = back - steps
    same = document[:, first : first + length] == at.document
    part = jnp.where(same[..., None, None], x[:, first : first + length], 0.0)
    y += kernel_NH[None, None] * part
  return y


def latest(before: Held, x: Array, at: Coords) -> Held:
  """The last tokens that are there, row by row, as many as `before` holds."""
  slots, held_BT = before.at.length, at.document >= 0
  steps_1T = jnp.arange(1, 1 + at.length, dtype=jnp.int32)[None]
  end_B = jnp.where(held_BT, steps_1T, 0).max(axis=1)

  def cut(old, new):
    both = jnp.concatenate([old, new.astype(old.dtype)], axis=1)
    return jax.vmap(
      lambda row, end: jax.lax.dynamic_slice_in_dim(row, end, slots)
    )(both, end_B)

  where = jax.tree.map(cut, before.at, at.replace(start=before.at.start))
  return Held(cut(before.states, x), where)
