"""What is asked of a model's states: words, or labels of texts and tokens."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from lctx.layers.ffn import FeedForward, Gelu, Tanh
from lctx.layers.norm import LayerNorm, Norm
from lctx.types import MASKED, PREFIX, Array, Coords

zeros = nn.initializers.zeros


@dataclasses.dataclass(frozen=True)
class Task:
  """`states` [B, T, D] meet the vocabulary; `answers` are what else is asked.

  Parameters are made by `param`.
  """

  def states(self, param: Callable, x: Array) -> Array:
    """States in which words are read off, [B, T, D]."""
    return x

  def answers(
    self, param: Callable, x: Array, at: Coords, drop: Callable
  ) -> Array | None:
    """Logits of labels, float32; None where words are all that is asked."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Words(Task):
  """Logits over the vocabulary, which `nll` is of: the states as they are."""

  def answers(self, param, x, at, drop):
    return None


@dataclasses.dataclass(frozen=True)
class MaskedWords(Words):
  """norm(bent(x W + b)) meets the vocabulary (Devlin et al. 2019, BERT)."""

  bent: FeedForward = dataclasses.field(default_factory=Gelu)
  norm: Norm = dataclasses.field(default_factory=lambda: LayerNorm(1e-12))

  def states(self, param, x):
    h_BTD = self.bent.bend(_dense(param, 'dense', x, x.shape[-1]))
    return self.norm(param, h_BTD.astype(x.dtype))


@dataclasses.dataclass(frozen=True)
class States(Task):
  """The states themselves, [B, T, D]; or one vector a text.

  `pooled`: [B, D], tanh(x W + b) of its first token.
  """

  pooled: bool = False

  def answers(self, param, x, at, drop):
    if not self.pooled:
      return x.astype(jnp.float32)
    return jnp.tanh(_dense(param, 'pooled', _chosen(x, at, 'first'), None))


@dataclasses.dataclass(frozen=True)
class TextLabels(Task):
  """Logits [B, labels] of a text: bent(x W + b) V + c of one of its tokens.

  `labels`: 1 is a number to be met (regression), more are classes. `of` chooses
  the token: 'first' (BERT's [CLS]) or 'last' (BART's and T5's end mark). Two
  texts that are compared are one, with another type for the second.
  """

  labels: int
  of: str = 'first'
  bent: FeedForward = dataclasses.field(default_factory=Tanh)

  def __post_init__(self):
    _check_labels(self.labels)
    if self.of not in ('first', 'last'):
      raise ValueError(
        f'model.task.of = {self.of!r} names no token of a text. Use '
        "'first' or 'last'."
      )

  def answers(self, param, x, at, drop):
    chosen = drop(_chosen(x, at, self.of))
    h_BD = self.bent.bend(_dense(param, 'pooled', chosen, None))
    return _dense(param, 'labels', drop(h_BD), self.labels)


@dataclasses.dataclass(frozen=True)
class TextScores(Task):
  """Logits [B, labels] of a text: x W of its last token (GPT-2, Llama).

  Decoders classify texts so, and reward models score them. `labels` as for
  TextLabels.
  """

  labels: int

  def __post_init__(self):
    _check_labels(self.labels)

  def answers(self, param, x, at, drop):
    return _matrix(param, 'labels', _chosen(x, at, 'last'), self.labels)


@dataclasses.dataclass(frozen=True)
class TokenLabels(Task):
  """Logits [B, T, labels] of every token: x W + b."""

  labels: int

  def __post_init__(self):
    _check_labels(self.labels)

  def answers(self, param, x, at, drop):
    return _dense(param, 'labels', drop(x), self.labels)


@dataclasses.dataclass(frozen=True)
class Spans(TokenLabels):
  """Where an answer begins and ends: logits [B, T, 2] (Devlin et al. 2019).

  Extractive question answering: a softmax over the tokens for each of the two.
  """

  labels: int = 2

  def __post_init__(self):
    if self.labels != 2:
      raise ValueError(
        f'model.task.labels = {self.labels}, but a span has 2 ends. Leave it.'
      )


@dataclasses.dataclass(frozen=True)
class QuestionSpans(Spans):
  """The same of a question and a text behind it (BigBird's published code).

  norm(x + ffn(x)) comes before, `hidden` wide in between (None: 4 x width). No
  token of the question, whose role has the PREFIX bit, is an end, but for the
  first, which says that there is no answer.
  """

  ffn: FeedForward = dataclasses.field(default_factory=Gelu)
  norm: Norm = dataclasses.field(default_factory=lambda: LayerNorm(1e-12))
  hidden: int | None = None

  def __post_init__(self):
    super().__post_init__()
    if self.hidden is not None and self.hidden < 1:
      raise ValueError(
        f'model.task.hidden = {self.hidden} is a width and must be at least 1, '
        'or none for 4 x model.embed.width.'
      )

  def answers(self, param, x, at, drop):
    fed = self.ffn(param, drop(x), self.hidden or 4 * x.shape[-1], drop)
    x = self.norm(param, x + fed)
    asks_BT = (at.role & PREFIX != 0) & (at.offset > 0)
    found = _dense(param, 'labels', x, self.labels)
    return jnp.where(asks_BT[:, :, None], MASKED, found)


def _chosen(x: Array, at: Coords, which: str) -> Array:
  """[B, D]: the first or last token that is there."""
  held_BT = at.document >= 0
  slot_B = jnp.argmax(held_BT, axis=1)
  if which == 'last':
    slot_B = held_BT.shape[1] - 1 - jnp.argmax(held_BT[:, ::-1], axis=1)
  return jnp.take_along_axis(x, slot_B[:, None, None], axis=1)[:, 0]


def _dense(param: Callable, name: str, x: Array, width: int | None) -> Array:
  """x W + b, float32, of any leading axes; `width` None = as wide as x."""
  width = width or x.shape[-1]
  y = _matrix(param, name, x, width)
  bias_F = param(f'{name}_bias', (width,), (_axis(x, width),), zeros)
  return y + bias_F.reshape(*(1,) * (x.ndim - 1), -1)


def _matrix(param: Callable, name: str, x: Array, width: int) -> Array:
  """x W, float32, of any leading axes."""
  kernel_DF = param(name, (x.shape[-1], width), ('width', _axis(x, width)))
  return jnp.einsum('...d,df->...f', x.astype(jnp.float32), kernel_DF)


def _axis(x: Array, width: int) -> str:
  return 'width' if width == x.shape[-1] else 'labels'


def _check_labels(labels: int) -> None:
  if labels < 1:
    raise ValueError(
      f'model.task.labels = {labels} counts labels and must be at least 1.'
    )
