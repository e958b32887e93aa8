"""Text on its way to the model: corpus, tokenizer, store, lanes."""

from lctx.data.corpora import Corpus, Stdlib, Text
from lctx.data.datasets import Tfds
from lctx.data.documents import SPLITS, Document
from lctx.data.json_lines import JsonLines
from lctx.data.lanes import Lanes, batch, check
from lctx.data.mixture import Mixture
from lctx.data.splits import ByBytes, ByDocument, ByName
from lctx.data.store import Store, open_store
from lctx.data.tokenizers import (
  Bytes,
  Codec,
  Published,
  PublishedBytes,
  PublishedCodec,
  SentencePiece,
  Tokenizer,
  Words,
  load_codec,
  published_codec,
)

__all__ = [
  'SPLITS',
  'ByBytes',
  'ByDocument',
  'ByName',
  'Bytes',
  'Codec',
  'Corpus',
  'Document',
  'JsonLines',
  'Lanes',
  'Mixture',
  'Published',
  'PublishedBytes',
  'PublishedCodec',
  'SentencePiece',
  'Stdlib',
  'Store',
  'Text',
  'Tfds',
  'Tokenizer',
  'Words',
  'batch',
  'check',
  'load_codec',
  'open_store',
  'published_codec',
]
