"""How a segment changes states: the cells of Block-Recurrent Transformers.

Hutchins et al. 2022, section 3.2 and figure 2.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from lctx.layers.norm import Norm, RMSNorm
from lctx.layers.parameters import within
from lctx.memory.gates import MemoryGate
from lctx.types import Array


@dataclasses.dataclass(frozen=True)
class Cell:
  """The next states, of states and of what they saw."""

  def __call__(
    self, param: Callable, gate: MemoryGate, states: Array, seen: Array
  ) -> Array:
    """`states` [B, M, D], `seen` [B, M, channels]; gives [B, M, D]."""
    raise NotImplementedError

  def products(self, width: int, channels: int) -> int:
    """Multiplications a state."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Skip(Cell):
  """What is seen is projected and gated."""

  def __call__(self, param, gate, states, seen):
    new = _linear(param, 'joined', seen, states.shape[-1])
    return gate(within(param, 'gate'), states, new, seen)

  def products(self, width, channels):
    return channels * width


@dataclasses.dataclass(frozen=True)
class Single(Cell):
  """What is seen goes through a feed-forward part and tanh, gated once."""

  def __call__(self, param, gate, states, seen):
    new, hidden = _feed(param, seen, states.shape[-1])
    return gate(within(param, 'gate'), states, jnp.tanh(new), hidden)

  def products(self, width, channels):
    return 4 * width * (channels + width)


@dataclasses.dataclass(frozen=True)
class Dual(Skip):
  """As `Skip`; then through a feed-forward part behind `norm`, gated again."""

  norm: Norm = dataclasses.field(default_factory=RMSNorm)

  def __call__(self, param, gate, states, seen):
    states = super().__call__(param, gate, states, seen)
    normed = self.norm(within(param, 'ffn_norm'), states)
    new, hidden = _feed(param, normed, states.shape[-1])
    return gate(within(param, 'ffn_gate'), states, new, hidden)

  def products(self, width, channels):
    return super().products(width, channels) + 8 * width**2


def _feed(param, x, width):
  """A feed-forward part on x, and its hidden channels."""
  hidden = nn.relu(_linear(param, 'ffn_in', x, 4 * width))
  return _linear(param, 'ffn_out', hidden, width), hidden


def _linear(param, name, x, width):
  kernel = param(name, (x.shape[-1], width), (None, 'width'))
  bias = param(f'{name}_bias', (width,), ('width',), nn.initializers.zeros)
  y = jnp.einsum('bmd,df->bmf', x, kernel.astype(x.dtype))
  return y + bias.astype(x.dtype)[None, None]
