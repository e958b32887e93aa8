"""What scores do to logits, as steps that a fused kernel applies in order."""

import jax.numpy as jnp
from flax import struct

from lctx.types import Array


@struct.dataclass
class Step:
  """Changes logits by a term of each query and key: qr . r + c + by_query.

  Row p of `r` and `c` serves each query t and key s with s - t = p + 1 - T:
  from row to row a step less; P = T + S - 1 or one more. Any may be None, but
  `qr` and `r` go together, and `by_query` comes with rows.
  """

  qr: Array | None = None  # [B, T, N, H] as it meets `r`
  r: Array | None = None  # [P, N, H]
  c: Array | None = None  # [P, N]
  by_query: Array | None = None  # [B, N, T]

  def __call__(self, s_TS: Array, term_TS: Array | None) -> Array:
    raise NotImplementedError


@struct.dataclass
class Plus(Step):
  """Logits plus the term."""

  def __call__(self, s_TS, term_TS):
    return s_TS + term_TS

  def joined(self, other: 'Plus') -> 'Plus':
    """Both at once; queries meet rows in one of them at most."""
    assert self.r is None or other.r is None
    assert self.by_query is None and other.by_query is None
    c = [x.c for x in (self, other) if x.c is not None]
    meets = self if other.r is None else other
    return meets.replace(c=sum(c) if c else None)


@struct.dataclass
class Times(Step):
  """Logits times the exponential of the term."""

  def __call__(self, s_TS, term_TS):
    return s_TS * jnp.exp(term_TS)


@struct.dataclass(kw_only=True)
class Cap(Step):
  """cap * tanh(logits / cap): it has no term."""

  cap: float = struct.field(pytree_node=False)

  def __call__(self, s_TS, term_TS):
    return self.cap * jnp.tanh(s_TS / self.cap)
