"""Models that read tokens: decoders and encoders.

hidden, carry, penalty = model.apply({'params': params}, tokens, at, carry)
"""

from typing import Any

import jax.numpy as jnp

from lctx.models.answering import Answering
from lctx.models.body import Body
from lctx.models.carry import ModelCarry, first_layer
from lctx.models.cross import Context
from lctx.models.tasks import Task, Words
from lctx.types import Array, Coords, segment_coords


class TextModel(Body, Answering):
  """A body with a vocabulary; `task` is what is asked of its states."""

  task: Task = Words()

  def setup(self):
    self.set_up_answers()
    self.set_up_body()

  def __call__(
    self, tokens_BT: Array, at: Coords, carry: ModelCarry, scores: Any = None
  ) -> tuple[Array, ModelCarry, Array]:
    """Hidden states [B, T, D], the carry after them, and auxiliary losses.

    With open segments in `carry` the tokens join them; without, they are a
    whole segment and memory is written. `scores`, made once by the method of
    that name, saves what would be the same for every segment.
    """
    return self.read(self.vocabulary(tokens_BT, at.role), at, carry, scores)

  def every_part(self) -> Array:
    """Reads a text with all that has parameters."""
    tokens = jnp.zeros((1, self.memory.multiple), jnp.int32)
    at = segment_coords(tokens)
    carry = self.initial(1)
    if self.cross:
      x = jnp.zeros((1, 1, self.embed.width), self.compute.jax_dtype)
      carry = self.with_context(carry, Context(x, at.take(0, 1)))
    hidden, _, _ = self(tokens, at, carry)
    answers = self.answers(hidden, at)
    return self.nll(hidden, tokens) if answers is None else answers


class Decoder(TextModel):
  """Predicts the token after each token, of which it sees nothing."""


class Encoder(TextModel):
  """Reads a text both ways; with a memory, segment by segment."""

  def kept(self, carry: ModelCarry) -> Context:
    """What its tokens behind the text have become, as hidden states are."""
    held = first_layer(carry.around)
    count = held.states.shape[1] // held.at.length
    document = jnp.repeat(held.at.document, count, axis=1)
    x = held.states
    if self.stack.final_norm:
      x = self.final_norm(x)
    return Context(x, segment_coords(document))
