"""Attention of one layer: it asks memory for sources and writes it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from lctx.kernels.base import Kernel
from lctx.kernels.counted import counted
from lctx.kernels.dropout import Dropout
from lctx.kernels.source import Source
from lctx.layers.parameters import Owner, declare
from lctx.memory.base import Layer, Memory
from lctx.memory.held import Segment
from lctx.models.carry import LayerCarry
from lctx.models.heads import Heads
from lctx.models.projections import into_heads, out_of_heads
from lctx.patterns.base import Pattern
from lctx.positions.base import Score, Sizes
from lctx.types import Coords


class OfMemory(NamedTuple):
  """What a layer hands to its memory."""

  param: Callable  # for its parameters in this layer
  shared: Any  # what the stack's layers share of it


class Attention(nn.Module):
  """Vaswani et al. 2017, section 3.2.2, over all that a memory offers."""

  sizes: Sizes
  heads: Heads
  pattern: Pattern
  memory: Memory
  dropout: float
  kernel: Kernel
  around: tuple[int, int] = (0, 0)

  @nn.compact
  def __call__(
    self,
    x,
    at: Coords,
    carry: LayerCarry,
    scores: tuple[Score, ...],
    norm: Callable,
    of_memory: OfMemory,
  ):
    """y, the segment so far, memory's carry, and the layer as memory sees it.

    `norm` comes before the projections (pre-norm), or changes nothing.
    """
    param, sizes = declare(self), self.sizes
    average = self.heads.average(sizes)
    to_q, to_kv = self._projections(param, average is not None)
    normed = norm(x)
    k, v = to_kv(normed)
    q_BTNH = to_q(normed)
    tokens = segment = Segment(x, k, v, x, at, self.around)
    if carry.open is not None:
      segment = carry.open.add(x, k, v, at)
    pattern = self.pattern.of_length(segment.text.at.length)
    pattern, *_ = self.memory.patterns(pattern)
    near = Source(q_BTNH, segment.k, segment.v, at, segment.at, scores, pattern)
    layer = Layer(
      tokens=tokens,
      near=near,
      x=segment.x,
      norm=norm,
      project=to_kv,
      queries=to_q,
      kernel=self.kernel,
      shared=of_memory.shared,
      sizes=sizes,
    )
    given = of_memory.param, carry.memory
    sources = self.memory.sources(*given, near, layer)
    sources = tuple(counted(source) for source in sources)
    y_BTNH = jnp.zeros_like(q_BTNH)
    if sources and at.length:
      if average is not None:
        sources = averaged(sources, average, sizes.head_width, self.kernel)
      y_BTNH = self.kernel(sources, self._dropout())
    y_BTNH, memory = self.memory.mix(*given, y_BTNH, layer)
    y = out_of_heads(param, y_BTNH.astype(x.dtype), self.heads, sizes)
    return y, segment, memory, layer

  def _projections(self, param, queries_too: bool):
    """Of normed x to queries; and to keys, as they are carried, and values."""
    sizes = self.sizes
    to_q, to_k, to_v = (
      into_heads(param, name, count, self.heads, sizes)
      for name, count in (
        ('query', sizes.num_heads),
        ('key', sizes.key_heads),
        ('value', sizes.key_heads),
      )
    )

    of_q, of_k = _same, _same
    if self.heads.norm is not None:
      of_q, of_k = (
        functools.partial(_of_head, Owner(self.heads.norm, name=name))
        for name in ('query_norm', 'key_norm')
      )

    def scaled(x):
      return of_q(to_q(x)) * jnp.asarray(sizes.scale, x.dtype)

    def to_kv(x):
      k_BSKH = of_k(to_k(x))
      if queries_too:
        width = sizes.num_heads // sizes.key_heads * sizes.head_width
        q_BSKG = scaled(x).reshape(*k_BSKH.shape[:3], width)
        k_BSKH = jnp.concatenate([k_BSKH, q_BSKG], axis=-1)
      return k_BSKH, to_v(x)

    return scaled, to_kv

  def _dropout(self):
    if not self.dropout or not self.has_rng('dropout'):
      return None
    return Dropout.of(self.make_rng('dropout'), self.dropout)


def _same(x):
  return x


def _of_head(norm, x_BTNH):
  return norm(x_BTNH, 'head_width')


def averaged(
  sources: tuple[Source, ...], average: Score, width: int, kernel: Kernel
) -> tuple[Source, ...]:
  """Sources whose queries are averages over the positions they see.

  Each key is carried with the queries of its own position behind its first
  `width` channels. The average is attention over those queries, by the logits
  of `average`.
  """
  over, num_heads = [], sources[0].q.shape[2]
  for source in sources:
    of_keys = source.k[..., width:]
    queries = of_keys.reshape(*of_keys.shape[:2], num_heads, width)
    nothing = jnp.zeros_like(queries[..., :1])
    q_BTN1 = jnp.zeros_like(source.q[..., :1])
    over.append(
      source.replace(q=q_BTN1, k=nothing, v=queries, scores=(average,))
    )
  q_BTNH = kernel(tuple(over), None)
  return tuple(s.replace(q=q_BTNH, k=s.k[..., :width]) for s in sources)
