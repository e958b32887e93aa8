"""An encoder, and a decoder that looks at its states: T5, BART."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from lctx.fields import check
from lctx.memory.base import Memory
from lctx.models.carry import ModelCarry
from lctx.models.cross import Context
from lctx.models.heads import Heads
from lctx.models.parts import Compute, Dropout, Stack
from lctx.models.segments import merge, scan_segments, split
from lctx.models.tasks import Task, Words
from lctx.models.text import Decoder, Encoder
from lctx.models.vocabulary import Embedding
from lctx.patterns import Pattern
from lctx.positions import Position
from lctx.types import Array, Batch, Coords, Params, segment_coords

SIDES = 'encoder', 'decoder'
VOCABULARY = 'vocabulary'


@dataclasses.dataclass(frozen=True)
class Side:
  """One of the two bodies."""

  stack: Stack
  position: Position
  pattern: Pattern
  memory: Memory = dataclasses.field(default_factory=Memory)
  heads: Heads = dataclasses.field(default_factory=Heads)


@dataclasses.dataclass(frozen=True)
class EncoderDecoder:
  """Two models: one reads a text, one writes another.

  They have one vocabulary, or, with `shared` off, each its own. `source` and
  `target` are these models, `params_of` takes the parameters of either.

  The encoder reads in segments, with its memory, or in one. Then the
  decoder looks at the `context`: 'all' states of all segments, or, of a memory
  with tokens behind the text, only what these are at the end ('memory';
  Bulatov et al. 2022). Its own text it reads as any decoder does.
  """

  embed: Embedding
  encoder: Side
  decoder: Side
  context: str = 'all'
  shared: bool = True
  task: Task = dataclasses.field(default_factory=Words)
  dropout: Dropout = dataclasses.field(default_factory=Dropout)
  compute: Compute = dataclasses.field(default_factory=Compute)

  def __post_init__(self):
    check(self, EncoderDecoder, 'model')
    if self.context not in ('all', 'memory'):
      raise ValueError(
        f"model.context = {self.context!r} is no choice. Use 'all' or 'memory'."
      )
    for name in SIDES:
      try:
        self._side(name)
      except ValueError as error:
        raise ValueError(_renamed(str(error), name)) from error
    if self.context == 'memory' and not self._keeps_tokens():
      raise ValueError(
        f'model.context = memory, but model.encoder.memory = '
        f'{self.encoder.memory} keeps no tokens from behind the text. Use '
        'tokens, or model.context=all.'
      )

  def _keeps_tokens(self) -> bool:
    carry = jax.eval_shape(lambda: self.source.initial(1))
    return bool(jax.tree.leaves(carry.around))

  def _side(self, name: str) -> Encoder | Decoder:
    side, decodes = getattr(self, name), name == 'decoder'
    embed = self.embed
    if not decodes and not self.shared:  # it predicts no words
      embed = dataclasses.replace(embed, tie_weights=True, out_bias=False)
    return (Decoder if decodes else Encoder)(
      embed=embed,
      stack=side.stack,
      position=side.position,
      pattern=side.pattern,
      memory=side.memory,
      heads=side.heads,
      dropout=self.dropout,
      compute=self.compute,
      cross=decodes,
      task=self.task if decodes else Words(),
    )

  @property
  def source(self) -> Encoder:
    """The model that reads the text which is given."""
    return self._side('encoder')

  @property
  def target(self) -> Decoder:
    """The model that writes; its carry has a context."""
    return self._side('decoder')

  def params_of(self, params: Params, name: str) -> Params:
    """Those of the 'encoder' or the 'decoder', with the vocabulary."""
    if not self.shared:
      return params[name]
    return {**params[name], VOCABULARY: params[VOCABULARY]}

  def initial(self, batch: int) -> tuple:
    """What is carried from one pair of texts to the next: nothing."""
    return ()

  def with_vocabulary(self, size: int) -> 'EncoderDecoder':
    """The same model for a tokenizer of `size` tokens.

    Raises ValueError where the config names a smaller vocabulary.
    """
    embed = self.target.with_vocabulary(size).embed
    return dataclasses.replace(self, embed=embed)

  def boxed_params(self, key: Array) -> Params:
    """Initial parameters, each boxed with the names of its logical axes."""
    keys = jax.random.split(key)
    parts = (self.source, self.target)
    found = [dict(x.boxed_params(k)) for x, k in zip(parts, keys)]
    if not self.shared:
      return dict(zip(SIDES, found))
    vocabulary, _ = (of_side.pop(VOCABULARY) for of_side in found)
    return {VOCABULARY: vocabulary, **dict(zip(SIDES, found))}

  def init_params(self, key: Array) -> Params:
    """Initial parameters: a nested dict of float32 arrays."""
    return jax.tree.map(
      lambda box: box.unbox(), self.boxed_params(key), is_leaf=_is_box
    )

  def axes(self) -> Params:
    """Logical axes of every parameter: a tuple of names each."""
    boxed = jax.eval_shape(self.boxed_params, jax.random.key(0))
    return jax.tree.map(lambda box: tuple(box.names), boxed, is_leaf=_is_box)

  def read(
    self,
    params: Params,
    tokens_BS: Array,
    at: Coords,
    *,
    segment: int | None = None,
    key: Array | None = None,
    gradient_segments: int | None = None,
  ) -> tuple[ModelCarry, Array]:
    """What the decoder begins with, and the encoder's auxiliary loss.

    The text [B, S] is read by segments of that length (None: in one), from
    which gradients reach `gradient_segments` back (None: all). `key` is for
    dropout.
    """
    model, own = self.source, self.params_of(params, 'encoder')
    length = tokens_BS.shape[1] if segment is None else segment
    padded = -tokens_BS.shape[1] % length
    given = jax.tree.map(lambda x: _padded(x, padded), _Read.of(tokens_BS, at))
    count = given.tokens.shape[1] // length
    keys = jax.random.split(jax.random.key(0) if key is None else key, count)

    def one(carry, inputs):
      part, own_key = inputs
      rngs = {} if key is None else {'dropout': own_key}
      hidden, carry, penalty = model.apply(
        {'params': own}, part.tokens, part.coords, carry, rngs=rngs
      )
      return carry, (hidden, penalty)

    back = count - 1 if gradient_segments is None else gradient_segments
    carry, (hidden, penalties) = scan_segments(
      one,
      model.initial(len(tokens_BS)),
      (split(given, length), keys),
      gradient_segments=back,
      remat=self.compute.remat_segments,
    )
    if self.context == 'memory':
      context = model.apply({'params': own}, carry, method='kept')
    else:
      context = Context(merge(hidden)[:, : at.length], at)
    begun = self.target.initial(len(tokens_BS))
    return self.target.with_context(begun, context), penalties.mean()

  def nll(
    self, params: Params, batch: Batch, *, key: Array | None = None, **how
  ) -> tuple[Array, Array]:
    """Nats of every target of a batch of pairs [B, n], and auxiliary losses.

    `key` is for dropout; `how` the source is read, `read` says.
    """
    read_key, write_key = (None, None) if key is None else jax.random.split(key)
    at = segment_coords(batch.source_document)
    begun, of_source = self.read(params, batch.source, at, key=read_key, **how)
    target, own = self.target, {'params': self.params_of(params, 'decoder')}
    rngs = {} if key is None else {'dropout': write_key}
    given = own, batch.tokens, batch.coords, begun
    hidden, _, of_target = target.apply(*given, rngs=rngs)
    nll = target.apply(own, hidden, batch.targets, method='nll')
    return nll, of_source + of_target


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Read:
  """A text, ready to be cut into segments: [B, S] each."""

  tokens: Array
  document: Array
  role: Array
  offset: Array

  @classmethod
  def of(cls, tokens, at):
    return cls(tokens, at.document, at.role, at.offset)

  @property
  def coords(self) -> Coords:
    at = segment_coords(self.document)
    return at.replace(role=self.role, offset=self.offset)


def _padded(x: Array, slots: int) -> Array:
  """With slots behind it that hold nothing: -1 is the document of none."""
  return jnp.pad(x, ((0, 0), (0, slots)), constant_values=-1)


def _renamed(error: str, side: str) -> str:
  for part in ('stack', 'position', 'pattern', 'memory', 'heads'):
    error = error.replace(f'model.{part}', f'model.{side}.{part}')
  return error


def _is_box(x: Any) -> bool:
  return hasattr(x, 'unbox')
