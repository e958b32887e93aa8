"""Gated linear states: a matrix for each head, written by every token.

Yang et al. 2024 (Gated DeltaNet), computed in chunks of tokens at once.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lctx.layers.norm import RMSNorm
from lctx.layers.parameters import within
from lctx.memory.affine import Affine, Update, combine, counted
from lctx.memory.base import check_one_way
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
    states = 4 * width**2 + chunk * 3 * width
    projected = sizes.width * (heads * width + 2 * heads)
    return 2.0 * (heads * states + projected)

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
    inputs = self._inputs(param, before, tokens, layer)
    (matrix,), read_BTNH = self._read(held, inputs)
    read_BTNH = self._out(param, read_BTNH, layer).astype(y.dtype)
    carry = Held((matrix,), place(at, held.at)), _last(before, tokens, layer)
    if self.gate is None:
      return read_BTNH, carry
    return self.gate(within(param, 'gate'), y, read_BTNH), carry

  def summarise(self, param, text, before, layer):
    """Of the tokens alone, and of the few before them that are convolved."""
    _, convolved = before
    inputs = self._inputs(param, convolved, text, layer)
    chunks = jax.vmap(self._chunk)(_cut(inputs, self.chunk))
    updates = jax.lax.associative_scan(jax.vmap(combine), chunks.update)
    return jax.tree.map(lambda x: x[-1], updates)

  def correct(self, inputs: 'Inputs', decay: Array, x: Array) -> Array:
    """(I + L)^-1 x, L what each token's key shares with those before it."""
    shared = jnp.einsum('btnh,bsnh->bnts', inputs.k, inputs.k)
    strength_BNT1 = inputs.strength.swapaxes(1, 2)[..., None]
    inverse = inverted(jnp.tril(shared * decay * strength_BNT1, -1))
    return jnp.einsum('bnts,bnsv->bntv', inverse, x)

  def _read(self, held, inputs):
    """The states after these tokens, and what each recalls [B, T, N, H]."""

    def one(carry, chunk):
      states, document_B = carry
      y = chunk.recalled(states[0], document_B)
      states = chunk.update.of(states, document_B)
      return (states, chunk.update.last(document_B)), y

    chunks = jax.vmap(self._chunk)(_cut(inputs, self.chunk))
    begun = held.states, held.at.document[:, -1]
    (states, _), y = jax.lax.scan(one, begun, chunks)
    y = jnp.moveaxis(y, 0, 1)
    y = y.reshape(y.shape[0], y.shape[1] * y.shape[2], *y.shape[3:])
    return states, y[:, : inputs.q.shape[1]]

  def _chunk(self, inputs: 'Inputs') -> 'Chunk':
    """All that does not depend on the states before some tokens."""
    document_BC, held_BC = inputs.document, inputs.document >= 0
    sums_BNC = jnp.cumsum(inputs.decay, axis=1).swapaxes(1, 2)
    steps = sums_BNC[..., :, None] - sums_BNC[..., None, :]
    same = (document_BC[:, :, None] == document_BC[:, None]) & held_BC[:, None]
    seen = jnp.tril(same)[:, None]
    decay = jnp.exp(jnp.where(seen, steps, -jnp.inf))  # from key to query
    from_start = jnp.exp(sums_BNC)[..., None]  # [B, N, C, 1]
    strength = inputs.strength.swapaxes(1, 2)[..., None]
    k, v = inputs.k.swapaxes(1, 2), inputs.v.swapaxes(1, 2)  # [B, N, C, H]
    told = jnp.concatenate([v, from_start * k], axis=-1) * strength
    told, known = jnp.split(self.correct(inputs, decay, told), 2, axis=-1)
    of_last_BC, whole_B, document_B = counted(document_BC)
    to_end = jnp.exp(sums_BNC[..., -1:] - sums_BNC)
    kept = jnp.where(of_last_BC[:, None], to_end, 0.0)[..., None] * k
    all_BN11 = jnp.exp(sums_BNC[..., -1])[..., None, None]
    keep = all_BN11 * jnp.eye(k.shape[-1])[None, None]
    keep -= jnp.einsum('bnch,bncg->bnhg', kept, known)
    add = jnp.einsum('bnch,bncv->bnhv', kept, told)
    met = jnp.einsum('btnh,bsnh->bnts', inputs.q, inputs.k) * decay
    q = inputs.q.swapaxes(1, 2) * from_start
    update = Update((keep,), (add,), whole_B, document_B)
    return Chunk(q, met, told, known, document_BC, update)

  def _inputs(self, param, before, tokens, layer) -> 'Inputs':
    sizes, at = layer.sizes, tokens.at
    x = layer.norm(tokens.x)
    every = _convolved(self._kernel(param, sizes), before, tokens, layer)
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
    normed = RMSNorm()(within(param, 'norm'), read_BTNH, 'head_width')
    return normed * nn.silu(opened.astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class GatedLinear(GatedDelta):
  """S = a S + b k v^T: the same without the delta rule, as Mamba-2 decays.

  A value that is written under a key stays beside those that were before.
  """

  def correct(self, inputs, decay, x):
    width = inputs.v.shape[-1]
    return jnp.concatenate(
      [x[..., :width], jnp.zeros_like(x[..., width:])], axis=-1
    )


class Inputs(NamedTuple):
  """What tokens write and ask: float32 [B, T, N, H], and [B, T, N]."""

  q: Array
  k: Array
  v: Array
  decay: Array  # log a
  strength: Array  # b; 0 for what is no token
  document: Array  # [B, T]


class Chunk(NamedTuple):
  """What some tokens make of any states before them."""

  q: Array  # [B, N, C, H], decayed from the start
  met: Array  # [B, N, C, C]: what each token takes of each one written
  told: Array  # [B, N, C, H]: what they write,
  known: Array  # less what the states before recall by these
  document: Array  # [B, C]
  update: Update

  def recalled(self, matrix: Array, document_B: Array) -> Array:
    """[B, C, N, H]; the states before are of a document."""
    live_BC = (self.document == document_B[:, None]) & (self.document >= 0)
    live = live_BC[:, None, :, None]
    known = jnp.einsum('bnch,bnhv->bncv', self.known, matrix)
    written = self.told - jnp.where(live, known, 0.0)
    old = jnp.einsum('bnch,bnhv->bncv', self.q, matrix)
    y = jnp.einsum('bncs,bnsv->bncv', self.met, written)
    return (y + jnp.where(live, old, 0.0)).swapaxes(1, 2)


def inverted(lower: Array) -> Array:
  """(I + L)^-1 [B, N, C, C], for L below the diagonal, by products alone.

  The inverse of [[A, 0], [L, D]] is [[A', 0], [-D' L A', D']], so blocks of
  any size are inverted at once, and then blocks of twice that size. Solving row
  by row is as exact, but slow where products are fast; a series of powers of L
  is not exact where keys are alike.
  """
  *rows, size, _ = lower.shape
  whole = 1 << (size - 1).bit_length()
  filling = [(0, 0)] * len(rows) + [(0, whole - size)] * 2
  lower = jnp.pad(lower, filling)
  found = jnp.ones((*rows, whole, 1, 1), lower.dtype)
  block = 1
  while block < whole:
    count = whole // (2 * block)
    cut = lower.reshape(*rows, count, 2, block, count, 2, block)
    own = jnp.arange(count)
    below = jnp.moveaxis(cut[..., own, 1, :, own, 0, :], 0, len(rows))
    first, second = found[..., ::2, :, :], found[..., 1::2, :, :]
    corner = -jnp.matmul(second, jnp.matmul(below, first))
    nothing = jnp.zeros_like(corner)
    top = jnp.concatenate([first, nothing], axis=-1)
    bottom = jnp.concatenate([corner, second], axis=-1)
    found = jnp.concatenate([top, bottom], axis=-2)
    block *= 2
  return found[..., 0, :size, :size]


def _cut(inputs: Inputs, chunk: int) -> Inputs:
  """[B, T, ...] to [chunks, B, C, ...]; what fills the last is no token."""
  length = inputs.document.shape[1]
  chunk = min(chunk, length)
  count = -(-length // chunk)

  def cut(x, fill=0):
    filling = ((0, 0), (0, count * chunk - length), *((0, 0),) * (x.ndim - 2))
    x = jnp.pad(x, filling, constant_values=fill)
    return jnp.moveaxis(x.reshape(-1, count, chunk, *x.shape[2:]), 1, 0)

  *arrays, document = inputs
  return Inputs(*map(cut, arrays), cut(document, EMPTY))


def _channels(tokens: Segment, layer) -> Array:
  """What is convolved: queries, keys and values, [B, T, N + 2 K, H]."""
  width = layer.sizes.head_width
  q = layer.queries(layer.norm(tokens.x)) * width**0.5
  return jnp.concatenate([q, tokens.k[..., :width], tokens.v], axis=2)


def _convolved(kernel_WCH, before: Held, tokens: Segment, layer) -> Array:
  """float32 [B, T, N + 2 K, H]; tokens of another document count as zeros."""
  x = jnp.concatenate([before.states, _channels(tokens, layer)], axis=1)
  document = jnp.concatenate([before.at.document, tokens.at.document], axis=1)
  length, back = tokens.at.length, before.at.length
  x, y = x.astype(jnp.float32), 0.0
  for steps, kernel_CH in enumerate(kernel_WCH):
    first = back - steps
    same = document[:, first : first + length] == tokens.at.document
    part = jnp.where(same[..., None, None], x[:, first : first + length], 0.0)
    y += kernel_CH[None, None] * part
  return nn.silu(y)


def _last(before: Held, tokens: Segment, layer) -> Held:
  """The few tokens that the next ones are convolved with, row by row."""
  slots = before.at.length
  held_BT = tokens.at.document >= 0
  steps_1T = jnp.arange(1, 1 + tokens.at.length, dtype=jnp.int32)[None]
  end_B = jnp.where(held_BT, steps_1T, 0).max(axis=1)

  def cut(old, new):
    both = jnp.concatenate([old, new.astype(old.dtype)], axis=1)
    return jax.vmap(
      lambda row, end: jax.lax.dynamic_slice_in_dim(row, end, slots)
    )(both, end_B)

  at = jax.tree.map(cut, before.at, tokens.at.replace(start=before.at.start))
  return Held(cut(before.states, _channels(tokens, layer)), at)


def _unit(x: Array) -> Array:
  return x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-6)


def _rates(key, shape, dtype):
  """exp(A) from 1 to 16, as published for Mamba-2."""
  return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, 16.0))


def _steps(key, shape, dtype):
  """softplus of it from 0.001 to 0.1, evenly by its logarithm."""
  low, high = math.log(1e-3), math.log(0.1)
  size = jnp.exp(jax.random.uniform(key, shape, dtype, low, high))
  return size + jnp.log(-jnp.expm1(-size))
