"""Norms, in float32 whatever comes in."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from lctx.layers.parameters import around_one
from lctx.types import Array


@dataclasses.dataclass(frozen=True)
class Norm:
  """Brings the last axis of an array to unit size, then scales it.

  The parameters are of that axis alone and bear its logical name: 'width' for
  states [B, T, D], 'head_width' for queries or keys [B, T, N, H], whose heads
  share one scale. `epsilon` is added to the mean square.
  """

  epsilon: float

  def __post_init__(self):
    if not self.epsilon > 0:
      raise ValueError(
        f'epsilon = {self.epsilon} of a {type(self).__name__} keeps it from '
        'dividing by zero and must be above 0. Published: 1e-5 or 1e-6.'
      )

  def __call__(self, param: Callable, x: Array, axis: str = 'width') -> Array:
    """As many dimensions and the type of `x`."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class LayerNorm(Norm):
  """Ba et al. 2016: zero mean and unit variance, a scale and a bias."""

  epsilon: float = 1e-5

  def __call__(self, param, x, axis='width'):
    scale_D = param('scale', x.shape[-1:], (axis,), around_one)
    bias_D = param('bias', x.shape[-1:], (axis,), nn.initializers.zeros)
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    normed = centred * _inverse_size(centred, self.epsilon)
    return (normed * _last(scale_D, x) + _last(bias_D, x)).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class RMSNorm(Norm):
  """Zhang and Sennrich 2019: unit mean square and a scale.

  `zero_centred`: the parameter is the scale less one (Gemma). Files differ in
  what they hold, so it is no matter of taste.
  """

  epsilon: float = 1e-6
  zero_centred: bool = False

  def __call__(self, param, x, axis='width'):
    init = nn.initializers.zeros if self.zero_centred else nn.initializers.ones
    scale_D = param('scale', x.shape[-1:], (axis,), init)
    if self.zero_centred:
      scale_D = 1 + scale_D
    wide = x.astype(jnp.float32)
    normed = wide * _inverse_size(wide, self.epsilon)
    return (normed * _last(scale_D, x)).astype(x.dtype)


def _inverse_size(x, epsilon):
  mean_square = jnp.square(x).mean(axis=-1, keepdims=True)
  return inverse_root(mean_square + epsilon)


def inverse_root(x: Array) -> Array:
  """1 / sqrt(x); NaN for infinity, so that what overflowed does not become 0.

  For sums of squares.
  """
  return jnp.where(jnp.isinf(x), jnp.nan, jax.lax.rsqrt(x))


def _last(x_D, x):
  """A vector beside the last axis of `x`."""
  return x_D.reshape(*(1,) * (x.ndim - 1), -1)
