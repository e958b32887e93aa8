"""What a SentencePiece model makes of text, and back."""

import base64
import logging
from collections.abc import Iterable, Iterator
from typing import Self

import numpy as np
import sentencepiece

from lctx.data.codec import NO_NAME, Around, Codec, as_text
from lctx.data.documents import BLOCK, lines

_log = logging.getLogger(__name__)

_SPACE = '\u2581'  # how SentencePiece writes a space
_PROBE = 'a  b\tc \u65e5\u672c\x00\n \n\nd'


class PieceCodec(Codec):
  """A SentencePiece model; each line is encoded by itself."""

  kind = 'pieces'

  def __init__(self, model: bytes):
    self._model = model
    self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    marks = [self._pieces.bos_id(), self._pieces.eos_id()]
    marks += [self._pieces.pad_id(), self._pieces.unk_id()]
    start = next(mark for mark in marks if mark >= 0)  # all have <unk>
    super().__init__(_meanings(self._pieces), start)
    self._bytes = {
      piece: id
      for id, piece in enumerate(self.pieces)
      if self._pieces.is_byte(id)
    }
    self._exact = False
    self._exact = self.decode(self.encode(_PROBE)) == _PROBE.encode()
    if not self._exact:
      _log.warning(
        'this SentencePiece model changes the text it reads (spaces, newlines '
        'or rare characters): decoding does not give it back'
      )

  def around(self, pair):
    """Those of the model it came with: BERT's where it has them, Llama's where
    it opens texts, else T5's."""
    named = [self._pieces.piece_to_id(x) for x in ('[CLS]', '[SEP]')]
    if self._pieces.unk_id() not in named:
      opens, ends = named
      return Around([opens], [ends], [ends], second=1)
    opens, ends = self._pieces.bos_id(), self._pieces.eos_id()
    if opens >= 0 or ends < 0:
      return Around([self.start], [self.start], [])
    return Around([], [ends], [ends])

  def stream(
    self, blocks: Iterable[bytes], name: str = NO_NAME
  ) -> Iterator[np.ndarray]:
    texts: list[str] = []
    before, waiting = 0, 0
    for line in lines(blocks):
      texts.append(as_text(line, before, name))
      before += len(line)
      waiting += len(line)
      if waiting >= BLOCK:
        yield self._encode_lines(texts)
        texts, waiting = [], 0
    yield self._encode_lines(texts)

  def _encode_lines(self, texts: list[str]) -> np.ndarray:
    ids: list[int] = []
    for line, text in zip(self._pieces.encode(texts), texts):
      if self._exact and _SPACE in text:
        ids += self._with_lookalikes(text)
      else:
        ids += line
    return np.array(ids, np.int32)

  def _with_lookalikes(self, text: str) -> list[int]:
    """Spells the character that SentencePiece reads as a space in bytes."""
    spelled = [self._bytes[bytes([byte])] for byte in _SPACE.encode()]
    first, *others = self._pieces.encode(text.split(_SPACE))
    return first + [id for other in others for id in spelled + other]

  def state(self) -> dict:
    return {'model': base64.b64encode(self._model).decode()}

  @classmethod
  def restore(cls, state: dict) -> Self:
    return cls(base64.b64decode(state['model']))


def _meanings(pieces) -> list[bytes]:
  """The bytes that each id stands for; nothing for marks."""

  def meaning(id: int) -> bytes:
    if pieces.is_byte(id):
      return bytes([int(pieces.id_to_piece(id)[3:5], 16)])
    if pieces.is_control(id) or pieces.is_unknown(id) or pieces.is_unused(id):
      return b''
    return pieces.id_to_piece(id).replace(_SPACE, ' ').encode()

  return [meaning(id) for id in range(pieces.vocab_size())]
