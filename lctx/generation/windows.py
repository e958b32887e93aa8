"""Texts that are longer than a model reads at once: what `LongTexts` says."""

import dataclasses
import logging
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from lctx.data.long_texts import LongTexts, Part
from lctx.data.objectives import Objective
from lctx.generation import decode, pairs
from lctx.generation.reading import Remembered
from lctx.models.cross import Context
from lctx.models.encoder_decoder import EncoderDecoder
from lctx.models.text import Decoder
from lctx.types import EMPTY, Params, segment_coords

_log = logging.getLogger(__name__)


def whole(
  policy: LongTexts, rows: list[np.ndarray], limit: int | None, marks: int
) -> list[np.ndarray]:
  """What is read of texts that must be read in one go, behind their marks.

  Each row opens with `marks` of them, and has `limit` tokens in all; None =
  there is no end. Raises ValueError for what the policy refuses or would read
  in windows.
  """
  found = policy.parts(
    [len(row) - marks for row in rows],
    [policy.room(limit, marks)] * len(rows),
    'texts',
    ahead=False,
  )
  if any(len(parts) > 1 for parts in found):
    raise ValueError(
      f'data.long_texts = {policy} reads long texts in windows, which stand '
      'alone, but a memory of all is asked for. Use truncate or carry.'
    )
  return [
    np.concatenate([row[:marks], row[marks:][part.place]])
    for row, (part,) in zip(rows, found)
  ]


def write(
  model: Decoder,
  params: Params,
  request: decode.Request,
  segment: int,
  policy: LongTexts,
) -> Iterator[np.ndarray]:
  """New tokens after prompts that open with a mark; raises as `decode` does.

  Where the policy is to stride, a text that reaches the model's length is
  written on in a new window, which begins with the start mark and the last
  tokens of the one before: the sliding window with re-computation of Xiao et
  al. 2023 (StreamingLLM, figure 1).
  """
  _tell_forgets(model, max(map(len, request.prompts)), segment)
  known = 0 if request.after is None else request.after.tokens
  marks, more = int(request.after is None), request.max_new_tokens
  limit, kept = policy.room(model.length, 0), policy.kept(model.length)
  longest = known + max(map(len, request.prompts))
  ends = limit is not None and (more is None or longest + more > limit)
  if ends and kept:
    if request.after is not None:
      raise ValueError(
        f'data.long_texts = {policy} reads the last tokens anew where '
        'positions end, but of what was read before only the memory is known. '
        'Write after the text itself.'
      )
    _log.warning(
      'What is written after up to %s tokens goes beyond the %s that are read '
      'at once: each window begins with the start mark and the last %s before '
      'it, read anew (data.long_texts = %s).',
      *(f'{longest:,}', f'{limit:,}', f'{kept - 1:,}', policy),
    )
    return _in_windows(model, params, request, segment, limit, kept)
  left = None  # where writing has no end, `decode` says that positions do
  if model.length is not None and more is not None:
    left = model.length - known - more
    if left < marks:
      raise ValueError(
        f'max_new_tokens = {more} leaves no room before it: the model reads '
        f'{model.length:,} tokens, of which {known + marks:,} are read already '
        'or are its start mark. Ask for fewer.'
      )
  prompts = whole(policy, request.prompts, left, marks)
  request = dataclasses.replace(request, prompts=prompts)
  return decode.generate(model, params, request, segment)


def _in_windows(model, params, request, segment, limit, kept):
  rows, left, window = request.prompts, request.max_new_tokens, 0
  while left is None or left > 0:
    rows = [_last(row, kept) if len(row) >= limit else row for row in rows]
    more = limit - max(map(len, rows))
    more = more if left is None else min(more, left)
    one = dataclasses.replace(
      request,
      prompts=rows,
      max_new_tokens=more,
      seed=request.seed if not window else _seed(request.seed, window),
    )
    written = []
    for tokens_B in decode.generate(model, params, one, segment):
      written.append(tokens_B)
      yield tokens_B
    rows = [np.append(row, new) for row, new in zip(rows, zip(*written))]
    left = None if left is None else left - more
    window += 1


