"""Attention by its definition: every logit at once. The others equal it."""

import jax
import jax.numpy as jnp
from flax import struct
from jax.extend.random import threefry_2x32

from lctx.kernels.source import Source
from lctx.patterns.base import visible
from lctx.types import Array, Coords

MASKED = -1e30  # finite, so that a row that sees nothing stays finite


@struct.dataclass
class Dropout:
  """Drops attention weights as a function of where query and key sit.

  The mask depends on (key, row, head, query index, key index) alone, so it
  is the same in every kernel, block and shard.
  """

  key: Array  # typed random key
  rate: float = struct.field(pytree_node=False)

  def keep(self, heads: int, q_at: Coords, k_at: Coords) -> Array:
    """[B, N, T, S]: 1 / (1 - rate) where a weight is kept, else 0."""
    batch = q_at.index.shape[0]
    rows = jnp.arange(batch * heads, dtype=jnp.uint32)
    keys = jax.vmap(lambda row: jax.random.fold_in(self.key, row))(rows)
    keys = jax.random.key_data(keys).reshape(batch, heads, -1)

    def bits(key, q_index, k_index):
      grid = (q_index.shape[0], k_index.shape[0])
      q_TS = jnp.broadcast_to(q_index[:, None], grid).reshape(-1)
      k_TS = jnp.broadcast_to(k_index[None, :], grid).reshape(-1)
      count = jnp.concatenate([q_TS, k_TS]).astype(jnp.uint32)
      return threefry_2x32(key, count)[: q_TS.shape[0]].reshape(grid)

    per_head = jax.vmap(bits, in_axes=(0, None, None))
    bits_BNTS = jax.vmap(per_head)(keys, q_at.index, k_at.index)
    uniform = (bits_BNTS >> 8).astype(jnp.float32) * 2.0**-24
    return jnp.where(uniform >= self.rate, 1 / (1 - self.rate), 0.0)


def dense(sources: tuple[Source, ...], dropout: Dropout | None) -> Array:
  """softmax over the keys of all sources, times their values: [B, T, N, H].

  Logits and softmax are float32. Memory is O(T x S). Values are summed before
  they are divided by the row's sum: only one [T, S] is kept for the backward
  pass then, and none is divided.
  """
  s_BNTS = jnp.concatenate([logits(source) for source in sources], axis=-1)
  highest_BNT1 = jax.lax.stop_gradient(s_BNTS.max(axis=-1, keepdims=True))
  p_BNTS = jnp.exp(s_BNTS - highest_BNT1)
  sum_BTN = p_BNTS.sum(axis=-1).swapaxes(1, 2)
  if dropout is not None:
    heads = p_BNTS.shape[1]
    keep = [dropout.keep(heads, s.q_at, s.k_at) for s in sources]
    p_BNTS = p_BNTS * jnp.concatenate(keep, axis=-1)
  v_BSNH = jnp.concatenate([source.v for source in sources], axis=1)
  y_BTNH = jnp.einsum(
    'bnts,bsnh->btnh',
    p_BNTS.astype(v_BSNH.dtype),
    v_BSNH,
    preferred_element_type=jnp.float32,
  )
  return (y_BTNH / sum_BTN[..., None]).astype(v_BSNH.dtype)


def logits(source: Source) -> Array:
  """What each query thinks of each key of one source: float32 [B,N,T,S]."""
  q_BTNH, k_BSNH = source.q, source.k
  for score in source.scores:
    q_BTNH, k_BSNH = score.rotate(q_BTNH, k_BSNH, source.q_at, source.k_at)
  s_BNTS = jnp.einsum(
    'btnh,bsnh->bnts', q_BTNH, k_BSNH, preferred_element_type=jnp.float32
  )
  for score in source.scores:
    s_BNTS = score.block(s_BNTS, source.q, source.q_at, source.k_at)
  seen_BTS = visible(source.pattern, source.q_at, source.k_at)
  hide_BTS = jnp.where(seen_BTS, 0.0, MASKED)  # to add: a where would keep
  return s_BNTS + hide_BTS[:, None]  # its condition for the backward pass
