"""What a decoder looks at while it writes: texts that an encoder has read."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lctx.models.carry import first_layer
from lctx.models.cross import Context
from lctx.models.encoder_decoder import EncoderDecoder
from lctx.types import EMPTY, Array, Params, segment_coords


def limit(model: EncoderDecoder) -> int | None:
  """Tokens that the encoder can read of a text; None = there is no end."""
  return model.source.text_limit


def context(
  model: EncoderDecoder, params: Params, rows: list[np.ndarray], segment: int
) -> Context:
  """Of each row of token ids, at most `limit(model)` of them.

  They are read by segments where the encoder remembers.
  """
  longest = max(len(row) for row in rows)
  ends = limit(model)
  assert ends is None or longest <= ends, (longest, ends)
  width = (
    -(-longest // segment) * segment if model.source.remembers else longest
  )
  tokens, document = np.zeros((2, len(rows), width), np.int32)
  document[:] = EMPTY
  for i, row in enumerate(rows):
    tokens[i, : len(row)], document[i, : len(row)] = row, 0
  length = segment if model.source.remembers else None
  return _read(
    model, length, params, jnp.asarray(tokens), jnp.asarray(document)
  )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _read(
  model: EncoderDecoder,
  segment: int | None,
  params: Params,
  tokens_BS: Array,
  document_BS: Array,
) -> Context:
  at = segment_coords(document_BS)
  carry, _ = model.read(params, tokens_BS, at, segment=segment)
  return first_layer(carry.context)
