"""States to heads and back: what every attention does with its parameters."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from lctx.models.heads import Heads
from lctx.positions.base import Sizes
from lctx.types import Array

zeros = nn.initializers.zeros


def into_heads(
  param: Callable, name: str, count: int, heads: Heads, sizes: Sizes
) -> Callable[[Array], Array]:
  """[B, T, D] to [B, T, count, H], by parameters of that `name`."""
  axes = 'width', 'heads', 'head_width'
  kernel = param(name, (sizes.width, count, sizes.head_width), axes)
  bias = heads.bias and param(f'{name}_bias', kernel.shape[1:], axes[1:], zeros)

  def projected(x):
    y = jnp.einsum('btd,dnh->btnh', x, kernel.astype(x.dtype))
    return y + bias.astype(x.dtype)[None, None] if heads.bias else y

  return projected


def out_of_heads(
  param: Callable, y_BTNH: Array, heads: Heads, sizes: Sizes
) -> Array:
  """[B, T, N, H] to [B, T, D]; heads beyond those of `sizes` are a memory's."""
  shape = (*y_BTNH.shape[2:], sizes.width)
  out_NHD = param('out', shape, ('heads', 'head_width', 'width'))
  out_NHD, own = out_NHD.astype(y_BTNH.dtype), sizes.num_heads
  y = jnp.einsum('btnh,nhd->btd', y_BTNH[:, :, :own], out_NHD[:own])
  if y_BTNH.shape[2] > own:  # apart, so that zeros add nothing to the bit
    y += jnp.einsum('btnh,nhd->btd', y_BTNH[:, :, own:], out_NHD[own:])
  if heads.out_bias:
    bias_D = param('out_bias', (sizes.width,), ('width',), zeros)
    y += bias_D.astype(y.dtype)[None, None]
  return y
