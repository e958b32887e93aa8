"""A decoder: reads one segment and carries what it remembers.

hidden, carry, penalty = model.apply({'params': params}, tokens, at, carry)
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lctx import losses
from lctx.fields import check
from lctx.layers.parameters import Owner
from lctx.memory.base import Memory, remembers
from lctx.memory.held import (
  exchanged,
  forgotten,
  last_read,
  nowhere,
  place,
  where,
)
from lctx.models.block import Block, Shared, layer_scores
from lctx.models.carry import (
  LayerCarry,
  ModelCarry,
  check_alike,
  first_layer,
  open_segment,
  per_layer,
  token_before,
)
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
  join,
  offsets,
  segment_coords,
)


class Run(NamedTuple):
  """Equal layers, one after the other."""

  name: str  # of their parameters
  memory: Memory
  depth: int


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
    sizes, kernel = self.sizes(2), self.compute.kernel
    self.heads.check(sizes)
    self.position.check(sizes)
    self.pattern.check_heads(sizes.num_heads)
    self.memory.check(sizes, self.pattern, self.heads)
    kernel.check_dropout(self.dropout.attention)
    for run in self.runs:
      near, *_ = run.memory.patterns(self.pattern)
      kernel.check(near)
      if not run.memory.in_order:
        kernel.check_order(type(run.memory).__name__.lower())
    super().__post_init__()

  @property
  def runs(self) -> tuple[Run, ...]:
    """Layers one after the other that remember alike: each is one scan."""
    memories = self.memory.of_layers(self.stack.depth)
    runs = [(m, len([*same])) for m, same in itertools.groupby(memories)]
    if len(runs) == 1:
      return (Run('layers', *runs[0]),)
    return tuple(Run(f'layers_{i}', *run) for i, run in enumerate(runs))

  def setup(self):
    self.vocabulary = Vocabulary(self.embed, self.compute.jax_dtype)
    self.placed = Owner(self.position.embed)
    self.once = Owner(self.position.once)
    self.memory_once = [Owner(run.memory.once) for run in self.runs]
    self.around = Owner(_asked)
    self.drop = nn.Dropout(self.dropout.hidden)
    block = Block
    if self.compute.remat_layers:
      block = nn.remat(Block, prevent_cse=False)
    for run in self.runs:
      layers = nn.scan(
        block,
        variable_axes={'params': 0},
        split_rngs={'params': True, 'dropout': True},
        in_axes=(0, 0, *(nn.broadcast,) * 4),
        length=run.depth,
        unroll=min(self.compute.unroll, run.depth),
        metadata_params={nn.PARTITION_NAME: 'layers'},
      )(
        self.stack,
        self.position,
        self.heads,
        self.pattern,
        run.memory,
        self.dropout,
        self.compute.kernel,
        self.memory.around.counts,
      )
      setattr(self, run.name, layers)

  def __call__(
    self, tokens_BT: Array, at: Coords, carry: ModelCarry, scores: Any = None
  ) -> tuple[Array, ModelCarry, Array]:
    """Hidden states [B, T, D], the carry after them, and auxiliary losses.

    With open segments in `carry` the tokens join them; without, they are a
    whole segment and memory is written. `scores`, made once by the method of
    that name, saves what would be the same for every segment.
    """
    wanted = jax.eval_shape(lambda: self.initial(tokens_BT.shape[0]))
    check_alike(carry, wanted, str(self.memory))
    opened, around = carry.open, self.memory.around
    sizes = self.sizes(at.length if opened is None else opened.text.at.length)
    at = self._counted(at, carry).shifted(-around.before)
    x = self._drop(self.placed(self.vocabulary(tokens_BT), at))
    if opened is not None or not any(around.counts):
      x, carry, penalty = self._layers(x, at, carry, scores, sizes)
      return self._drop(x), carry, penalty
    # A whole segment, with what stands around its text.
    start, stop = around.before, around.before + at.length
    last = place(at, nowhere(at.document.shape[0]))
    parts = [self._first(carry, sizes), (x, at)]
    parts.append(self._last(carry, last, stop, sizes))
    x = jnp.concatenate([x for x, _ in parts if x is not None], axis=1)
    at = functools.reduce(join, (at for _, at in parts if at is not None))
    x, carry, penalty = self._layers(x, at, carry, scores, sizes)
    carry = self._kept(carry, x[:, stop:], last)
    return self._drop(x[:, start:stop]), carry, penalty

  def _layers(self, x, at, carry, scores, sizes, closing_B=None):
    """All of them: states, carry and auxiliary losses."""
    position = self.once(sizes, self._drop) if scores is None else None
    layers, total = [], 0.0
    for i, run in enumerate(self.runs):
      memory = self.memory_once[i](sizes, self._drop)
      given = None if scores is None else scores[i]
      shared = Shared(position, memory)
      layer = getattr(self, run.name)
      inputs = (carry.layers[i], given, shared, at, sizes, closing_B)
      x, (new, penalties) = layer(x, *inputs)
      layers.append(new)
      total += penalties.sum()
    return x, carry.replace(layers=tuple(layers)), total

  def _first(self, carry, sizes):
    """States and coordinates of what stands before the text."""
    around = self.memory.around
    if not around.before:
      return None, None
    x, document_BT = self.around(around.first, first_layer(carry.around), sizes)
    return x.astype(sizes.dtype), segment_coords(document_BT)

  def _last(self, carry, place, start, sizes):
    """The same behind the text, whose last token sat at `place`."""
    around = self.memory.around
    if not around.after:
      return None, None
    x = self.around(around.last, first_layer(carry.around), place, sizes)
    document_BT = jnp.repeat(place.document, around.after, axis=1)
    at = segment_coords(document_BT, start)
    began = jnp.full_like(at.segment, around.before)
    return x.astype(sizes.dtype), at.replace(segment=began)

  def _kept(self, carry, x, place):
    around = self.memory.around
    if not around.after:
      return carry
    kept = self.around(around.keep, first_layer(carry.around), x, place)
    return carry.replace(around=jax.tree.map(lambda leaf: leaf[None], kept))

  def opened(self, batch: int, segment: int, scores: Any) -> ModelCarry:
    """Rows that have read nothing, with an open segment each."""
    sizes = self.sizes(segment)
    opened = open_segment(batch, segment, self.memory.around.counts, sizes)
    carry = self.initial(batch)
    layers = tuple(
      layer.replace(open=per_layer(opened, run.depth))
      for layer, run in zip(carry.layers, self.runs)
    )
    carry = carry.replace(layers=layers)
    return self._begun(carry, jnp.ones(batch, bool), scores, sizes)

  def closed(self, carry: ModelCarry, scores: Any) -> ModelCarry:
    """Rows whose text is full: into memory, and a new segment begins."""
    text = carry.open.text.at
    batch, segment = text.document.shape
    sizes, closing_B = self.sizes(segment), carry.open.filled == segment
    last = place(text, nowhere(batch))
    last = last.replace(
      document=jnp.where(closing_B[:, None], last.document, EMPTY)
    )
    start = self.memory.around.before + segment
    x, at = self._last(carry, last, start, sizes)
    if x is None:
      x = jnp.zeros((batch, 0, sizes.width), sizes.dtype)
      at = segment_coords(jnp.zeros((batch, 0), jnp.int32), start)
    x, new, _ = self._layers(x, at, carry, scores, sizes, closing_B)
    return self._begun(self._kept(new, x, last), closing_B, scores, sizes)

  def _begun(self, carry, rows_B, scores, sizes):
    """With what stands before the text, in new segments of these rows."""
    x, at = self._first(carry, sizes)
    if x is None:
      return carry
    document_BT = jnp.where(rows_B[:, None], at.document, EMPTY)
    at = at.replace(document=document_BT)
    return self._layers(x, at, carry, scores, sizes)[1]

  def nll(self, hidden_BTD: Array, targets_BT: Array) -> Array:
    """Nats of each target, float32 [B, T]; by chunks of tokens."""
    return losses.nll(self.vocabulary.output(), hidden_BTD, targets_BT)

  def log_probs(self, hidden_BTD: Array) -> Array:
    """Log-probabilities of every token, float32 [B, T, V]."""
    return losses.log_probs(self.vocabulary.output(), hidden_BTD)

  def _drop(self, x):
    return self.drop(x, deterministic=not self.has_rng('dropout'))

  def _counted(self, at: Coords, carry: ModelCarry) -> Coords:
    """With the offset of each token in its document, wherever that began."""
    memories = first_layer(tuple(layer.memory for layer in carry.layers))
    last, opened = last_read(memories), carry.open
    if opened is not None:
      last = token_before(opened.text, at, last)
    if last is None:
      return at
    return at.replace(offset=offsets(at.document, *last))

  @nn.nowrap
  def sizes(self, segment: int = 0) -> Sizes:
    """Widths, heads, and how far a segment with a text that long looks."""
    num_heads = self.stack.num_heads
    head_width = self.stack.head_width_of(self.embed.width)
    length = segment + sum(self.memory.around.counts)
    after, longest = self.pattern.reach.after, max(length - 1, 0)
    sizes = Sizes(
      width=self.embed.width,
      num_heads=num_heads,
      key_heads=self.heads.keys or num_heads,
      head_width=head_width,
      distances=self.memory.length + length,
      ahead=longest if after is None else min(after, longest),
      dtype=self.compute.jax_dtype,
      key_width=head_width,
    )
    return dataclasses.replace(sizes, key_width=self.heads.key_width(sizes))

  @property
  def remembers(self) -> bool:
    """Whether anything is carried from segment to segment."""
    return any(remembers(run.memory, self.sizes()) for run in self.runs)

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
    if limit is None or not self.remembers:
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
    tokens = jnp.zeros((1, self.memory.multiple), jnp.int32)
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
  def initial(self, batch: int) -> ModelCarry:
    """The carry of `batch` rows that have read nothing; leaves [L, B, ...]."""
    sizes, dtype = self.sizes(), self.compute.jax_dtype
    layers = tuple(
      LayerCarry(per_layer(run.memory.initial(batch, sizes, dtype), run.depth))
      for run in self.runs
    )
    around = self.memory.around.initial(batch, sizes, dtype)
    return ModelCarry(layers, per_layer(around, 1))

  @nn.nowrap
  def open(
    self, params: Params, batch: int, segment: int, scores: Any = None
  ) -> ModelCarry:
    """As `initial`, with open segments: for reading token by token."""
    given = batch, segment, scores
    return self.apply({'params': params}, *given, method='opened')

  @nn.nowrap
  def close(
    self, params: Params, carry: ModelCarry, scores: Any = None
  ) -> ModelCarry:
    """Rows whose open segment is full: into memory, and it is empty again."""
    return self.apply({'params': params}, carry, scores, method='closed')

  @nn.nowrap
  def forget(self, carry: ModelCarry, rows_B: Array) -> ModelCarry:
    """The carry with the memory of some rows emptied."""
    return carry.of_memory(forgotten, rows_B)

  @nn.nowrap
  def exchange(self, carry: ModelCarry, rows_B: Array) -> ModelCarry:
    """Row b with what row `rows_B[b]` remembers, in row b's own slots."""
    return carry.of_memory(exchanged, rows_B)

  @nn.nowrap
  def where(
    self, rows_B: Array, new: ModelCarry, old: ModelCarry
  ) -> ModelCarry:
    """`new` in the rows where `rows_B` is true, else `old`."""
    return where(rows_B, new, old, axis=1)

  @nn.nowrap
  def scores(self, params: Params, segment: int) -> tuple[Score, ...]:
    """Every layer's scores for segments of this length, stacked.

    For parameters that stand still: the relative keys of all distances.
    """
    sizes, top = self.sizes(segment), params.get('once', {})
    shared = self.position.once(_given(top), sizes, lambda x: x)

    def one(layer):
      return layer_scores(_given(layer), shared, self, sizes)

    return tuple(
      jax.vmap(one)(params[run.name]) if run.memory.attends else ()
      for run in self.runs
    )


def _given(params):
  """A `param` that looks parameters up instead of declaring them."""
  return lambda name, shape, axes, init=None: params[name]


def _asked(param: Callable, question: Callable, *given):
  """An owner that answers several questions of one part."""
  return question(param, *given)
