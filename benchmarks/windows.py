"""The alternative to memory: a window of text read anew for each prediction.

Windows of equal length move on by `stride` tokens. Each predicts its last
`stride` tokens, and the first of a row all of its own, so that every token is
predicted once and has nearly a whole window before it. A stride of one is
what models without memory need to see as far at every token (Al-Rfou et al.
2019; the comparison of Dai et al. 2019, table 9).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lctx.evaluation.score import Evaluation
from lctx.models.text import Decoder
from lctx.types import Array, Params, segment_coords


class Windows:
  """A model without its memory, reading windows, `batch` of them at a time.

  Relative keys are made once, and the loss only of the tokens that count: it
  is the fastest that the model can do this.
  """

  def __init__(self, model: Decoder, params: Params, length: int, batch: int):
    alone = Evaluation(memory=0, same_length=False).model(model)
    self.model, self.length, self.batch = alone.for_inference(), length, batch
    self._params = params
    scores = jax.jit(self.model.scores, static_argnums=1)
    self._scores = scores(params, length)
    self._read = jax.jit(
      functools.partial(_read, self.model), static_argnums=(4,)
    )

  def read(self, tokens_BT, targets_BT, count: int) -> Array:
    """Nats of the last `count` targets of at most `batch` windows."""
    return self._read(self._params, self._scores, tokens_BT, targets_BT, count)

  def lowered(self, tokens_BT, targets_BT, count: int) -> jax.stages.Lowered:
    """The program of `read`, not compiled yet."""
    given = self._params, self._scores, tokens_BT, targets_BT
    return self._read.lower(*given, count)

  def nats(self, tokens, targets, stride: int) -> np.ndarray:
    """Nats of all targets of rows [B, n], n at least a window's length."""
    rows, length = tokens.shape
    found = np.full((rows, length), np.nan, np.float32)
    for count, ends in (
      (self.length, np.array([self.length])),
      (stride, np.arange(self.length + stride, length + stride, stride)),
    ):
      ends = np.minimum(ends, length)  # the last may have fewer new tokens
      places = [(b, end) for b in range(rows) for end in ends]
      for i in range(0, len(places), self.batch):
        some = places[i : i + self.batch]
        self._fill(found, tokens, targets, some, count)
    assert not np.isnan(found).any()
    return found

  def _fill(self, found, tokens, targets, places, count):
    cut = [(b, slice(end - self.length, end)) for b, end in places]
    nats = self.read(
      np.stack([tokens[at] for at in cut]),
      np.stack([targets[at] for at in cut]),
      count,
    )
    for (b, end), row in zip(places, np.asarray(nats), strict=True):
      place = found[b, end - count : end]
      place[np.isnan(place)] = row[np.isnan(place)]


def _read(
  model: Decoder, params: Params, scores, tokens_BT, targets_BT, count: int
):
  variables = {'params': params}
  at = segment_coords(jnp.zeros_like(tokens_BT))
  carry = model.initial(tokens_BT.shape[0])
  hidden, _, _ = model.apply(variables, tokens_BT, at, carry, scores)
  last = hidden[:, -count:], targets_BT[:, -count:]
  return model.apply(variables, *last, method='nll')
