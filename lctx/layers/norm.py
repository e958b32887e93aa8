"""LayerNorm, in float32 whatever comes in."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from lctx.layers.parameters import around_one, declare


class LayerNorm(nn.Module):
  """Ba et al. 2016, epsilon 1e-5: zero mean and unit variance over width."""

  @nn.compact
  def __call__(self, x):
    param = declare(self)
    scale_D = param('scale', x.shape[-1:], ('width',), around_one)
    bias_D = param('bias', x.shape[-1:], ('width',), nn.initializers.zeros)
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(variance + 1e-5)
    return (normed * scale_D[None, None] + bias_D[None, None]).astype(x.dtype)
