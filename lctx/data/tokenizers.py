"""The tokenizers, and how a saved one is found again."""

from pathlib import Path

from lctx.data.byte_codec import ByteCodec, Bytes, PublishedBytes
from lctx.data.codec import Codec, Tokenizer, read_saved
from lctx.data.piece_codec import PieceCodec
from lctx.data.published import Published, PublishedCodec, published_codec
from lctx.data.sentence_piece import SentencePiece
from lctx.data.words import WordCodec, Words

__all__ = [
  'Bytes',
  'Codec',
  'Published',
  'PublishedBytes',
  'PublishedCodec',
  'SentencePiece',
  'Tokenizer',
  'Words',
  'load_codec',
  'published_codec',
]


def load_codec(folder: str | Path) -> Codec:
  """The codec that `fit` saved in `folder`.

  Raises: ValueError where there is none, or it is damaged.
  """
  saved = read_saved(folder)
  if saved is None:
    raise ValueError(
      f'{folder} holds no tokenizer. Give the folder of a run that trained.'
    )
  classes = (ByteCodec, PieceCodec, PublishedCodec, WordCodec)
  kinds = {kind.kind: kind for kind in classes}
  return kinds[saved['kind']].restore(saved['state'])
