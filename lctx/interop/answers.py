"""What a published model says of texts, long ones included."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from lctx.data.codec import Codec
from lctx.data.long_texts import LongTexts, Part
from lctx.interop import hugging_face
from lctx.interop.hugging_face import Pretrained
from lctx.models.encoder_decoder import EncoderDecoder
from lctx.models.text import Decoder, Encoder, TextModel

Given = str | bytes
Asked = Given | tuple[Given, Given]  # a text, or two that belong together
STEP = 64  # rows are padded to as many tokens, so that programs are few


class Said(NamedTuple):
  """Of a text, or of the second of two: what is said, and of which tokens.

  `outputs` have the names of `transformers`; those of tokens have a row for
  each of `ids`, which stand at `place` in the text.
  """

  ids: np.ndarray  # int32 [n]
  place: np.ndarray  # int [n]
  outputs: Mapping[str, np.ndarray]


class _Text(NamedTuple):
  """A text between its marks; before it, another one may stand."""

  before: np.ndarray
  ids: np.ndarray
  after: np.ndarray
  type: int  # of the text and of what is behind it

  @property
  def besides(self) -> int:
    return len(self.before) + len(self.after)

  def row(self, part: Part) -> np.ndarray:
    return np.concatenate([self.before, self.ids[part.place], self.after])


def answers(
  published: Pretrained,
  codec: Codec,
  texts: list[Asked],
  policy: LongTexts,
  segment: int,
  *,
  rows: int = 8,
) -> list[Said]:
  """What the model says of each text, in the marks of its tokenizer.

  Of a long one in windows: of a token what the window says that counts, of the
  text the mean over windows (Sun et al. 2019, section 5.3.1). An encoder with a
  memory reads windows of a `segment` in their order, and what the last one says
  of the text is said of it (Bulatov et al. 2024). `rows` are read at once.

  Raises:
    ValueError: a text that the policy refuses, or none at all.
  """
  model = published.model
  asked = [_asked(codec, text) for text in texts]
  parts = policy.parts(
    [len(x.ids) for x in asked],
    [_room(model, policy, x.besides, segment) for x in asked],
    'texts',
    ahead=not isinstance(model, Decoder),
  )
  if _reads_on(model):
    if any(len(of) > 1 for of in parts):
      raise ValueError(
        f'data.long_texts = {policy} reads windows that stand alone, but the '
        'memory of the model reads on. Use truncate or carry.'
      )
    parts = [
      [piece for part in of for piece in _cut(part, segment - x.besides)]
      for x, of in zip(asked, parts)
    ]
    found = [_in_order(published, *x, segment) for x in zip(asked, parts)]
  else:
    found = _side_by_side(published, asked, parts, rows, segment)
  return [_joined(published, *x) for x in zip(asked, parts, found)]


def _reads_on(model) -> bool:
  return isinstance(model, Encoder) and model.remembers


def _limit(model) -> int | None:
  """Tokens of a row; but an encoder beside a decoder may read on by itself."""
  *source, last = _sides(model)
  limits = [x.text_limit for x in source] + [last.position.segment_limit]
  return min((x for x in limits if x is not None), default=None)


def _room(model, policy: LongTexts, besides: int, segment: int) -> int | None:
  """Tokens of a text, without what stands beside it in each row."""
  if not _reads_on(model):
    return policy.room(_limit(model), besides)
  longest, limit = model.position.segment_limit, model.position.limit
  if longest is not None and segment > longest:
    raise ValueError(
      f'data.segment = {segment} is longer than the {longest} tokens that '
      'model.position has places for. Read shorter segments.'
    )
  if limit is not None:  # which is used up by what stands in each segment
    whole, rest = divmod(limit, segment)
    limit = whole * (segment - besides) + max(rest - besides, 0) + besides
  return policy.room(limit, besides)


def _sides(model) -> tuple[TextModel, ...]:
  pair = isinstance(model, EncoderDecoder)
  return (model.source, model.target) if pair else (model,)


def _asked(codec: Codec, text: Asked) -> _Text:
  pair = isinstance(text, tuple)
  *other, ids = map(codec.encode, text if pair else [text])
  if not len(ids):
    raise ValueError(
      f'The text {text!r:.60} has no token to say something of. Leave it out.'
    )
  before, between, after, second = codec.around(pair)
  if pair:
    before = [*before, *other[0], *between]
  row = (np.array(before, np.int32), ids, np.array(after, np.int32))
  return _Text(*row, second if pair else 0)


def _cut(part: Part, room: int) -> list[Part]:
  """Windows that are read one after the other."""
  if room < 1:
    raise ValueError(
      'data.segment has no room for a text: its marks and what stands before '
      'it fill one. Read longer segments.'
    )
  starts = range(0, len(part.place), room)
  return [Part(*(x[n : n + room] for x in part)) for n in starts]


def _side_by_side(published, asked, parts, rows, segment) -> list[list[dict]]:
  """Outputs of each window, read together with others as wide."""
  pad, limit = published.config.get('pad_token_id'), _limit(published.model)
  windows = [(i, x.row(part)) for i, x in enumerate(asked) for part in parts[i]]
  widths = [len(row) for _, row in windows]
  if pad is not None:
    widths = [_rounded(published.model, width, limit) for width in widths]
  found: list = [None] * len(windows)
  for width in sorted({*widths}):
    model = _declared(published.model, width)
    mine = [n for n, x in enumerate(widths) if x == width]
    for some in (mine[n : n + rows] for n in range(0, len(mine), rows)):
      its = [(asked[windows[n][0]], windows[n][1]) for n in some]
      given = _given(published, its, width)
      said, _ = _read(published._replace(model=model), given, segment=segment)
      for place, n in enumerate(some):
        found[n] = {name: np.asarray(x)[place] for name, x in said.items()}
  each = iter(found)
  return [[next(each) for _ in of] for of in parts]


def _in_order(published, text: _Text, parts, segment) -> list[dict]:
  """Outputs of each window, with what those before it left in memory."""
  carry, found = published.model.initial(1), []
  for part in parts:
    given = _given(published, [(text, text.row(part))], segment)
    said, carry = _read(published, given, carry)
    found.append({name: np.asarray(x)[0] for name, x in said.items()})
  return found


def _rounded(model, width: int, limit: int | None) -> int:
  """More slots, where nothing goes by their number (BigBird, dynamic NTK)."""
  wide = -(-width // STEP) * STEP
  wide = wide if limit is None else min(wide, limit)
  same = all(
    side.pattern.of_length(wide) == side.pattern.of_length(width)
    and side.position.declared(wide) == side.position.declared(width)
    for side in _sides(model)
  )
  return wide if same else width


def _given(published, its, width) -> dict[str, np.ndarray]:
  """Rows in the names of `transformers`, padded behind to one width."""
  shape, pad = (len(its), width), published.config.get('pad_token_id') or 0
  given = {
    'input_ids': np.full(shape, pad, np.int32),
    'attention_mask': np.zeros(shape, np.int32),
    'token_type_ids': np.zeros(shape, np.int32),
  }
  for n, (text, row) in enumerate(its):
    given['input_ids'][n, : len(row)] = row
    given['attention_mask'][n, : len(row)] = 1
    given['token_type_ids'][n, len(text.before) : len(row)] = text.type
  return given


def _declared(model, width: int):
  """For rows of as many tokens: some rotary stretches go by it."""
  if isinstance(model, EncoderDecoder):
    return model
  return model.clone(position=model.position.declared(width))


def _read(published, given, carry=None, segment=None):
  """`segment`: of an encoder beside a decoder, where it has a memory."""
  model, read = published.model, hugging_face.placed(published, given)
  pair = isinstance(model, EncoderDecoder)
  by = segment if pair and model.source.remembers else None
  return _said(model, published.params, read, carry, by)


_said = jax.jit(hugging_face.said, static_argnums=(0, 4))


def _joined(published, text: _Text, parts, found: list[dict]) -> Said:
  """Of windows, what is said of the text and of its tokens."""
  whole, first = hugging_face.of_texts(published.model), len(text.before)
  outputs = {}
  for name in found[0]:
    of_each = [x[name] for x in found]
    if name not in whole:
      outputs[name] = np.concatenate(
        [
          x[first : first + len(part.place)][part.counts]
          for x, part in zip(of_each, parts)
        ]
      )
    elif _reads_on(published.model):
      outputs[name] = of_each[-1]
    else:
      outputs[name] = np.mean(of_each, axis=0)
  broken = [name for name, x in outputs.items() if not np.isfinite(x).all()]
  if broken:
    raise ValueError(
      f'{", ".join(broken)} of a text of {len(text.ids):,} tokens are not '
      'finite: the model is damaged, or its memory has overflowed.'
    )
  place = np.concatenate([part.place[part.counts] for part in parts])
  return Said(text.ids[place], place, outputs)
