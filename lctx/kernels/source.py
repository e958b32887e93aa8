"""A source: one set of keys that queries look at."""

import jax.numpy as jnp
from flax import struct

from lctx.patterns.base import Pattern
from lctx.positions.base import Score
from lctx.types import Array, Coords, join


@struct.dataclass
class Source:
  """Queries, the keys and values they look at, and by what rule.

  All sources of a layer share one softmax. `q` is scaled already.
  """

  q: Array  # [B, T, N, H]
  k: Array  # [B, S, N, H]
  v: Array  # [B, S, N, H]
  q_at: Coords
  k_at: Coords
  scores: tuple[Score, ...]
  pattern: Pattern = struct.field(pytree_node=False)

  def after(self, k: Array, v: Array, k_at: Coords) -> 'Source':
    """The same source with earlier keys in front: one set, one rule."""
    return self.replace(
      k=jnp.concatenate([k.astype(self.k.dtype), self.k], axis=1),
      v=jnp.concatenate([v.astype(self.v.dtype), self.v], axis=1),
      k_at=join(k_at, self.k_at),
    )
