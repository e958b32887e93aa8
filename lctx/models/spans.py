"""What learned spans mean for a whole model (Sukhbaatar et al. 2019)."""

import dataclasses

import jax.numpy as jnp

from lctx.models.encoder_decoder import SIDES, EncoderDecoder
from lctx.models.runs import Run
from lctx.models.text import Decoder
from lctx.types import Params


def clamped(model: Decoder | EncoderDecoder, params: Params) -> Params:
  """Parameters with every span back within its limits, after an update."""
  if isinstance(model, EncoderDecoder):
    sides = zip(SIDES, (model.source, model.target))
    return params | {x: clamped(side, params[x]) for x, side in sides}
  if model.heads.span is None:
    return params
  for run in attending(model):
    own = run.of(params)
    own = {**own, 'span': jnp.clip(own['span'], 0, 1)}
    params = run.put(params, own)
  return params


def effective_span(model: Decoder, params: Params) -> int | None:
  """Steps back beyond which no head looks; None = spans are not learned."""
  if model.heads.span is None:
    return None
  effective = model.heads.span.effective
  return max(effective(run.of(params)['span']) for run in attending(model))


def attending(model: Decoder) -> list[Run]:
  """The layers whose heads look at tokens."""
  return [run for run in model.runs if run.memory.attends]


def trimmed(model: Decoder, params: Params) -> Decoder:
  """The same function with no more memory than these parameters look at.

  Of a cache with a length; other memories stay as they are.
  """
  span, memory = effective_span(model, params), model.memory
  cache = any(f.name == 'length' for f in dataclasses.fields(memory))
  if span is None or not cache or span + 1 >= memory.length:
    return model
  memory = dataclasses.replace(memory, length=span + 1)
  return dataclasses.replace(model, memory=memory)
