"""Objectives of one text: next tokens, a prefix, masked tokens, a middle."""

import dataclasses

import numpy as np

from lctx.data.objectives.base import (
  Objective,
  Text,
  check_distinct,
  check_share,
  checked_flags,
  checked_tokens,
  count_of,
  next_tokens,
)


@dataclasses.dataclass(frozen=True)
class Causal(Objective):
  """Each token predicts the next: [n - 1] of n tokens."""

  def lengths(self, count):
    return 0, count - 1

  def __call__(self, tokens, seed, vocab):
    return next_tokens(checked_tokens(tokens, vocab, least=2))


@dataclasses.dataclass(frozen=True)
class PrefixLM(Objective):
  """A prefix is read both ways, and what follows it is predicted: [n - 1].

  Its length is uniform from 1 to n - 1. Its last token predicts the first
  after it (Raffel et al. 2020, T5, section 3.2.1).
  """

  def lengths(self, count):
    return 0, count - 1

  def __call__(self, tokens, seed, vocab):
    tokens = checked_tokens(tokens, vocab, least=2)
    prefix = np.random.default_rng(seed).integers(1, len(tokens))
    return next_tokens(tokens, int(prefix))


@dataclasses.dataclass(frozen=True)
class MaskedLM(Objective):
  """Tokens hidden in place are predicted there: [n] (Devlin et al. 2019, 3.1).

  round(rate * n) tokens are chosen, at least one. Of these the share `masked`
  becomes the mask and `random` a random token that is no mark; the rest stays.

  Whole words are chosen as in BERT's code: words in random order, skipping
  one with more tokens than are left to choose, so there may be fewer. If none
  is short enough, the first drawn is chosen all the same.
  """

  in_place = True

  rate: float = 0.15
  masked: float = 0.8
  random: float = 0.1
  whole_words: bool = False
  kept: tuple[int, ...] = ()  # marks of the text: never chosen, never drawn
  mask: int | None = None

  def __post_init__(self):
    super().__post_init__()
    check_share(self, 'rate', zero=False)
    check_share(self, 'masked')
    check_share(self, 'random')
    if self.masked + self.random > 1 + 1e-9:
      raise ValueError(
        f'MaskedLM(masked={self.masked}, random={self.random}) are shares of '
        'the chosen tokens, so together they cannot be above 1.'
      )

  def asks(self, tokens):
    return super().asks(tokens) and not np.isin(tokens, self.kept).all()

  @property
  def wants(self):
    return ('begins',) if self.whole_words else ()

  def lengths(self, count):
    return 0, count

  def marks(self):
    return {'mask': 1}

  def __call__(self, tokens, seed, vocab, *, begins=None):
    """`begins`, bool [n]: True where a word begins, needed for whole words."""
    tokens = checked_tokens(tokens, vocab, least=1)
    rng = np.random.default_rng(seed)
    free = self._free(tokens)
    count = min(count_of(self.rate, len(tokens)), free.sum())
    if self.whole_words:
      begins = checked_flags(
        begins,
        tokens,
        'MaskedLM(whole_words=True) needs `begins`, True where a word begins',
      )
      chosen = free & _some_words(np.cumsum(begins), free, count, rng)
    else:
      chosen = np.zeros(len(tokens), bool)
      chosen[rng.choice(np.flatnonzero(free), count, replace=False)] = True
    return Text(
      tokens=self._hidden(tokens, chosen, vocab, rng),
      targets=tokens,
      weight=chosen.astype(np.float32),
      role=np.zeros_like(tokens),
    )

  def _free(self, tokens):
    free = ~np.isin(tokens, self.kept)
    if not free.any():
      raise ValueError(
        f'MaskedLM(kept={self.kept}) keeps every token of a text, so there is '
        'nothing to predict. Leave this text out, or keep fewer.'
      )
    return free

  def _hidden(self, tokens, chosen, vocab, rng):
    mask = self.with_ids(vocab).mask
    words = np.setdiff1d(np.arange(vocab), [*self.kept, mask])
    lot = rng.random(len(tokens))
    masked = chosen & (lot < self.masked)
    drawn = chosen & ~masked & (lot < self.masked + self.random)
    hidden = np.where(masked, mask, tokens).astype(np.int32)
    hidden[drawn] = rng.choice(words, drawn.sum())
    return hidden


def _some_words(word, free, count: int, rng) -> np.ndarray:
  """Where the chosen words are, bool [n]; `word` is each token's number."""
  sizes = np.bincount(word[free])
  order = rng.permutation(np.flatnonzero(sizes))
  chosen, left = [], count
  for number in order:
    if sizes[number] <= left:
      chosen.append(number)
      left -= sizes[number]
  return np.isin(word, chosen or order[:1])


@dataclasses.dataclass(frozen=True)
class FillInMiddle(Objective):
  """The middle of a text is read, and predicted, after both its sides.

  Bavarian et al. 2022, section 3. With probability `rate` a text is cut at two
  places, each uniform from 0 to n, and laid out with four marks, [n + 3]; else
  it is read as it is, [n - 1]. All tokens are predicted.

  Prefix first: <prefix> prefix <suffix> suffix <middle> middle <end>.
  Suffix first, the share `spm_rate` of the texts that are cut:
  <prefix> <suffix> suffix <middle> prefix middle <end>.
  """

  rate: float = 0.5
  spm_rate: float = 0.5
  prefix: int | None = None
  suffix: int | None = None
  middle: int | None = None
  end: int | None = None

  def __post_init__(self):
    super().__post_init__()
    check_share(self, 'rate')
    check_share(self, 'spm_rate')
    check_distinct(self, tuple(self.marks()))

  def lengths(self, count):
    return 0, count + 3

  def marks(self):
    return {'prefix': 1, 'suffix': 1, 'middle': 1, 'end': 1}

  def __call__(self, tokens, seed, vocab):
    tokens = checked_tokens(tokens, vocab, least=2)
    rng = np.random.default_rng(seed)
    if rng.random() >= self.rate:
      return next_tokens(tokens)
    places = np.sort(rng.integers(0, len(tokens) + 1, 2))
    prefix, middle, suffix = np.split(tokens, places)
    its = self.with_ids(vocab)
    if rng.random() < self.spm_rate:
      row = [[its.prefix, its.suffix], suffix, [its.middle], prefix, middle]
    else:
      row = [[its.prefix], prefix, [its.suffix], suffix, [its.middle], middle]
    return next_tokens(np.concatenate([*row, [its.end]]).astype(np.int32))
