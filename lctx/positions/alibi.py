"""ALiBi: logits fall with the distance (Press et al. 2022)."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import struct

from lctx.positions.base import Position, Score
from lctx.positions.relative import steps_along
from lctx.positions.steps import Plus
from lctx.types import Array, distance


@dataclasses.dataclass(frozen=True)
class Alibi(Position):
  """Subtracts slope x distance, a slope for each head; keys ahead alike."""

  def score(self, param, shared, sizes):
    return Fall(jnp.asarray(slopes(sizes.num_heads)))


@struct.dataclass
class Fall(Score):
  """Logits fall by `slope_N` with each step between query and key."""

  slope_N: Array

  def steps(self, q_BTNH, q_at, k_at):
    steps_P = jnp.abs(steps_along(q_at, k_at)).astype(jnp.float32)
    return (Plus(c=-steps_P[:, None] * self.slope_N[None]),)

  def of_heads(self, heads_N):
    return Fall(self.slope_N[heads_N])

  def block(self, s_NBTS, q_BTNH, q_at, k_at):
    steps = jnp.abs(distance(q_at, k_at, 'position')).astype(jnp.float32)
    return s_NBTS - self.slope_N[:, None, None, None] * steps


def slopes(num_heads: int) -> np.ndarray:
  """float32 [N]: 2^(-8 k / n) for k = 1 to n.

  For n that is no power of two: those of the power p below it, then every
  other one of 2p (the authors' code, and Bloom's).
  """
  power = 1 << (num_heads.bit_length() - 1)
  first = [2 ** (-8 * k / power) for k in range(1, power + 1)]
  more = [2 ** (-4 * k / power) for k in range(1, 2 * power + 1, 2)]
  return np.array((first + more)[:num_heads], np.float32)
