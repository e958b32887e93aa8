"""A soft cap on logits: none goes far beyond it."""

import jax.numpy as jnp
from flax import struct

from lctx.positions.base import Score
from lctx.positions.steps import Cap


@struct.dataclass
class SoftCap(Score):
  """cap x tanh(logit / cap) (Gemma 2; Bello et al. 2016)."""

  everywhere = True

  cap: float = struct.field(pytree_node=False)

  def steps(self, q_BTNH, q_at, k_at):
    return (Cap(cap=self.cap),)

  def block(self, s_NBTS, q_BTNH, q_at, k_at):
    return self.cap * jnp.tanh(s_NBTS / self.cap)
