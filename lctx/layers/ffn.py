"""The feed-forward part of a layer."""

import jax.numpy as jnp
from flax import linen as nn

from lctx.layers.parameters import declare


class FeedForward(nn.Module):
  """max(0, x W1 + b1) W2 + b2 (Vaswani et al. 2017, section 3.3)."""

  hidden: int
  dropout: float

  @nn.compact
  def __call__(self, x):
    param, width, zeros = declare(self), x.shape[-1], nn.initializers.zeros
    drop = nn.Dropout(self.dropout, deterministic=not self.has_rng('dropout'))
    in_DF = param('in', (width, self.hidden), ('width', 'hidden'))
    in_F = param('in_bias', (self.hidden,), ('hidden',), zeros)
    out_FD = param('out', (self.hidden, width), ('hidden', 'width'))
    out_D = param('out_bias', (width,), ('width',), zeros)
    in_DF, in_F, out_FD, out_D = (
      w.astype(x.dtype) for w in (in_DF, in_F, out_FD, out_D)
    )
    h = drop(nn.relu(jnp.einsum('btd,df->btf', x, in_DF) + in_F[None, None]))
    return drop(jnp.einsum('btf,fd->btd', h, out_FD) + out_D[None, None])
