"""Tokenizers that come with published checkpoints."""

import dataclasses
import itertools
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import numpy as np

from lctx.data.codec import NO_NAME, Around, Codec, Tokenizer, as_text
from lctx.data.documents import digest
from lctx.data.piece_codec import PieceCodec
from lctx.data.published_files import LAYOUTS, from_text, layout_of, read
from lctx.data.published_marks import Marks, add_marks, find_marks
from lctx.data.published_pieces import byte_level, spelling

_log = logging.getLogger(__name__)

_BESIDE = (
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'config.json',
)
_PROBE = 'A  b\tc e\u0301 \u65e5\u672c\n \n\nd'


class PublishedCodec(Codec):
  """A tokenizer of the library `tokenizers`, as its `tokenizer.json` has it.

  A document is encoded as a whole, in memory. The marks that the library puts
  around a text are not added, but what is spelled like a mark is read as one.
  `end`, `cls`, `sep`, `pad` and `mask` are ids of marks, None where there is
  none; `sentinels` are those of T5, in order. Ids that have no token and marks
  stand for no bytes.
  """

  kind = 'published'

  def __init__(self, text: str, found: Marks):
    self._text, self._marks = text, found
    self._tokenizer = from_text(text, 'the tokenizer')
    spell = spelling(json.loads(text)['decoder'])
    self._joins = spell is byte_level
    vocabulary = self._tokenizer.get_vocab()
    spelled = [b''] * (1 + max(vocabulary.values()))
    for token, id in vocabulary.items():
      spelled[id] = spell(token)
    for id, token in self._tokenizer.get_added_tokens_decoder().items():
      if token.special:
        spelled[id] = b''
    super().__init__(spelled, found.start)
    self.end, self.cls, self.sep = found.end, found.cls, found.sep
    self.pad, self.mask = found.pad, found.mask
    self.sentinels = found.sentinels

  def decode(self, ids) -> bytes:
    """What the tokenizer's own decoder gives, without marks.

    Byte-level tokens also give the bytes of a character that is not whole.
    Others may lose the space before a text, or gain some between words.
    """
    if self._joins:
      return super().decode(ids)
    listed = np.asarray(ids).reshape(-1).tolist()
    return self._tokenizer.decode(listed, skip_special_tokens=True).encode()

  def around(self, pair):
    """What the library puts around a text, or two."""
    encoded = self._tokenizer.encode(*(['x', 'x'] if pair else ['x']))
    ids, of = encoded.ids, encoded.sequence_ids  # None = a mark
    first, last = of.index(0), len(of) - of[::-1].index(int(pair))
    between = [
      x for x, at in zip(ids[first:last], of[first:last]) if at is None
    ]
    second = encoded.type_ids[last - 1]
    return Around(ids[:first], between, ids[last:], second)

  def stream(
    self, blocks: Iterable[bytes], name: str = NO_NAME
  ) -> Iterator[np.ndarray]:
    text = as_text(b''.join(blocks), 0, name)
    encode = self._tokenizer.encode_batch_fast
    try:
      [encoded] = encode([text], add_special_tokens=False)
    except Exception as error:  # the library raises no narrower class
      raise ValueError(
        f'data.tokenizer cannot encode {name}: {error}. Use another '
        'tokenizer, or data.tokenizer=bytes, which reads any text.'
      ) from error
    yield np.array(encoded.ids, np.int32)

  def state(self) -> dict:
    return {'tokenizer': self._text, 'marks': dataclasses.asdict(self._marks)}

  @classmethod
  def restore(cls, state: dict) -> Self:
    found = dict(state['marks'])
    found['sentinels'] = tuple(found['sentinels'])
    return cls(state['tokenizer'], Marks(**found))


@dataclasses.dataclass(frozen=True)
class Published(Tokenizer):
  """The tokenizer in `path`, the folder of a published checkpoint.

  Nothing is trained. `published_codec` says what is read there.
  """

  path: str
  codec = PublishedCodec

  def _source(self, corpus, folder):
    home = Path(self.path).expanduser()
    parts: list[str | bytes] = []
    for name in [*itertools.chain(*LAYOUTS), *_BESIDE]:
      if (home / name).is_file():
        parts += [name, (home / name).read_bytes()]
    return digest(*parts)

  def _make(self, corpus):
    try:
      return published_codec(self.path)
    except ValueError as error:
      raise ValueError(f'data.tokenizer.path={self.path}: {error}') from error


def published_codec(folder: str | Path) -> Codec:
  """The tokenizer in the folder of a published checkpoint.

  Reads `tokenizer.json`, else a SentencePiece model (a `PieceCodec`, line by
  line, with the marks that it has itself), else the vocabulary of WordPiece or
  of byte-level BPE; and which tokens are marks from the JSON files beside it.

  Raises: ValueError where there is none, a file is damaged or of a kind that
  is not known, or no mark could open documents.
  """
  folder = Path(folder).expanduser()
  layout = layout_of(folder)
  if layout.endswith('.model'):
    return _sentence_piece(folder / layout)
  tokenizer = read(folder, layout)
  add_marks(tokenizer, folder)
  found = find_marks(tokenizer, folder)
  codec = PublishedCodec(tokenizer.to_str(), found)
  if codec.decode(codec.encode(_PROBE)) != _PROBE.encode():
    _log.warning(
      '%s changes the text it reads (case, spaces, newlines or rare '
      'characters): decoding does not give it back',
      folder,
    )
  return codec


def _sentence_piece(path: Path) -> PieceCodec:
  try:
    return PieceCodec(path.read_bytes())
  except RuntimeError as error:
    raise ValueError(
      f'{path} is not a SentencePiece model ({error}). Download it again.'
    ) from error
