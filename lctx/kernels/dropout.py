"""Dropout of attention weights, the same in every kernel, block and shard."""

import jax
import jax.numpy as jnp
from flax import struct
from jax.extend.random import threefry_2x32

from lctx.types import Array, Coords


@struct.dataclass
class Dropout:
  """Drops attention weights as a function of where query and key sit.

  The mask depends on (key, row, head, query index, key index) alone.
  """

  key: Array  # the data of a random key
  rate: float = struct.field(pytree_node=False)
  rows: Array | None = None  # the number of each row; None = counted from 0

  @classmethod
  def of(cls, key: Array, rate: float) -> 'Dropout':
    """By a random key."""
    return cls(jax.random.key_data(key), rate)

  def keep(self, heads_N: Array, q_at: Coords, k_at: Coords) -> Array:
    """[N, B, T, S]: 1 / (1 - rate) where a weight is kept, else 0."""
    batch = q_at.document.shape[0]
    keys_BN = self.keys(heads_N, batch)

    def bits(key, q_index, k_index):
      grid = (q_index.shape[0], k_index.shape[0])
      q_TS = jnp.broadcast_to(q_index[:, None], grid).reshape(-1)
      k_TS = jnp.broadcast_to(k_index[None, :], grid).reshape(-1)
      count = jnp.concatenate([q_TS, k_TS]).astype(jnp.uint32)
      return threefry_2x32(key, count)[: q_TS.shape[0]].reshape(grid)

    index_BT = jnp.broadcast_to(q_at.index, (batch, q_at.length))
    index_BS = jnp.broadcast_to(k_at.index, (batch, k_at.length))
    per_head = jax.vmap(jax.vmap(bits), in_axes=(1, None, None))
    bits_NBTS = per_head(keys_BN, index_BT, index_BS)
    uniform = (bits_NBTS >> 8).astype(jnp.float32) * 2.0**-24
    return jnp.where(uniform >= self.rate, 1 / (1 - self.rate), 0.0)

  def keys(self, heads_N: Array, batch: int) -> Array:
    """The key of each row and head, by their numbers: uint32 [B, N, 2]."""
    rows_B = jnp.arange(batch) if self.rows is None else self.rows
    key = jax.random.wrap_key_data(self.key)
    of_row = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    keys = jax.vmap(of_row, in_axes=(0, None))(of_row(key, rows_B), heads_N)
    return jax.random.key_data(keys)
