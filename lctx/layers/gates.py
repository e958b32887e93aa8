"""How a branch joins the stream it came from: a sum, or through a gate.

Parisotto et al. 2019, section 3.2 (GTrXL), with x the residual stream and y
what attention or the feed-forward part gave.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn

from lctx.types import Array


@dataclasses.dataclass(frozen=True)
class Gate:
  """x + change(x, y); every gate is written as what it changes in x.

  `relu`: y is rectified first, as the paper has it wherever norms come before
  the parts (section 3.1). So GTrXL is `pre_norm` with GRUGate(relu=True).

  `zero_start`: the change is multiplied by a learned scale, one per channel,
  that starts at zero: at first x stays what it is, bit for bit, whatever y is
  (if finite). The scale has a gradient at once, and all else has one as soon
  as the scale has moved. This is right for gates that keep only part of x too,
  for their change counts what they would take away.
  """

  relu: bool = False
  zero_start: bool = False
  matrices: ClassVar[int] = 0

  def change(self, param: Callable, x: Array, y: Array) -> Array:
    """What the gate adds to x, [B, T, D]."""
    raise NotImplementedError

  def __call__(self, param: Callable, x: Array, y: Array) -> Array:
    if self.relu:
      y = nn.relu(y)
    change = self.change(param, x, y)
    if self.zero_start:
      scale_D = param('scale', x.shape[-1:], ('width',), nn.initializers.zeros)
      change = scale_D.astype(x.dtype)[None, None] * change
    return x + change


@dataclasses.dataclass(frozen=True)
class Residual(Gate):
  """x + y: no gate. `relu` makes it TrXL-I, `zero_start` like ReZero."""

  def change(self, param, x, y):
    return y


@dataclasses.dataclass(frozen=True)
class InputGate(Gate):
  """s x + y with s = sigmoid(W x)."""

  matrices: ClassVar[int] = 1

  def change(self, param, x, y):
    forgotten = nn.sigmoid(-_times(param, 'gate', x))  # 1 - s
    return y - forgotten * x


@dataclasses.dataclass(frozen=True)
class BiasedGate(Gate):
  """A gate with a learned bias, which starts at `bias` in every channel.

  The larger, the nearer to x the gate starts; negative, it starts open.
  """

  bias: float = 1.0

  def __post_init__(self):
    if not math.fabs(self.bias) <= 20:
      raise ValueError(
        f'model.stack.gate.bias = {self.bias} must be from -20 to 20: further '
        'out the gate is shut or open for good. Published: 2 for GRUGate, 1 '
        'for the others.'
      )

  def _bias(self, param, x):
    start = nn.initializers.constant(self.bias)
    bias_D = param('bias', x.shape[-1:], ('gate',), start)
    return bias_D.astype(x.dtype)[None, None]


@dataclasses.dataclass(frozen=True)
class OutputGate(BiasedGate):
  """x + s y with s = sigmoid(W x - b)."""

  matrices: ClassVar[int] = 1

  def change(self, param, x, y):
    return nn.sigmoid(_times(param, 'gate', x) - self._bias(param, x)) * y


@dataclasses.dataclass(frozen=True)
class HighwayGate(BiasedGate):
  """s x + (1 - s) y with s = sigmoid(W x + b)."""

  matrices: ClassVar[int] = 1

  def change(self, param, x, y):
    open_ = nn.sigmoid(-_times(param, 'gate', x) - self._bias(param, x))
    return open_ * (y - x)


@dataclasses.dataclass(frozen=True)
class SigmoidTanhGate(BiasedGate):
  """x + s tanh(U y) with s = sigmoid(W y - b)."""

  matrices: ClassVar[int] = 2

  def change(self, param, x, y):
    open_ = nn.sigmoid(_times(param, 'gate', y) - self._bias(param, x))
    return open_ * jnp.tanh(_times(param, 'value', y))


@dataclasses.dataclass(frozen=True)
class GRUGate(BiasedGate):
  """(1 - z) x + z h, with

  r = sigmoid(W_r y + U_r x)
  z = sigmoid(W_z y + U_z x - b)
  h = tanh(W_g y + U_g (r x))

  Not a GRU cell as libraries have it: r acts before U_g, and b is the only
  bias.
  """

  bias: float = 2.0
  matrices: ClassVar[int] = 6

  def change(self, param, x, y):
    def both(name, x):
      return _times(param, f'{name}_y', y) + _times(param, f'{name}_x', x)

    reset = nn.sigmoid(both('reset', x))
    update = nn.sigmoid(both('update', x) - self._bias(param, x))
    return update * (jnp.tanh(both('candidate', reset * x)) - x)


def _times(param, name, x):
  """x times a matrix as wide as the model on both sides."""
  width = x.shape[-1]
  kernel_DG = param(name, (width, width), ('width', 'gate'))
  return jnp.einsum('btd,dg->btg', x, kernel_DG.astype(x.dtype))
