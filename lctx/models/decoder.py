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
from lctx.layers.parameters import Owner, spread
from lctx.memory.base import Memory
from lctx.models.block import layer_scores
from lctx.models.carry import ModelCarry, check_alike
from lctx.models.heads import Heads
from lctx.models.parts import Compute, Dropout, Stack
from lctx.models.recurrent import Recurrent
from lctx.models.vocabulary import Embedding, Vocabulary
from lctx.patterns import Pattern
from lctx.positions import Position, Score, Sizes
from lctx.types import Array, Coords, Params, segment_coords


class Decoder(Recurrent):
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
    kernel.check_dropout(self.dropout.attention)
    for run in self.runs:
      run.memory.check(sizes, self.pattern, self.heads)
      name = type(run.memory).__name__.lower()
      near, *far = run.memory.patterns(self.pattern)
      kernel.check(near)
      if not run.memory.in_order:
        kernel.check_order(name)
      kernel.check_far(far, name)
    super().__post_init__()

  def setup(self):
    self.vocabulary = Vocabulary(self.embed, self.compute.jax_dtype)
    self.placed = Owner(self.position.embed)
    if self.embed.norm is not None:
      self.embed_norm = Owner(self.embed.norm)
    self.set_up_layers()
    if self.stack.final_norm:
      self.final_norm = Owner(self.stack.norm)
    self.drop = nn.Dropout(self.dropout.hidden)

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
    at = self.counted(at, carry).shifted(-around.before)
    x = self.placed(self.vocabulary(tokens_BT), at)
    if self.embed.norm is not None:
      x = self.embed_norm(x)
    x = self._drop(x)
    if opened is not None:
      x, carry, penalty = self.layers_of(x, at, carry, scores, sizes)
    else:
      x, carry, penalty = self.whole(x, at, carry, scores, sizes)
    if self.stack.final_norm:
      x = self.final_norm(x)
    return self._drop(x), carry, penalty

  def nll(self, hidden_BTD: Array, targets_BT: Array) -> Array:
    """Nats of each target, float32 [B, T]; by chunks of tokens."""
    return losses.nll(self.vocabulary.output(), hidden_BTD, targets_BT)

  def logits(self, hidden_BTD: Array) -> Array:
    """Of every token, float32 [B, T, V]; of a vocabulary without bins."""
    return losses.logits(self.vocabulary.output(), hidden_BTD)

  def log_probs(self, hidden_BTD: Array) -> Array:
    """Log-probabilities of every token, float32 [B, T, V]."""
    return losses.log_probs(self.vocabulary.output(), hidden_BTD)

  def _drop(self, x):
    return self.drop(x, deterministic=not self.has_rng('dropout'))

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
      logit_scale=self.heads.scale,
      scaled=self.embed.scaled,
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

    boxed = self.init(key, tokens, method=every_part)['params']
    return spread(boxed, self.stack.deviation_of(self.embed.width))

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
  def scores(self, params: Params, segment: int) -> tuple[Score, ...]:
    """Every layer's scores for segments of this length, stacked.

    For parameters that stand still: the relative keys of all distances.
    """
    if not self.attends:
      return ((),) * len(self.runs)
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
