"""Cross-attention: a decoder looks at what an encoder made of another text."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from lctx.kernels.base import Kernel
from lctx.kernels.dropout import Dropout
from lctx.kernels.source import Source
from lctx.layers.parameters import declare
from lctx.models.heads import Heads
from lctx.models.projections import into_heads, out_of_heads
from lctx.patterns.base import Everything
from lctx.positions.base import Sizes
from lctx.types import Array, Coords


@struct.dataclass
class Context:
  """What a decoder looks at: states [B, S, D], and where they sit.

  A text sees states of its own document, all of them, in no order.
  """

  x: Array
  at: Coords


class CrossAttention(nn.Module):
  """Vaswani et al. 2017, section 3.2.3: queries of x, keys of a context.

  No position acts here (T5, BART). `held`: keys and values of the context, if
  they are known already.
  """

  sizes: Sizes
  heads: Heads
  dropout: float
  kernel: Kernel

  @nn.compact
  def __call__(self, x: Array, at: Coords, context: Context, held: Any = None):
    param, heads, sizes = declare(self), self.heads, self.sizes
    q_BTNH = into_heads(param, 'query', sizes.num_heads, heads, sizes)(x)
    k, v = held or keys_and_values(param, context.x, heads, sizes)
    source = Source(
      q_BTNH * jnp.asarray(sizes.scale, x.dtype),
      k,
      v,
      at,
      context.at,
      heads.placeless,
      Everything(),
    )
    dropout = None
    if self.dropout and self.has_rng('dropout'):
      dropout = Dropout.of(self.make_rng('dropout'), self.dropout)
    y_BTNH = jnp.zeros_like(q_BTNH)
    if at.length:
      y_BTNH = self.kernel((source,), dropout)
    return out_of_heads(param, y_BTNH, heads, sizes)


def keys_and_values(
  param: Any, x: Array, heads: Heads, sizes: Sizes
) -> tuple[Array, Array]:
  """Of a context x [B, S, D], with a layer's parameters: [B, S, K, H] each."""
  return tuple(
    into_heads(param, name, sizes.key_heads, heads, sizes)(x)
    for name in ('key', 'value')
  )
