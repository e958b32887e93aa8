"""The loss of an objective that is not just the next token, on a split."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from lctx.evaluation.units import Units, units
from lctx.models.encoder_decoder import EncoderDecoder
from lctx.models.segments import merge, scan_segments, split
from lctx.types import Array, Batch, Params


def predicted(
  model: Any,
  params: Params,
  segment: int,
  batches: Iterable[Batch],
  limit: int | None,
  poll: Callable[[], None] = lambda: None,
) -> Units:
  """Nats of what is predicted, at most about `limit` tokens, None = all.

  Memory goes on from batch to batch, as in training. Bytes are not counted:
  tokens of marks stand for none.
  """
  nats, tokens, carry = 0.0, 0, None
  for batch in batches:
    if carry is None:
      carry = model.initial(len(batch.tokens))
    poll()
    carry, nll = _read(model, segment, params, carry, batch)
    counted = np.asarray(batch.weight) > 0
    nats += float(np.asarray(nll)[counted].sum(dtype=np.float64))
    tokens += int(counted.sum())
    if limit is not None and tokens >= limit:
      break
  return units(nats, tokens, num_bytes=0, num_chars=0, num_words=0)


def batches_of(lanes, store, codec) -> Iterable[Batch]:
  """One pass over a store, but for what fills no row at its end."""
  count = len(store.tokens) // lanes.rows // lanes.stretch
  return (lanes.batch(store, codec, step) for step in range(max(count, 1)))


def check_asks(lanes, store, codec, split: str) -> None:
  """Raises ValueError where nothing of a whole split is predicted."""
  count = len(store.tokens) // lanes.rows // lanes.stretch
  asked = (
    lanes.batch(store, codec, step, slice(row, row + 1)).weight.any()
    for step in range(max(count, 1))
    for row in range(lanes.rows)
  )
  if not any(asked):
    raise ValueError(
      f'data.objective = {type(lanes.objective).__name__.lower()} asks nothing '
      f'of the {split} split of data.corpus: its texts are of one token each, '
      'or of marks that are kept. Give it longer texts, or a tokenizer that '
      'makes more tokens of them, such as data.tokenizer=bytes.'
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _read(
  model: Any, segment: int, params: Params, carry: Any, batch: Batch
) -> tuple[Any, Array]:
  """The carry, and nats of every target [B, n]."""
  if isinstance(model, EncoderDecoder):
    return carry, model.nll(params, batch, segment=segment)[0]

  def one(carry, part):
    own = {'params': params}
    hidden, carry, _ = model.apply(own, part.tokens, part.coords, carry)
    return carry, model.apply(own, hidden, part.targets, method='nll')

  carry, nll = scan_segments(one, carry, split(batch, segment))
  return carry, merge(nll)
