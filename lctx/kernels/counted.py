"""Keys that count more than once: a score that a pattern asks for."""

import jax.numpy as jnp
from flax import struct

from lctx.kernels.source import Source
from lctx.patterns.base import Pattern
from lctx.positions.base import Score
from lctx.types import Array


@struct.dataclass
class Counted(Score):
  """Adds to logits the logarithm of how often a query counts a key.

  Queries and keys get one more channel for each product of the pattern's
  `times`, so kernels need not know of it. It comes last of what turns them, and
  before what bends logits, which would bend it too. It is as exact as keys are:
  in bfloat16 to a third of a percent.
  """

  pattern: Pattern = struct.field(pytree_node=False)

  def rotate(self, q_BTNH, k_BSKH, q_at, k_at):
    for of_query_BT, of_key_BS in self.pattern.times(q_at, k_at):
      q_BTNH = _with_channel(q_BTNH, of_query_BT)
      k_BSKH = _with_channel(k_BSKH, of_key_BS)
    return q_BTNH, k_BSKH


def counted(source: Source) -> Source:
  """The same source, with what its pattern counts more than once."""
  if not source.pattern.counts:
    return source
  return source.replace(scores=(*source.scores, Counted(source.pattern)))


def _with_channel(x_BLNH: Array, number_BL: Array) -> Array:
  more = jnp.broadcast_to(number_BL[:, :, None, None], (*x_BLNH.shape[:3], 1))
  return jnp.concatenate([x_BLNH, more.astype(x_BLNH.dtype)], axis=3)
