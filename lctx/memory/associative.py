"""Associative memory of each layer, written by memory tokens.

Rodkin et al. 2024 (Associative Recurrent Memory Transformer): [text; memory].
Keys and queries have unit length, as in the published code; its first versions
leave them as they come.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from lctx.layers.norm import inverse_root
from lctx.memory.affine import product, safe_ratio
from lctx.memory.base import Memory, check_sees_all
from lctx.memory.held import Held, nowhere, place, where
from lctx.memory.tokens import PUBLISHED, Learned, check_count
from lctx.types import Array

EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class Associative(Memory):
  """x + f(q) M / f(q) z before the layer, M written after it.

  `count` learned tokens stand after the text of each segment; what the layer
  makes of them writes, by the delta rule, keys of `width` channels as f
  (DPFP-`degree`, of unit length) spreads them, and values as wide as the model.
  The matrix holds float32 numbers. Values start at zero, so that at first
  nothing changes.
  """

  needs_bptt: ClassVar[bool] = True

  count: int = PUBLISHED
  width: int = 64
  degree: int = 3

  def __post_init__(self):
    check_count(self.count)
    for name in ('width', 'degree'):
      if getattr(self, name) < 1:
        raise ValueError(
          f'model.memory.{name} = {getattr(self, name)} must be at least 1. '
          'Published: width 64, degree 3.'
        )
    if self.degree >= 2 * self.width:
      raise ValueError(
        f'model.memory.degree = {self.degree} pairs each of twice '
        f'model.memory.width = {self.width} channels with that many others, '
        'and there are not so many. Use a lower degree, or more width.'
      )

  @property
  def around(self):
    return Learned(0, self.count)

  @property
  def _spread(self):
    return 2 * self.width * self.degree

  def check(self, sizes, pattern, heads):
    check_sees_all(self, pattern)

  def flops(self, sizes, segment):
    read = sizes.width * (self.width + self._spread)
    written = sizes.width * (self.width + sizes.width + 2 * self._spread)
    return 2.0 * (read + written * self.count / segment)

  def initial(self, batch, sizes, dtype):
    matrix = jnp.zeros((batch, self._spread, sizes.width), jnp.float32)
    return Held((matrix, matrix[..., 0]), nowhere(batch))

  def enter(self, param, carry, x, at):
    q_BTP = self._keys(param, 'query', x)
    read = recalled(*carry.states, q_BTP)
    live_BT1 = carry.of_same(at)[..., None]
    return x + jnp.where(live_BT1, read, 0.0).astype(x.dtype)

  def write(self, param, carry, segment, layer):
    now, tokens = place(segment.text.at, carry.at), segment.after
    width = tokens.shape[-1]
    k_BMP = self._keys(param, 'key', tokens)
    kernel_DG = param(
      'value', (width, width), ('width', 'gate'), nn.initializers.zeros
    )
    v = jnp.einsum('bmd,dg->bmg', tokens, kernel_DG.astype(tokens.dtype))
    kernel_D = param('strength', (width,), ('width',))
    bias = param('strength_bias', (1,), (None,), nn.initializers.zeros)
    logit_BM = jnp.einsum('bmd,d->bm', tokens, kernel_D.astype(tokens.dtype))
    strength_BM = nn.sigmoid(logit_BM.astype(jnp.float32) + bias[None])
    same_B = carry.of_same(now)[:, 0]
    nothing = jax.tree.map(jnp.zeros_like, carry.states)
    states = where(same_B, carry.states, nothing)
    states = rewritten(*states, k_BMP, v.astype(jnp.float32), strength_BM)
    held = where(segment.filled > 0, Held(states, now), carry)
    return held, jnp.zeros((), jnp.float32)

  def _keys(self, param, name, x):
    shape = x.shape[-1], self.width
    kernel_DH = param(name, shape, ('width', 'gate'))
    keys = jnp.einsum('btd,dh->bth', x, kernel_DH.astype(x.dtype))
    spread = dpfp(keys.astype(jnp.float32), self.degree)
    size = jnp.square(spread).sum(axis=-1, keepdims=True)
    return spread * inverse_root(size + EPSILON**2)


def dpfp(x: Array, degree: int) -> Array:
  """Products of rectified channels and their neighbours (Schlag et al. 2021).

  [..., H] to [..., 2 H degree].
  """
  both = nn.relu(jnp.concatenate([x, -x], axis=-1))
  rolled = [both * jnp.roll(both, j + 1, axis=-1) for j in range(degree)]
  return jnp.concatenate(rolled, axis=-1)


def recalled(matrix: Array, z_BP: Array, q_BTP: Array) -> Array:
  """q M / (q z + epsilon): [B, T, D]."""
  sums = product('btp,bpd->btd', q_BTP, matrix)
  weights = product('btp,bp->bt', q_BTP, z_BP)[..., None]
  return safe_ratio(sums, weights + EPSILON)


def rewritten(
  matrix: Array, z_BP: Array, k_BMP: Array, v: Array, strength_BM: Array
) -> tuple[Array, Array]:
  """M and z once each key has its new value in place of the old one."""
  new = strength_BM[..., None] * (v - recalled(matrix, z_BP, k_BMP))
  matrix += product('bmp,bmd->bpd', k_BMP, new)
  known_BM = product('bmp,bp->bm', k_BMP, z_BP)
  size_BM = jnp.square(k_BMP).sum(axis=-1) + EPSILON
  unknown = jax.lax.stop_gradient(jnp.clip(1 - known_BM / size_BM, 0, 1))
  return matrix, z_BP + product('bmp,bm->bp', k_BMP, unknown)
