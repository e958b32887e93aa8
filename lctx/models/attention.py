"""Attention of one layer: it asks memory for sources and writes it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from lctx.kernels.base import Kernel
from lctx.kernels.dropout import Dropout
from lctx.kernels.source import Source
from lctx.layers.parameters import declare
from lctx.memory.base import Memory
from lctx.patterns.base import Pattern
from lctx.positions.base import Score, Sizes
from lctx.types import EMPTY, Array, Carry, Coords, segment_coords


@struct.dataclass
class Open:
  """A segment that is not full yet; a token sits in the slot of its index."""

  x: Array  # [B, T, D] as the layer received it
  k: Array  # [B, T, N, H]
  v: Array  # [B, T, N, H]
  at: Coords

  def add(self, x, k, v, at: Coords) -> 'Open':
    """With new tokens in the slots from at.index[:, 0] on, row by row.

    Tokens of the EMPTY document change nothing.
    """
    valid = at.document >= 0

    def put(old, new):
      def row(old, new, start, valid):
        held = jax.lax.dynamic_slice_in_dim(old, start, new.shape[0], 0)
        kept = valid.reshape(-1, *(1,) * (new.ndim - 1))
        merged = jnp.where(kept, new.astype(old.dtype), held)
        return jax.lax.dynamic_update_slice_in_dim(old, merged, start, 0)

      return jax.vmap(row)(old, new, at.index[:, 0], valid)

    document = put(self.at.document, at.document)
    return Open(
      put(self.x, x),
      put(self.k, k),
      put(self.v, v),
      self.at.replace(document=document),
    )


@struct.dataclass
class LayerCarry:
  """What a layer remembers: closed segments, and the open one if any."""

  memory: Carry
  open: Open | None = None


def open_segment(batch: int, length: int, sizes: Sizes, dtype) -> Open:
  """An open segment that holds nothing yet."""
  heads = (batch, length, sizes.num_heads, sizes.head_width)
  return Open(
    jnp.zeros((batch, length, sizes.width), dtype),
    jnp.zeros(heads, dtype),
    jnp.zeros(heads, dtype),
    segment_coords(jnp.full((batch, length), EMPTY, jnp.int32)),
  )


class Attention(nn.Module):
  """Dai et al. 2019, section 3.3: no biases in any projection."""

  sizes: Sizes
  pattern: Pattern
  memory: Memory
  dropout: float
  kernel: Kernel

  @nn.compact
  def __call__(
    self, x, at: Coords, carry: LayerCarry, score: Score, norm: Callable
  ):
    """y, the carry after this segment, and memory's auxiliary loss.

    `norm` comes before the projections (pre-norm), or changes nothing.
    """
    param, sizes = declare(self), self.sizes
    heads = (sizes.num_heads, sizes.head_width)
    shape, axes = (sizes.width, *heads), ('width', 'heads', 'head_width')
    q_DNH, k_DNH, v_DNH = (
      param(name, shape, axes).astype(x.dtype)
      for name in ('query', 'key', 'value')
    )
    out_NHD = param('out', (*heads, sizes.width), (*axes[1:], axes[0]))

    def project(x):
      x = norm(x)
      k_BSNH = jnp.einsum('bsd,dnh->bsnh', x, k_DNH)
      return k_BSNH, jnp.einsum('bsd,dnh->bsnh', x, v_DNH)

    q_BTNH = jnp.einsum('btd,dnh->btnh', norm(x), q_DNH)
    q_BTNH = q_BTNH * jnp.asarray(sizes.head_width**-0.5, x.dtype)
    k, v = project(x)
    pattern = self.pattern & self.memory.pattern
    if carry.open is None:
      near = Source(q_BTNH, k, v, at, at, (score,), pattern)
    else:
      opened = carry.open.add(x, k, v, at)
      near = Source(
        q_BTNH, opened.k, opened.v, at, opened.at, (score,), pattern
      )
    sources = self.memory.sources(carry.memory, near, project)
    y_BTNH = self.kernel(sources, self._dropout())
    y = jnp.einsum('btnh,nhd->btd', y_BTNH, out_NHD.astype(x.dtype))
    if carry.open is not None:
      nothing = jnp.zeros((), jnp.float32)
      return y, carry.replace(open=opened), nothing
    memory, penalty = self.memory.write(carry.memory, x, k, v, at)
    return y, LayerCarry(memory), penalty

  def _dropout(self):
    if not self.dropout or not self.has_rng('dropout'):
      return None
    key = jax.random.key_data(self.make_rng('dropout'))
    return Dropout(key, self.dropout)
