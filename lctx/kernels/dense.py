"""Attention by its definition: every logit at once. The others equal it."""

import dataclasses

import jax
import jax.numpy as jnp

from lctx.kernels.base import Kernel
from lctx.kernels.fold import folded
from lctx.kernels.source import Source, hidden, rotated
from lctx.products import met, weighed
from lctx.types import MASKED, Array


@dataclasses.dataclass(frozen=True)
class Dense(Kernel):
  """Memory is O(T x S).

  Values are summed before they are divided by the row's sum: only one [T, S] is
  kept for the backward pass then, and none is divided.
  """

  def __call__(self, sources, dropout):
    sources = folded(sources)
    s_NBTS = jnp.concatenate([_logits(source) for source in sources], axis=-1)
    highest_NBT1 = jax.lax.stop_gradient(s_NBTS.max(axis=-1, keepdims=True))
    p_NBTS = jnp.exp(s_NBTS - highest_NBT1)
    sum_NBT1 = p_NBTS.sum(axis=-1, keepdims=True)
    if dropout is not None:
      keep = [dropout.keep(s.heads_N, s.q_at, s.k_at) for s in sources]
      p_NBTS = p_NBTS * jnp.concatenate(keep, axis=-1)
    v_BSKH = jnp.concatenate([source.v for source in sources], axis=1)
    y_NBTH = weighed(p_NBTS.astype(v_BSKH.dtype), v_BSKH)
    blind = highest_NBT1 <= MASKED / 2  # NaN is not: it shows
    y_NBTH = jnp.where(blind, 0, y_NBTH / sum_NBT1)
    return jnp.moveaxis(y_NBTH, 0, 2).astype(v_BSKH.dtype)


def _logits(source: Source) -> Array:
  """What each query thinks of each key of one source: float32 [N,B,T,S]."""
  s_NBTS, at = met(*rotated(source)), (source.q_at, source.k_at)
  for score in source.scores:
    s_NBTS = score.block(s_NBTS, source.q, *at)
  return s_NBTS + hidden(source.pattern, *at, source.heads_N)
