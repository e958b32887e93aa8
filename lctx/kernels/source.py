"""A source: one set of keys that queries look at."""

import jax.numpy as jnp
from flax import struct

from lctx.patterns.base import Pattern, visible
from lctx.positions.base import Score
from lctx.types import MASKED, Array, Coords, join


@struct.dataclass
class Source:
  """Queries, the keys and values they look at, and by what rule.

  All sources of a layer share one softmax. `q` is scaled already. K divides N:
  head n of the queries looks at head n // (N / K) of the keys. `heads` numbers
  the heads, where they are not all there are; None = counted from 0.
  """

  q: Array  # [B, T, N, H]
  k: Array  # [B, S, K, H]
  v: Array  # [B, S, K, H]
  q_at: Coords
  k_at: Coords
  scores: tuple[Score, ...]
  pattern: Pattern = struct.field(pytree_node=False)
  heads: Array | None = None

  @property
  def heads_N(self) -> Array:
    return jnp.arange(self.q.shape[2]) if self.heads is None else self.heads

  @property
  def in_steps(self) -> bool:
    """Whether all that lies between keys is known when compiling."""
    ats = self.q_at, self.k_at
    return all(at.start is not None and at.step == 1 for at in ats)

  @property
  def placeless(self) -> tuple[Score, ...]:
    """Scores that are the same for keys that are no tokens."""
    return tuple(score for score in self.scores if score.everywhere)

  def after(self, k: Array, v: Array, k_at: Coords) -> 'Source':
    """The same source with earlier keys in front: one set, one rule."""
    return self.replace(
      k=jnp.concatenate([k.astype(self.k.dtype), self.k], axis=1),
      v=jnp.concatenate([v.astype(self.v.dtype), self.v], axis=1),
      k_at=join(k_at, self.k_at),
    )


def rotated(source: Source) -> tuple[Array, Array]:
  """Queries and keys as they meet: what the scores do to them before."""
  q_BTNH, k_BSKH = source.q, source.k
  for score in source.scores:
    q_BTNH, k_BSKH = score.rotate(q_BTNH, k_BSKH, source.q_at, source.k_at)
  return q_BTNH, k_BSKH


def hidden(
  pattern: Pattern, q_at: Coords, k_at: Coords, heads_N: Array
) -> Array:
  """To add to logits, [N or 1, B, T, S]: a `where` would keep its condition."""
  return jnp.where(visible(pattern, q_at, k_at, heads_N), 0.0, MASKED)
