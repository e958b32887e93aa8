"""A decoder: reads one segment and carries what it remembers.

hidden, carry, penalty = model.apply({'params': params}, tokens, at, carry)
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lctx import losses
from lctx.fields import check
from lctx.layers.parameters import Owner
from lctx.memory.base import Memory
from lctx.models.attention import LayerCarry, open_segment
from lctx.models.block import Block, Shared, layer_scores
from lctx.models.heads import Heads
from lctx.models.parts import Compute, Dropout, Stack
from lctx.models.vocabulary import Embedding, Vocabulary
from lctx.patterns import Pattern
from lctx.positions import Position, Score, Sizes
from lctx.types import (
  EMPTY,
  Array,
  Coords,
  Params,
  offsets,
  segment_coords,
)


class Decoder(nn.Module):
  """A stack of equal layers over an embedding; the parts say the rest.

  Dropout acts when a 'dropout' random key is given, and only then.
  """

  embed: Embedding
  stack: Stack
  position: Position
  pattern: Pattern
  memory: Memory
  heads: Heads = Heads()
  dropout: Dropout = Dropout()
  compute: Compute = Compute()

  def __post_init__(self):
    check(self, Decoder, 'model')
    sizes = self.sizes(2)
    self.heads.check(sizes)
    self.position.check(sizes)
    self.pattern.check_heads(sizes.num_heads)
    self.memory.check(sizes, self.pattern, self.heads)
    near, *_ = self.memory.patterns(self.pattern)
    self.compute.kernel.check(near)
    self.compute.kernel.check_dropout(self.dropout.attention)
    if not self.memory.in_order:
      self.compute.kernel.check_order(type(self.memory).__name__.lower())
    super().__post_init__()

  def setup(self):
    self.vocabulary = Vocabulary(self.embed, self.compute.jax_dtype)
    self.placed = Owner(self.position.embed)
    self.once = Owner(self.position.once)
    self.memory_once = Owner(self.memory.once)
    self.drop = nn.Dropout(self.dropout.hidden)
    block = Block
    if self.compute.remat_layers:
      block = nn.remat(Block, prevent_cse=False)
    self.layers = nn.scan(
      block,
      variable_axes={'params': 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=(0, 0, nn.broadcast, nn.broadcast, nn.broadcast),
      length=self.stack.depth,
      unroll=min(self.compute.unroll, self.stack.depth),
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )(
      self.stack,
      self.position,
      self.heads,
      self.pattern,
      self.memory,
      self.dropout,
      self.compute.kernel,
    )

  def __call__(
    self, tokens_BT: Array, at: Coords, carry: LayerCarry, scores: Any = None
  ) -> tuple[Array, LayerCarry, Array]:
    """Hidden states [B, T, D], the carry after them, and auxiliary losses.

    With an open segment in `carry` the tokens join it; without, they are a
    whole segment and memory is written. `scores`, made once by the method of
    that name, saves what would be the same for every segment.
    """
    length = carry.open.at.length if carry.open is not None else at.length
    sizes = self.sizes(length)
    position = self.once(sizes, self._drop) if scores is None else None
    shared = Shared(position, self.memory_once(sizes, self._drop))
    at = self._counted(at, carry)
    x = self._drop(self.placed(self.vocabulary(tokens_BT), at))
    x, (carry, penalties) = self.layers(x, carry, scores, shared, at, sizes)
    return self._drop(x), carry, penalties.sum()

  def nll(self, hidden_BTD: Array, targets_BT: Array) -> Array:
    """Nats of each target, float32 [B, T]; by chunks of tokens."""
    return losses.nll(self.vocabulary.output(), hidden_BTD, targets_BT)

  def log_probs(self, hidden_BTD: Array) -> Array:
    """Log-probabilities of every token, float32 [B, T, V]."""
    return losses.log_probs(self.vocabulary.output(), hidden_BTD)

  def _drop(self, x):
    return self.drop(x, deterministic=not self.has_rng('dropout'))

  def _counted(self, at: Coords, carry: LayerCarry) -> Coords:
    """With the offset of each token in its document, wherever that began."""
    memory, opened = jax.tree.map(lambda x: x[0], (carry.memory, carry.open))
    last = self.memory.last(memory)
    if opened is not None:
      last = opened.last(at, last)
    if last is None:
      return at
    return at.replace(offset=offsets(at.document, *last))

  @nn.nowrap
  def sizes(self, segment: int = 0) -> Sizes:
    """Widths, heads, and how far a segment of this length looks."""
    num_heads = self.stack.num_heads
    head_width = self.stack.head_width_of(self.embed.width)
    after, longest = self.pattern.reach.after, max(segment - 1, 0)
    sizes = Sizes(
      width=self.embed.width,
      num_heads=num_heads,
      key_heads=self.heads.keys or num_heads,
      head_width=head_width,
      distances=self.memory.length + segment,
      ahead=longest if after is None else min(after, longest),
      dtype=self.compute.jax_dtype,
      key_width=head_width,
    )
    return dataclasses.replace(sizes, key_width=self.heads.key_width(sizes))

  @nn.nowrap
  def with_vocabulary(self, size: int) -> 'Decoder':
    """The same model for a tokenizer of `size` tokens.

    Raises ValueError where the config names a smaller vocabulary.
    """
    if self.embed.vocab is None:
      embed = dataclasses.replace(self.embed, vocab=size)
      return dataclasses.replace(self, embed=embed)
    if self.embed.vocab < size:
      raise ValueError(
        f'model.embed.vocab = {self.embed.vocab} is too small: the tokenizer '
        f"has {size} tokens. Remove it to take the tokenizer's, or set it to "
        f'{size} or more.'
      )
    return self

  @nn.nowrap
  def check_length(self, tokens: int | None, what: str) -> None:
    """Raises ValueError where a document of `tokens` (None: endless) is read
    on and on, and absolute positions end before it does."""
    limit = self.position.limit
    if limit is None or not self.memory.length:
      return
    if tokens is None or tokens > limit:
      count = 'no end' if tokens is None else f'{tokens:,} tokens'
      raise ValueError(
        f'{what} has {count}, but model.position.length = {limit:,} is where '
        'positions end, and memory carries a document from segment to segment. '
        'Set model.position.length higher, read shorter documents, or use a '
        'relative scheme, such as model.position=relativexl.'
      )

  @nn.nowrap
  def for_inference(self) -> 'Decoder':
    """The same function, with memory in its cheapest form; not to train."""
    return dataclasses.replace(self, memory=self.memory.for_inference())

  @nn.nowrap
  def for_decoding(self) -> 'Decoder':
    """The same function, for reading token by token."""
    kernel = self.compute.kernel.for_decoding()
    compute = dataclasses.replace(self.compute, kernel=kernel)
    return dataclasses.replace(self, compute=compute)

  @nn.nowrap
  def boxed_params(self, key: Array) -> Params:
    """Initial parameters, each boxed with the names of its logical axes."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    at = segment_coords(tokens)

    def every_part(model, tokens):
      hidden, _, _ = model(tokens, at, self.initial(1))
      return model.nll(hidden, tokens)

    return self.init(key, tokens, method=every_part)['params']

  @nn.nowrap
  def init_params(self, key: Array) -> Params:
    """Initial parameters: a nested dict of float32 arrays."""
    return nn.unbox(self.boxed_params(key))

  @nn.nowrap
  def axes(self) -> Params:
    """Logical axes of every parameter: a tuple of names each."""
    boxed = jax.eval_shape(self.boxed_params, jax.random.key(0))
    return jax.tree.map(
      lambda box: tuple(box.names),
      boxed,
      is_leaf=lambda box: isinstance(box, nn.meta.AxisMetadata),
    )

  @nn.nowrap
  def initial(self, batch: int) -> LayerCarry:
    """The carry of `batch` rows that have read nothing; leaves [L, B, ...]."""
    memory = self.memory.initial(batch, self.sizes(), self.compute.jax_dtype)
    return LayerCarry(self._per_layer(memory))

  @nn.nowrap
  def open(self, batch: int, segment: int) -> LayerCarry:
    """As `initial`, with an open segment: for reading token by token."""
    sizes, dtype = self.sizes(segment), self.compute.jax_dtype
    opened = open_segment(batch, segment, sizes, dtype)
    return self.initial(batch).replace(open=self._per_layer(opened))

  @nn.nowrap
  def filled(self, carry: LayerCarry) -> Array:
    """Tokens in the open segment of each row: int32 [B]."""
    return (carry.open.at.document[0] >= 0).sum(axis=1, dtype=jnp.int32)

  @nn.nowrap
  def close(self, carry: LayerCarry) -> LayerCarry:
    """Rows whose open segment is full: into memory, and it is empty again."""
    opened = carry.open
    full_B = self.filled(carry) == opened.at.length

    def write(memory, opened):
      states = (opened.x, opened.k, opened.v)
      return self.memory.write(memory, *states, opened.at)[0]

    written = LayerCarry(jax.vmap(write)(carry.memory, opened))
    memory = self.where(full_B, written, LayerCarry(carry.memory)).memory
    document = jnp.where(full_B[None, :, None], EMPTY, opened.at.document)
    opened = opened.replace(at=opened.at.replace(document=document))
    return LayerCarry(memory, opened)

  @nn.nowrap
  def forget(self, carry: LayerCarry, rows_B: Array) -> LayerCarry:
    """The carry with the memory of some rows emptied."""
    forget = jax.vmap(self.memory.forget, in_axes=(0, None))
    return carry.replace(memory=forget(carry.memory, rows_B))

  @nn.nowrap
  def exchange(self, carry: LayerCarry, rows_B: Array) -> LayerCarry:
    """Row b with what row `rows_B[b]` remembers, in row b's own slots."""
    exchange = jax.vmap(self.memory.exchange, in_axes=(0, None))
    return carry.replace(memory=exchange(carry.memory, rows_B))

  @nn.nowrap
  def where(
    self, rows_B: Array, new: LayerCarry, old: LayerCarry
  ) -> LayerCarry:
    """`new` in the rows where `rows_B` is true, else `old`."""

    def leaf(new, old):
      rows = rows_B.reshape(1, -1, *(1,) * (new.ndim - 2))
      return jnp.where(rows, new, old)

    return jax.tree.map(leaf, new, old)

  @nn.nowrap
  def scores(self, params: Params, segment: int) -> tuple[Score, ...]:
    """Every layer's scores for segments of this length, stacked.

    For parameters that stand still: the relative keys of all distances.
    """
    sizes, top = self.sizes(segment), params.get('once', {})
    shared = self.position.once(_given(top), sizes, lambda x: x)
    return jax.vmap(
      lambda layer: layer_scores(_given(layer), shared, self, sizes)
    )(params['layers'])

  @nn.nowrap
  def _per_layer(self, one):
    depth = self.stack.depth
    return jax.tree.map(
      lambda leaf: jnp.broadcast_to(leaf[None], (depth, *leaf.shape)), one
    )


def _given(params):
  """A `param` that looks parameters up instead of declaring them."""
  return lambda name, shape, axes, init=None: params[name]
