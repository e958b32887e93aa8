"""Span corruption: an encoder reads a text with gaps, a decoder fills them."""

import dataclasses
from typing import NamedTuple

import numpy as np

from lctx.data.objectives.base import Objective, checked_tokens, pair_of


@dataclasses.dataclass(frozen=True)
class SpanCorruption(Objective):
  """Spans become sentinels, and the target says what stood at each.

  Raffel et al. 2020 (T5), section 3.3.4. The k-th span is the sentinel
  `first_sentinel` - k, k from 0, in source and target; 32099, 32098, ... in
  T5. New ids are `start`, `end`, then the sentinels, the first the highest.
  Raises ValueError for a text with more spans than sentinels.
  """

  pairs = True

  density: float = 0.15
  mean: float = 3.0  # tokens of a span
  sentinels: int = 100
  first_sentinel: int | None = None
  start: int | None = None
  end: int | None = None
  final_sentinel: bool = False  # one more ends the target

  def __post_init__(self):
    if self.sentinels < 1:
      raise ValueError(
        f'SpanCorruption(sentinels={self.sentinels}) needs a sentinel for each '
        'span, so give at least 1.'
      )
    super().__post_init__()
    _check_noise(self.density, self.mean)
    first = self.first_sentinel
    for name in ('start', 'end'):
      mark = getattr(self, name)
      if None not in (first, mark) and 0 <= first - mark < self.sentinels:
        raise ValueError(
          f'SpanCorruption({name}={mark}) is one of its {self.sentinels} '
          f'sentinels, which go down from first_sentinel={first}. Give the '
          'mark another id, or fewer sentinels.'
        )

  def lengths(self, count):
    noise, spans = counts(count, self.density, self.mean)
    written = noise + spans + 1 + self.final_sentinel
    return count - noise + spans + 1, written

  def marks(self):
    return {'start': 1, 'end': 1, 'first_sentinel': self.sentinels}

  def __call__(self, tokens, seed, vocab):
    tokens = checked_tokens(tokens, vocab, least=2)
    rng = np.random.default_rng(seed)
    spans = counts(len(tokens), self.density, self.mean).spans
    self._check_sentinels(len(tokens), spans)
    noisy = noise_mask(len(tokens), self.density, self.mean, rng)
    its = self.with_ids(vocab)
    target = with_sentinels(tokens, ~noisy, its.first_sentinel)
    if self.final_sentinel:
      target = np.append(target, its.first_sentinel - spans)
    source = with_sentinels(tokens, noisy, its.first_sentinel)
    return pair_of(source, target, start=its.start, end=its.end)

  def check_length(self, count):
    self._check_sentinels(count, counts(count, self.density, self.mean).spans)

  def _check_sentinels(self, length, spans):
    needed = spans + self.final_sentinel
    if needed > self.sentinels:
      raise ValueError(
        f'a text of {length} tokens has {spans} spans and needs {needed} '
        f'sentinels, but SpanCorruption(sentinels={self.sentinels}) has fewer. '
        'Give more sentinels, shorter texts, or a larger mean.'
      )


def _check_noise(density: float, mean: float) -> None:
  if not (0 < density < 1 <= mean < float('inf')):
    raise ValueError(
      f'spans of density={density} and mean={mean} cannot be: density is their '
      'share of the tokens, above 0 and below 1, and mean the tokens of a '
      'span, at least 1.'
    )


class Counts(NamedTuple):
  noise: int  # tokens in spans
  spans: int


class Lengths(NamedTuple):
  tokens: int  # of the text
  targets: int


def counts(length: int, density: float, mean: float) -> Counts:
  """How much of a text of `length` tokens, at least 2, is noise.

  T5's `random_spans_noise_mask`; where clean tokens are too few to part the
  spans, which it does not foresee, there are as many spans as clean tokens.
  """
  noise = min(max(round(length * density), 1), length - 1)
  spans = min(max(round(noise / mean), 1), length - noise)
  return Counts(noise, spans)


def noise_mask(length: int, density: float, mean: float, rng) -> np.ndarray:
  """Where the noise is, bool [length]; it begins clean and ends noisy.

  All masks with as many tokens and spans of noise are equally likely.
  """
  noise, spans = counts(length, density, mean)
  clean = _parts(length - noise, spans, rng)
  lengths = np.stack([clean, _parts(noise, spans, rng)], axis=1).reshape(-1)
  return np.repeat(np.tile([False, True], spans), lengths)


def _parts(total: int, count: int, rng) -> np.ndarray:
  """`total` as a sum of `count` numbers, each at least 1, uniformly."""
  cuts = 1 + rng.choice(total - 1, count - 1, replace=False)
  return np.diff(np.sort([0, *cuts, total]))


def with_sentinels(
  tokens: np.ndarray, gaps: np.ndarray, first: int
) -> np.ndarray:
  """The text with each run of `gaps`, bool [n], as a sentinel, from `first`."""
  begins = gaps & ~np.concatenate([[False], gaps[:-1]])
  sentinels = first + 1 - np.cumsum(begins)
  return np.where(begins, sentinels, tokens)[begins | ~gaps]


def spans_lengths(
  inputs_length: int,
  density: float = 0.15,
  mean: float = 3.0,
  *,
  final_sentinel: bool = False,
) -> Lengths:
  """The longest text whose source is at most `inputs_length` tokens.

  Source and targets are counted with their end mark: 512 reads texts of 568
  tokens, with 114 targets. T5's `random_spans_helper`.
  """
  _check_noise(density, mean)
  if inputs_length < 3:
    raise ValueError(
      f'spans_lengths(inputs_length={inputs_length}) is too short: a token, a '
      'sentinel and the end mark are 3 already.'
    )
  tokens = 2
  while _source_length(tokens + 1, density, mean) <= inputs_length:
    tokens += 1
  noise, spans = counts(tokens, density, mean)
  return Lengths(tokens, targets=noise + spans + final_sentinel + 1)


def _source_length(tokens: int, density: float, mean: float) -> int:
  noise, spans = counts(tokens, density, mean)
  return tokens - noise + spans + 1