def _last(row: np.ndarray, kept: int) -> np.ndarray:
  """The start mark, and of the rest as many as there is room for."""
  text = row[1:]
  return np.append(row[:1], text[max(len(text) - kept + 1, 0) :])


def _seed(seed: int, window: int) -> int:
  return int(np.random.SeedSequence([seed, window]).generate_state(1)[0])


def score(
  model: Decoder,
  params: Params,
  ids: np.ndarray,
  segment: int,
  policy: LongTexts,
  after: Remembered | None = None,
) -> np.ndarray:
  """Nats of the tokens of a text that are read, in its order: float32 [n].

  `ids` opens with the start mark, or goes on `after` what was read before.
  """
  _tell_forgets(model, len(ids), segment)
  known = 0 if after is None else after.tokens
  marks = int(after is None)
  # The last token is not read, only scored.
  limit = None if model.length is None else model.length - known + 1
  text = ids[marks:]
  (parts,) = policy.parts(
    [len(text)], [policy.room(limit, marks)], 'texts', ahead=False
  )
  if len(parts) > 1 and after is not None:
    raise ValueError(
      f'data.long_texts = {policy} reads windows that stand alone, but the '
      'text goes on after another. Use truncate or carry.'
    )
  found = []
  for place, counts in parts:
    window = np.append(ids[:marks], text[place])
    nats = decode.score(model, params, window, segment, after=after)
    found.append(nats[counts])
  return np.concatenate(found)


def _tell_forgets(model: Decoder, longest: int, segment: int) -> None:
  """Says where a text goes by a model that looks at one segment alone."""
  if longest > segment and not model.remembers:
    _log.warning(
      'A text of %s tokens is read in segments of %s, each without what came '
      'before it: the model has no memory. data.long_texts=stride with a '
      'length up to data.segment reads windows that overlap.',
      *(f'{longest:,}', f'{segment:,}'),
    )


def context(
  model: EncoderDecoder,
  params: Params,
  objective: Objective,
  texts: list[np.ndarray],
  segment: int,
  policy: LongTexts,
) -> Context:
  """What a decoder looks at of texts: the states of all their windows.

  Each window is encoded alone, in the marks of a text, and the decoder sees the
  states of all (Izacard and Grave 2021, fusion in the decoder); of tokens that
  two have read, those of one.
  """
  marks = len(objective.source(np.zeros(0, np.int32)))
  limit = pairs.limit(model)
  found = policy.parts(
    [len(text) for text in texts],
    [policy.room(limit, marks)] * len(texts),
    'texts',
    ahead=True,
  )
  if any(len(parts) > 1 for parts in found) and model.source.remembers:
    raise ValueError(
      f'data.long_texts = {policy} reads windows that stand alone, but '
      'model.encoder.memory reads on from segment to segment. Use truncate or '
      'carry.'
    )
  rows = [
    objective.source(text[part.place])
    for text, parts in zip(texts, found)
    for part in parts
  ]
  held = pairs.context(model, params, rows, segment)
  if len(rows) == len(texts):
    return held
  slots = [[_slots(objective, part) for part in parts] for parts in found]
  return _joined(held, slots)


def _slots(objective: Objective, part: Part) -> np.ndarray:
  """Which of a window the decoder sees: its marks, and tokens that count."""
  coded = objective.source(np.where(part.counts, EMPTY, EMPTY - 1))
  return np.flatnonzero(coded != EMPTY - 1)


def _joined(held: Context, slots: list[list[np.ndarray]]) -> Context:
  """Of each text, these slots of its windows, one window behind the other."""
  first = np.cumsum([0, *map(len, slots)])
  width = max(sum(map(len, windows)) for windows in slots)
  row, slot, document = np.zeros((3, len(slots), width), np.int32)
  document[:] = EMPTY
  for text, windows in enumerate(slots):
    here = 0
    for number, its in enumerate(windows, start=first[text]):
      stop = here + len(its)
      row[text, here:stop], slot[text, here:stop] = number, its
      document[text, here:stop] = 0
      here = stop
  x = held.x[jnp.asarray(row), jnp.asarray(slot)]
  return Context(x, segment_coords(jnp.asarray(document)))
