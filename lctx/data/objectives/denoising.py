"""A damaged text is made whole (BART), or its missing sentences (PEGASUS)."""

import dataclasses

import numpy as np

from lctx.data.objectives.base import (
  Objective,
  check_distinct,
  check_share,
  checked_flags,
  checked_tokens,
  count_of,
  pair_of,
)


@dataclasses.dataclass(frozen=True)
class Infill:
  """Spans of Poisson lengths become one mask each; of length 0, a new mask.

  Spans are drawn until they are round(rate * n) tokens, at least one; the
  last drawn is cut to fit. They do not overlap, and all their places are
  equally likely.
  """

  rate: float = 0.3
  mean: float = 3.0  # tokens of a span

  def __post_init__(self):
    check_share(self, 'rate', zero=False)
    if not 1 <= self.mean < float('inf'):
      raise ValueError(
        f'Infill(mean={self.mean}) is the mean length of a span in tokens, so '
        'it must be finite and at least 1.'
      )

  def __call__(self, tokens: np.ndarray, mask: int, rng) -> np.ndarray:
    count = count_of(self.rate, len(tokens))
    spans = poisson_spans(count, self.mean, rng)
    slots = len(tokens) - count + len(spans)
    is_mask = rng.permutation(slots) < len(spans)
    # A slot of the result stands for `sizes` tokens, from `first` on.
    sizes = np.ones(slots, int)
    sizes[is_mask] = spans
    first = np.cumsum(sizes) - sizes
    infilled = np.full(slots, mask)
    infilled[~is_mask] = tokens[first[~is_mask]]
    return infilled


def poisson_spans(total: int, mean: float, rng) -> np.ndarray:
  """Lengths of spans, 0 among them, that are `total` tokens together."""
  spans = rng.poisson(mean, total)
  while spans.sum() < total:
    spans = np.append(spans, rng.poisson(mean, total))
  sums = np.cumsum(spans)
  last = np.searchsorted(sums, total)
  spans = spans[: last + 1]
  spans[last] -= sums[last] - total
  return rng.permutation(spans)  # so that any of them may be the one cut


@dataclasses.dataclass(frozen=True)
class Bart(Objective):
  """A damaged text is read, the whole text is predicted (Lewis et al. 2020).

  Sentences change places, tokens are left out, spans are masked, the text is
  turned to begin at any token: in this order, each by itself.

  The source is <begin> damaged <end>; the decoder starts from <start> and
  predicts <begin> text <end>. Published: begin=0, start=2, end=2.
  """

  pairs = True

  infill: Infill | None = dataclasses.field(default_factory=Infill)
  permute: bool = True  # sentences
  delete: float = 0.0  # share of tokens; at least one of the text stays
  rotate: bool = False
  mask: int | None = None
  start: int | None = None
  begin: int | None = None
  end: int | None = None

  def __post_init__(self):
    super().__post_init__()
    check_share(self, 'delete')
    check_distinct(self, ('mask', 'begin', 'end'))
    check_distinct(self, ('mask', 'start'))

  @property
  def wants(self):
    return ('ends',) if self.permute else ()

  def source(self, tokens):
    return np.array([self.begin, *tokens, self.end], np.int32)

  def lengths(self, count):
    return count + 2, count + 2

  def marks(self):
    return {'mask': 1, 'start': 1, 'begin': 1, 'end': 1}

  def __call__(self, tokens, seed, vocab, *, ends=None):
    """`ends`, bool [n]: True at the last token of a sentence, to permute."""
    text = checked_tokens(tokens, vocab, least=1)
    rng = np.random.default_rng(seed)
    its = self.with_ids(vocab)
    source = text
    if self.permute:
      why = 'Bart needs `ends`, True at the last token of each sentence, or '
      ends = checked_flags(ends, text, why + 'permute=False')
      source = _permuted(source, ends, rng)
    if self.delete:
      source = _thinned(source, self.delete, rng)
    if self.infill:
      source = self.infill(source, its.mask, rng)
    if self.rotate:
      source = np.roll(source, -rng.integers(len(source)))
    return pair_of(
      [its.begin, *source], [its.begin, *text], start=its.start, end=its.end
    )


