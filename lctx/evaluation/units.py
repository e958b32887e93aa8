"""The units of a loss, all from one place: nats and what they were spent on."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Units:
  """A loss in the units that papers report; None where its count is 0.

  Every mean is over the whole text, so it weighs all tokens alike.
  """

  bits_per_byte: float | None
  bits_per_character: float | None
  bits_per_token: float | None
  token_perplexity: float | None
  word_perplexity: float | None
  tokens: int
  num_bytes: int
  num_chars: int
  num_words: int


def units(
  nats: float, tokens: int, *, num_bytes: int, num_chars: int, num_words: int
) -> Units:
  """The units of `nats` lost in all on the tokens of a text of these counts.

  Word perplexity is exp(nats / words), whatever the tokens are. A perplexity
  too large for a float is infinite.
  """
  assert min(tokens, num_bytes, num_chars, num_words) >= 0
  return Units(
    bits_per_byte=bits_per(nats, num_bytes),
    bits_per_character=bits_per(nats, num_chars),
    bits_per_token=bits_per(nats, tokens),
    token_perplexity=_perplexity(nats, tokens),
    word_perplexity=_perplexity(nats, num_words),
    tokens=tokens,
    num_bytes=num_bytes,
    num_chars=num_chars,
    num_words=num_words,
  )


def bits_per(nats: float, count: int) -> float | None:
  return nats / math.log(2) / count if count else None


def _perplexity(nats: float, count: int) -> float | None:
  if not count:
    return None
  try:
    return math.exp(nats / count)
  except OverflowError:
    return math.inf
