"""How what memory recalls joins what is there already.

For states [B, M, D] and for heads [B, T, N, H]; channels are the axes behind
the first two.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn

from lctx.layers.parameters import normal
from lctx.types import Array


@dataclasses.dataclass(frozen=True)
class MemoryGate:
  """kept + change(kept, new).

  `zero_start`: the change is multiplied by a learned scale, one per channel,
  that starts at zero, so that at first nothing changes, bit for bit: that is
  how memory is added to a model that was trained without. The scale has a
  gradient at once, and all else has one as soon as it has moved.
  """

  of_heads: ClassVar[bool] = False  # a number a head, so none for states
  zero_start: bool = False

  def change(
    self, param: Callable, kept: Array, new: Array, by: Array
  ) -> Array:
    """What the gate adds to `kept`; `by` [B, T, channels] decides."""
    raise NotImplementedError

  def __call__(
    self, param: Callable, kept: Array, new: Array, by: Array | None = None
  ) -> Array:
    """Of the shape and type of `kept`; `by` None = what is new decides."""
    new = new.astype(kept.dtype)
    flat = new if by is None else by.astype(kept.dtype)
    flat = flat.reshape(*flat.shape[:2], math.prod(flat.shape[2:]))
    change = self.change(param, kept, new, flat)
    if self.zero_start:
      scale = _of_channels(param, 'scale', kept, nn.initializers.zeros)
      change = scale * change
    return kept + change


@dataclasses.dataclass(frozen=True)
class ElementGate(MemoryGate):
  """g kept + (1 - g) new with g = sigmoid(b), one b for every channel.

  The bias gate of Block-Recurrent Transformers (Hutchins et al. 2022, section
  3.2) where channels are those of states, Melodi's gate (Chen et al. 2024)
  where they are those of heads. b starts near -`start`: the larger that is, the
  more is new.
  """

  start: float = 0.0

  def __post_init__(self):
    _check_start(self)

  def change(self, param, kept, new, by):
    bias = _of_channels(param, 'bias', kept, _near(-self.start))
    return nn.sigmoid(-bias) * (new - kept)


@dataclasses.dataclass(frozen=True)
class HeadGate(MemoryGate):
  """(1 - g) kept + g new with g = sigmoid(b), one b for every head.

  Memorizing Transformers (Wu et al. 2022, section 3.2), Infini-attention
  (Munkhdalai et al. 2024, section 2.1.3). b starts at `start`: the larger, the
  more is new. Weight decay leaves it out: it would hold b near zero.
  """

  of_heads: ClassVar[bool] = True
  start: float = 0.0

  def __post_init__(self):
    _check_start(self)

  def change(self, param, kept, new, by):
    start = nn.initializers.constant(self.start)
    bias_N = param('bias', kept.shape[2:3], ('heads',), start)
    share_11N1 = nn.sigmoid(bias_N.astype(kept.dtype))[None, None, :, None]
    return share_11N1 * (new - kept)


@dataclasses.dataclass(frozen=True)
class FullGate(MemoryGate):
  """g kept + (1 - g) new with g = sigmoid(W by + b + 1).

  Meliad's `full` gate (Hutchins et al. 2022): it starts by keeping.
  """

  def change(self, param, kept, new, by):
    return nn.sigmoid(-_linear(param, 'keep', kept, by) - 1) * (new - kept)


@dataclasses.dataclass(frozen=True)
class LstmGate(MemoryGate):
  """f kept + i new with f = sigmoid(W_f by + b_f + 1), i of W_i, b_i and -1.

  Meliad's `lstm` gate (Hutchins et al. 2022): it starts by keeping. What is new
  is what the cell says, in `dual` and `skip` without a tanh.
  """

  def change(self, param, kept, new, by):
    lost = nn.sigmoid(-_linear(param, 'forget', kept, by) - 1)
    taken = nn.sigmoid(_linear(param, 'input', kept, by) - 1)
    return taken * new - lost * kept


def _of_channels(param, name, kept, init):
  shape = kept.shape[2:]
  axes = ('width',) if len(shape) == 1 else ('heads', 'head_width')
  return param(name, shape, axes, init).astype(kept.dtype)[None, None]


def _linear(param, name, kept, by):
  """W by + b, of the shape of `kept`."""
  shape, width = kept.shape[2:], by.shape[-1]
  size = math.prod(shape)
  small = nn.initializers.variance_scaling(0.1, 'fan_in', 'truncated_normal')
  kernel_DG = param(name, (width, size), (None, 'gate'), small)
  bias_G = param(f'{name}_bias', (size,), ('gate',), _near(0.0))
  logit = jnp.einsum('btd,dg->btg', by, kernel_DG.astype(kept.dtype))
  logit += bias_G.astype(kept.dtype)[None, None]
  return logit.reshape(*kept.shape[:2], *shape)


def _near(start: float):
  def init(key, shape, dtype):
    return start + 5 * normal(key, shape, dtype)  # 0.1, as published

  return init


def _check_start(gate) -> None:
  if not math.fabs(gate.start) <= 20:
    raise ValueError(
      f'model.memory.gate.start = {gate.start} must be from -20 to 20: further '
      'out the gate is shut or open for good.'
    )