def _permuted(tokens: np.ndarray, ends: np.ndarray, rng) -> np.ndarray:
  number = sentence_numbers(ends)
  place = rng.permutation(number[-1] + 1)
  return tokens[np.argsort(place[number], kind='stable')]


def _thinned(tokens: np.ndarray, share: float, rng) -> np.ndarray:
  count = min(count_of(share, len(tokens)), len(tokens) - 1)
  return np.delete(tokens, rng.choice(len(tokens), count, replace=False))


def sentence_numbers(ends: np.ndarray) -> np.ndarray:
  """Each token's sentence, int [n]; what follows the last end is one, too."""
  return np.cumsum(ends) - ends


@dataclasses.dataclass(frozen=True)
class GapSentences(Objective):
  """Whole sentences are masked and predicted (Zhang et al. 2020, PEGASUS, 3.1).

  round(ratio * sentences) are chosen, at least one, and each becomes one mask
  of the source. The target is these sentences, in their order. Chosen are
  'random' ones, the 'first', or the 'principal': those with the best ROUGE-1
  against the rest of the text, each scored by itself.
  """

  pairs = True

  ratio: float = 0.3
  how: str = 'principal'
  mask: int | None = None
  start: int | None = None
  end: int | None = None

  def __post_init__(self):
    super().__post_init__()
    check_share(self, 'ratio', zero=False)
    check_distinct(self, ('mask', 'end'))
    check_distinct(self, ('mask', 'start'))
    if self.how not in _SCORES:
      raise ValueError(
        f'GapSentences(how={self.how!r}) is no way to choose sentences. Use '
        f'one of {", ".join(map(repr, _SCORES))}.'
      )

  @property
  def wants(self):
    return ('ends',)

  def lengths(self, count):
    """The sentences that are left out may be long ones: up to half of it."""
    return count + 1, count // 2 + 1

  def marks(self):
    return {'mask': 1, 'start': 1, 'end': 1}

  def __call__(self, tokens, seed, vocab, *, ends=None):
    """`ends`, bool [n]: True at the last token of each sentence."""
    tokens = checked_tokens(tokens, vocab, least=1)
    why = 'GapSentences needs `ends`, True at the last token of each sentence'
    number = sentence_numbers(checked_flags(ends, tokens, why))
    scores = _SCORES[self.how](tokens, number, np.random.default_rng(seed))
    count = count_of(self.ratio, len(scores))
    best = np.argsort(-scores, kind='stable')[:count]
    gap = np.isin(number, best)
    begins = np.diff(number, prepend=-1) > 0
    its = self.with_ids(vocab)
    source = np.where(gap, its.mask, tokens)[begins | ~gap]
    return pair_of(source, tokens[gap], start=its.start, end=its.end)


def rouge_1(tokens: np.ndarray, number: np.ndarray) -> np.ndarray:
  """F of each sentence's tokens against all others, float [sentences]."""
  _, word = np.unique(tokens, return_inverse=True)
  total = np.bincount(word)
  shared = []
  for sentence in np.split(word, np.flatnonzero(np.diff(number)) + 1):
    words, own = np.unique(sentence, return_counts=True)
    shared.append(np.minimum(own, total[words] - own).sum())
  # 2 P R / (P + R) with P = shared / own tokens, R = shared / other tokens.
  return 2 * np.array(shared) / len(tokens)


_SCORES = {
  'random': lambda tokens, number, rng: rng.random(number[-1] + 1),
  'first': lambda tokens, number, rng: -np.arange(number[-1] + 1),
  'principal': lambda tokens, number, rng: rouge_1(tokens, number),
}
