"""What every model with a vocabulary offers, whatever its body is."""

import dataclasses

import jax
from flax import linen as nn

from lctx import losses
from lctx.layers.parameters import Owner, spread
from lctx.models.vocabulary import Vocabulary
from lctx.types import Array, Coords, Params


class Answering(nn.Module):
  """Words or labels of hidden states, and the parameters of a whole model.

  It asks the model for the fields `embed` and `task`, for `_drop`, its dropout
  of states, for `deviation`, of initial parameters, and for `every_part`, which
  reads something with all of them.
  """

  def set_up_answers(self) -> None:
    """The submodules of the vocabulary and of the task."""
    self.vocabulary = Vocabulary(self.embed, self.compute.jax_dtype)
    self.asked = Owner(self.task.states, name='task')
    self.answered = Owner(self.task.answers, name='answers')

  def nll(self, hidden_BTD: Array, targets_BT: Array) -> Array:
    """Nats of each target, float32 [B, T]; by chunks of tokens."""
    return losses.nll(*self._met(hidden_BTD), targets_BT)

  def logits(self, hidden_BTD: Array) -> Array:
    """Of every token, float32 [B, T, V]; of a vocabulary without bins."""
    return losses.logits(*self._met(hidden_BTD))

  def log_probs(self, hidden_BTD: Array) -> Array:
    """Log-probabilities of every token, float32 [B, T, V]."""
    return losses.log_probs(*self._met(hidden_BTD))

  def answers(self, hidden_BTD: Array, at: Coords) -> Array:
    """What `task` asks of texts or tokens instead of words: float32 logits."""
    return self.answered(hidden_BTD, at, self._drop)

  def _met(self, hidden_BTD):
    states = self.vocabulary.met(self.asked(hidden_BTD))
    return self.vocabulary.output(), states

  @nn.nowrap
  def with_vocabulary(self, size: int) -> 'Answering':
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
  def boxed_params(self, key: Array) -> Params:
    """Initial parameters, each boxed with the names of its logical axes."""
    boxed = self.init(key, method='every_part')['params']
    return spread(boxed, self.deviation)

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
