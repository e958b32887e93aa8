"""What decoders and encoders share: a stack over embedded tokens."""

import dataclasses
from typing import Any

import jax
from flax import linen as nn

from lctx.fields import check
from lctx.layers.parameters import Owner
from lctx.memory.base import Memory
from lctx.models.block import layer_scores
from lctx.models.carry import ModelCarry, check_alike
from lctx.models.cross import Context, keys_and_values
from lctx.models.heads import Heads
from lctx.models.parts import Compute, Dropout, Stack
from lctx.models.recurrent import Recurrent
from lctx.models.runs import Run
from lctx.models.vocabulary import Embedding
from lctx.patterns import Everything, Pattern
from lctx.positions import Position, Score, Sizes
from lctx.types import Array, Coords, Params


class Body(Recurrent):
  """A stack of layers over embedded tokens; the parts say the rest.

  `cross`: each layer also looks at a context, the states of another text.
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
  cross: bool = False

  def __post_init__(self):
    check(self, type(self), 'model')
    sizes, kernel = self.sizes(2), self.compute.kernel
    self.heads.check(sizes)
    self.position.check(sizes)
    self.pattern.check_heads(sizes.num_heads)
    if self.pattern.counts:
      self._check_counts()
    kernel.check_dropout(self.dropout.attention)
    for run in self.runs:
      run.memory.check(sizes, run.kind.pattern, self.heads)
      name = type(run.memory).__name__.lower()
      near, *far = run.memory.patterns(run.kind.pattern)
      kernel.check(near)
      if not run.memory.in_order:
        kernel.check_order(name)
      kernel.check_far(far, name)
    if self.cross:
      self._check_cross()
    if self.pattern.of_length(1) != self.pattern and self.remembers:
      raise ValueError(
        f'model.pattern = {self.pattern} goes by the length of a segment, but '
        f'model.memory = {type(self.memory).__name__.lower()} carries text on '
        'from one to the next. Say how many blocks a text has '
        '(model.pattern.blocks), or use model.memory=memory.'
      )
    super().__post_init__()

  def _check_counts(self) -> None:
    if self.heads.cap is not None or self.heads.adaptive is not None:
      raise ValueError(
        f'model.heads.cap and adaptive bend logits, but model.pattern = '
        f'{self.pattern} counts keys more than once by adding to them. Use '
        'neither, or model.pattern.seed=0, which draws blocks instead.'
      )

  def _check_cross(self) -> None:
    if self.heads.norm is not None or self.stack.parallel:
      raise ValueError(
        'model.heads.norm and model.stack.parallel are of models without '
        'cross-attention. Leave them as they are by default.'
      )
    self.compute.kernel.check(Everything())

  def set_up_body(self) -> None:
    """The submodules of all that is no vocabulary."""
    self.placed = Owner(self.position.embed)
    if self.embed.norm is not None:
      self.embed_norm = Owner(self.embed.norm)
    self.set_up_layers()
    if self.stack.final_norm:
      self.final_norm = Owner(self.stack.norm)
    self.drop = nn.Dropout(self.dropout.hidden)

  def read(
    self, x: Array, at: Coords, carry: ModelCarry, scores: Any = None
  ) -> tuple[Array, ModelCarry, Array]:
    """Hidden states [B, T, D], the carry after them, and auxiliary losses.

    Of embedded tokens x [B, T, D]; all else as a model's `__call__`.
    """
    wanted = jax.eval_shape(lambda: self.initial(len(x)))
    check_alike(carry, wanted, str(self.memory))
    if (carry.context is None) == self.cross:
      has, wants = ('a context', 'none') if not self.cross else ('none', 'one')
      raise ValueError(
        f'The carry has {has} for cross-attention, but the model wants {wants}.'
        " A decoder beside an encoder begins with the encoder's `read`."
      )
    opened, around = carry.open, self.memory.around
    sizes = self.sizes(at.length if opened is None else opened.text.at.length)
    at = self.counted(at, carry).shifted(-around.before)
    x = self.placed(x, at)
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

  @property
  def deviation(self) -> float:
    """Of initial matrices and tables."""
    return self.stack.deviation_of(self.embed.width)

  @property
  def length(self) -> int | None:
    """Tokens of a document that can be read on and on; None = no end."""
    return self.position.limit if self.remembers else None

  @property
  def text_limit(self) -> int | None:
    """Tokens of a text that is read as one document; None = no end."""
    position = self.position
    return position.limit if self.remembers else position.segment_limit

  @nn.nowrap
  def check_length(self, tokens: int | None, what: str) -> None:
    """Raises ValueError where a document of `tokens` (None: endless) is read
    on and on, and absolute positions end before it does."""
    limit = self.length
    if limit is not None and (tokens is None or tokens > limit):
      count = 'no end' if tokens is None else f'{tokens:,} tokens'
      raise ValueError(
        f'{what} has {count}, but model.position.length = {limit:,} is where '
        'positions end, and memory carries a document from segment to segment. '
        'Set model.position.length higher, read shorter documents, let '
        'positions begin anew with each segment (model.position.restarts=true '
        'in training, too), or use a relative scheme, such as '
        'model.position=relativexl.'
      )

  @nn.nowrap
  def for_inference(self) -> 'Body':
    """The same function, with memory in its cheapest form; not to train."""
    return dataclasses.replace(self, memory=self.memory.for_inference())

  @nn.nowrap
  def for_decoding(self) -> 'Body':
    """The same function, for reading token by token."""
    kernel = self.compute.kernel.for_decoding()
    compute = dataclasses.replace(self.compute, kernel=kernel)
    return dataclasses.replace(self, compute=compute)

  @nn.nowrap
  def with_context(
    self, carry: ModelCarry, context: Context, params: Params | None = None
  ) -> ModelCarry:
    """A carry with what cross-attention looks at.

    Keys and values are made of it for every segment, and have gradients; with
    `params`, they are made once and kept, which decoding wants.
    """
    held = jax.tree.map(lambda leaf: leaf[None], context)
    carry = carry.replace(context=held)
    if params is None:
      return carry
    sizes = self.sizes()

    def one(layer):
      own = _given(layer['cross'])
      return keys_and_values(own, context.x, self.heads, sizes)

    layers = tuple(
      layer.replace(cross=jax.vmap(one)(run.of(params)))
      for layer, run in zip(carry.layers, self.runs)
    )
    return carry.replace(layers=layers)

  @nn.nowrap
  def scores(self, params: Params, segment: int) -> tuple[Score, ...]:
    """Every layer's scores for segments of this length, stacked.

    For parameters that stand still: the relative keys of all distances.
    """
    if not self.attends:
      return ((),) * len(self.runs)
    sizes = self.sizes(segment)
    return tuple(self._scores_of(run, params, sizes) for run in self.runs)

  @nn.nowrap
  def _scores_of(self, run: Run, params: Params, sizes: Sizes):
    if not run.memory.attends:
      return ()
    position = run.kind.position
    top = params.get(self.once_names[position], {})
    shared = position.once(_given(top), sizes, lambda x: x)

    def one(layer):
      return layer_scores(_given(layer), shared, position, self.heads, sizes)

    return jax.vmap(one)(run.of(params))


def _given(params):
  """A `param` that looks parameters up instead of declaring them."""
  return lambda name, shape, axes, init=None: params[name]
