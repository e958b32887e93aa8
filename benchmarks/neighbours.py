"""A memory of the last few tokens: their values, beside what attention sees.

Two layers of attention take thousands of steps to find that a token belongs to
the one before it; Arora et al. 2023 (Zoology) therefore give every model that
they compare on recall a short convolution, and so does `benchmarks.learning`.
"""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn

from lctx.memory import Memory
from lctx.memory.convolution import convolved, latest
from lctx.memory.held import Held, nowhere


@dataclasses.dataclass(frozen=True)
class Neighbours(Memory):
  """To what each head sees, adds its own values of the last `taps` tokens."""

  taps: int = 4

  def flops(self, sizes, segment):
    return 2.0 * self.taps * sizes.num_heads * sizes.head_width

  def initial(self, batch, sizes, dtype):
    shape = batch, self.taps - 1, sizes.key_heads, sizes.head_width
    return Held(jnp.zeros(shape, dtype), nowhere(batch, self.taps - 1))

  def mix(self, param, carry, y, layer):
    v, at = layer.tokens.v, layer.tokens.at
    if not at.length:
      return y, carry
    axes = ('taps', 'heads', 'head_width')
    init = nn.initializers.normal(self.taps**-0.5)
    kernel_WNH = param('taps', (self.taps, *v.shape[2:]), axes, init)
    near = convolved(kernel_WNH, carry, v, at).astype(y.dtype)
    near = jnp.repeat(near, y.shape[2] // near.shape[2], axis=2)
    return y + near, latest(carry, v, at)
