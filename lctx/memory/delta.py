"""Gated linear states: a matrix for each head, written by every token.

Yang et al. 2024 (Gated DeltaNet), computed in chunks of tokens at once.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from lctx.layers.norm import RMSNorm, inverse_root
from lctx.layers.parameters import within
from lctx.memory.affine import Affine, combine, product
from lctx.memory.base import check_one_way
from lctx.memory.chunks import (
  Chunk,
  Inputs,
  chunk_of,
  cut_in_chunks,
  inverted,
)
from lctx.memory.convolution import convolved, latest
from lctx.memory.gates import MemoryGate
from lctx.memory.held import Held, Segment, nowhere, place
from lctx.types import EMPTY, NOBODY, Array


@dataclasses.dataclass(frozen=True)
class GatedDelta(Affine):
  """S = a (I - b k k^T) S + b k v^T, and queries recall q S.

  Queries, keys and values are the layer's, each through a causal convolution
  over `convolution` tokens of each channel and SiLU; queries and keys then
  have length 1. Of the normed x, a = exp(-exp(A) softplus(W x + c)) and
  b = sigmoid(W x), one for each head. What is recalled is normed and
  multiplied by SiLU(W x). Tokens are read in turns of `chunk`; any cut of the
  text gives the same.

  `gate` None: the layer does nothing else, as published: its heads see no
  token. Else the gate joins what is recalled to what attention sees.
  """

  chunk: int = 64
  convolution: int = 4
  gate: MemoryGate | None = None

  def __post_init__(self):
    for name in ('chunk', 'convolution'):
      if getattr(self, name) < 1:
        raise ValueError(
          f'model.memory.{name} = {getattr(self, name)} counts tokens and must '
          'be at least 1. Published: 64 and 4.'
        )

  def check(self, sizes, pattern, heads):
    check_one_way(self, pattern)

  def flops(self, sizes, segment):
    width, heads = sizes.head_width, sizes.num_heads
    chunk = min(self.chunk, segment)
    states = 2 * width**2 + 2 * chunk * width + self.correction(chunk, width)
    projected = sizes.width * (heads * width + 2 * heads)
    return 2.0 * (heads * states + projected)

  def correction(self, chunk: int, width: int) -> float:
    """Products for what was known, for each token and head."""
    return width**2 + 3 * chunk * width + (chunk**2 - 1) / 3

  def initial(self, batch, sizes, dtype):
    heads, width = sizes.num_heads, sizes.head_width
    matrix = jnp.zeros((batch, heads, width, width), jnp.float32)
    channels = (heads + 2 * sizes.key_heads, width)
    before = jnp.zeros((batch, self.convolution - 1, *channels), dtype)
    return (
      Held((matrix,), nowhere(batch)),
      Held(before, nowhere(batch, self.convolution - 1)),
    )

  @property
  def attends(self):
    return self.gate is not None

  def sources(self, param, carry, near, layer):
    return (near,) if self.attends else ()

  def mix(self, param, carry, y, layer):
    held, before = carry
    tokens, at = layer.tokens, layer.tokens.at
    if not at.length:
      return y, carry
    channels = _channels(tokens, layer)
    inputs = self._inputs(param, before, channels, tokens, layer)
    matrix, read_BTNH = self._read(held, inputs)
    read_BTNH = self._out(param, read_BTNH, layer).astype(y.dtype)
    carry = (
      Held((matrix,), place(at, held.at)),
      latest(before, channels, at),
    )
    if self.gate is None:
      return read_BTNH, carry
    return self.gate(within(param, 'gate'), y, read_BTNH), carry

  def write(self, param, carry, segment, layer):
    """What stands around the text was read too, but a document counts text."""
    held, before = carry
    held = held.replace(at=place(segment.text.at, held.at))
    return (held, before), jnp.zeros((), jnp.float32)

  def summarise(self, param, text, before, layer):
    """Of the tokens alone, and of the few before them that are convolved."""
    _, convolved = before
    channels = _channels(text, layer)
    inputs = self._inputs(param, convolved, channels, text, layer)
    updates = jax.vmap(Chunk.update)(self._chunks(inputs))
    updates = jax.lax.associative_scan(jax.vmap(combine), updates)
    return jax.tree.map(lambda x: x[-1], updates)

  def correct(self, inputs, decay, told, known):
    """(I + L)^-1 of both, L what each key shares with those before it."""
    shared = product('btnh,bsnh->bnts', inputs.k, inputs.k)
    strength_BNT1 = inputs.strength.swapaxes(1, 2)[..., None]
    inverse = inverted(jnp.tril(shared * decay * strength_BNT1, -1))
    both = jnp.concatenate([told, known], axis=-1)
    both = product('bnts,bnsv->bntv', inverse, both)
    return jnp.split(both, 2, axis=-1)

  def _read(self, held, inputs):
    """The states after these tokens, and what each recalls [B, T, N, H]."""

    (matrix,), chunks = held.states, self._chunks(inputs)
    begun = matrix, held.at.document[:, -1]
    (matrix, _), y = jax.lax.scan(
      lambda before, chunk: chunk.read(*before), begun, chunks
    )
    y = jnp.moveaxis(y, 0, 1)
    y = y.reshape(y.shape[0], y.shape[1] * y.shape[2], *y.shape[3:])
    return matrix, y[:, : inputs.q.shape[1]]

  def _chunks(self, inputs: Inputs) -> Chunk:
    """Of all tokens in turns; leaves [chunks, ...]."""
    cut = cut_in_chunks(inputs, self.chunk)
    return jax.vmap(lambda some: chunk_of(some, self.correct))(cut)

  def _inputs(self, param, before, channels, tokens, layer) -> Inputs:
    sizes, at = layer.sizes, tokens.at
    x = layer.norm(tokens.x)
    every = convolved(self._kernel(param, sizes), before, channels, at)
    every = nn.silu(every)
    heads, keys = sizes.num_heads, sizes.key_heads
    q, k, v = jnp.split(every, (heads, heads + keys), axis=2)
    k, v = (jnp.repeat(a, heads // keys, axis=2) for a in (k, v))

    def of_heads(name):
      kernel_DN = param(name, (sizes.width, heads), ('width', 'heads'))
      return jnp.einsum('btd,dn->btn', x, kernel_DN.astype(x.dtype))

    bias_N = param('decay_bias', (heads,), ('heads',), _steps)
    rate_N = jnp.exp(param('rate', (heads,), ('heads',), _rates))
    slow = of_heads('decay').astype(jnp.float32) + bias_N[None, None]
    document = jnp.where(at.document == NOBODY, EMPTY, at.document)
    held_BT1 = (document >= 0)[..., None]
    return Inputs(
      q=_unit(q),
      k=_unit(k),
      v=v,
      decay=jnp.where(held_BT1, -rate_N[None, None] * nn.softplus(slow), 0.0),
      strength=jnp.where(
        held_BT1, nn.sigmoid(of_heads('strength').astype(jnp.float32)), 0.0
      ),
      document=document,
    )

  def _kernel(self, param, sizes):
    shape = sizes.num_heads + 2 * sizes.key_heads, sizes.head_width
    init = nn.initializers.normal(self.convolution**-0.5)
    axes = ('taps', 'heads', 'head_width')
    return param('convolution', (self.convolution, *shape), axes, init)

  def _out(self, param, read_BTNH, layer):
    x, shape = layer.norm(layer.tokens.x), read_BTNH.shape[2:]
    axes = ('width', 'heads', 'head_width')
    kernel_DNH = param('open', (x.shape[-1], *shape), axes)
    opened = jnp.einsum('btd,dnh->btnh', x, kernel_DNH.astype(x.dtype))
    own = within(param, 'norm')
    normed = RMSNorm()(own, read_BTNH, 'head_width')
    return normed * nn.silu(opened.astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class GatedLinear(GatedDelta):
  """S = a S + b k v^T: the same without the delta rule, as Mamba-2 decays.

  A value that is written under a key stays beside those that were before.
  """

  def correction(self, chunk, width):
    return 0.0

  def correct(self, inputs, decay, told, known):
    return told, None


def _channels(tokens: Segment, layer) -> Array:
  """What is convolved: queries, keys and values, [B, T, N + 2 K, H]."""
  width = layer.sizes.head_width
  q = layer.queries(layer.norm(tokens.x)) / layer.sizes.scale
  return jnp.concatenate([q, tokens.k[..., :width], tokens.v], axis=2)


def _unit(x: Array) -> Array:
  return x * inverse_root(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-6)


def _rates(key, shape, dtype):
  """exp(A) from 1 to 16, as published for Mamba-2."""
  return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, 16.0))


def _steps(key, shape, dtype):
  """Its softplus is log-uniform from 0.001 to 0.1, as Mamba-2's steps are."""
  low, high = math.log(1e-3), math.log(0.1)
  size = jnp.exp(jax.random.uniform(key, shape, dtype, low, high))
  return size + jnp.log(-jnp.expm1(-size))
