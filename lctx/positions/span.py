"""Adaptive span: each head learns how far it looks (Sukhbaatar et al. 2019)."""

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from lctx.positions.base import Score, Sizes
from lctx.positions.relative import steps_along
from lctx.positions.steps import Plus
from lctx.types import MASKED, Array, distance


@dataclasses.dataclass(frozen=True)
class AdaptiveSpan:
  """A soft mask that multiplies a head's weights, with a span z it learns.

  With x steps between query and key, the nearest counted as 0, the mask is
  clip((ramp + z - x) / ramp, 0, 1). The parameter is z / longest, from 0 to 1,
  clamped after each step. The loss grows by `penalty` x longest x the mean of
  z / longest over heads, in each layer. Published: longest 8,192, ramp 32,
  penalty 5e-7, start 0.
  """

  longest: int
  ramp: int = 32
  penalty: float = 5e-7
  start: float = 0.0

  def __post_init__(self):
    if self.longest < 1 or self.ramp < 1:
      raise ValueError(
        f'model.heads.span.longest = {self.longest} and ramp = {self.ramp} '
        'count steps and must be at least 1. Use segment + memory for longest.'
      )
    if not 0 <= self.start <= 1 or self.penalty < 0:
      raise ValueError(
        f'model.heads.span.start = {self.start} is the share of longest that '
        f'heads begin with, from 0 to 1; penalty = {self.penalty} must be at '
        'least 0.'
      )

  def score(self, param: Callable, sizes: Sizes) -> 'Span':
    """The score of one layer."""
    start = nn.initializers.constant(self.start)
    share_N = param('span', (sizes.num_heads,), ('heads',), start)
    return Span(share_N * self.longest, self.ramp)

  def loss(self, span: 'Span') -> Array:
    """The auxiliary loss of one layer: a float32 scalar."""
    return self.penalty * span.z_N.mean()

  def effective(self, share: np.ndarray) -> int:
    """Steps back beyond which every head of every layer has weight 0.

    `share` is the parameter, of any shape.
    """
    widest = float(np.max(share)) * self.longest
    return math.ceil(widest + self.ramp)


@struct.dataclass
class Span(Score):
  """The soft mask of each head, as what it adds to logits: its logarithm."""

  z_N: Array
  ramp: int = struct.field(pytree_node=False)

  def steps(self, q_BTNH, q_at, k_at):
    steps_P1 = steps_along(q_at, k_at)[:, None]
    return (Plus(c=self._log_mask(steps_P1, self.z_N[None])),)

  def of_heads(self, heads_N):
    return self.replace(z_N=self.z_N[heads_N])

  def block(self, s_NBTS, q_BTNH, q_at, k_at):
    z_N111 = self.z_N[:, None, None, None]
    return s_NBTS + self._log_mask(distance(q_at, k_at, 'position'), z_N111)

  def _log_mask(self, distance, z):
    x = jnp.abs(distance) - 1
    mask = jnp.clip((self.ramp + z - x) / self.ramp, 0, 1)
    seen = mask > 0
    return jnp.where(seen, jnp.log(jnp.where(seen, mask, 1)), MASKED)
