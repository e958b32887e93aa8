"""Text from tokens as they come: a character is given when it is whole."""

import codecs
from collections.abc import Iterable, Iterator

from lctx.data.codec import Codec


def spell(codec: Codec, tokens: Iterable[int]) -> Iterator[str]:
  """What each token adds to a text in UTF-8; at last, what was left over.

  Bytes that are no UTF-8 become the replacement character. Tokens below 0
  stand for nothing.
  """
  utf8 = codecs.getincrementaldecoder('utf-8')('replace')
  for token in tokens:
    yield utf8.decode(codec.decode([token]) if token >= 0 else b'')
  yield utf8.decode(b'', final=True)
