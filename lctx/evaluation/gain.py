"""What memory gains: losses by distance into the document, with intervals.

The same tokens are scored with their own memory ('own'), with the memory of
another document ('swap') and without any ('none'). Documents, not tokens, are
what is drawn at random from a corpus, so intervals resample documents.
"""

import dataclasses
import math

import numpy as np

from lctx.evaluation.tally import BYTES, CONDITIONS, NATS, TOKENS, Tally

LEVEL = 0.95
FEWEST = 5  # documents that an interval takes; of fewer it would be too narrow
_BLOCK = 100  # resamples made at a time


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A number and its interval; None where it cannot be told."""

  value: float | None
  low: float | None = None
  high: float | None = None


@dataclasses.dataclass(frozen=True)
class Loss:
  bits_per_byte: Estimate
  bits_per_token: Estimate


@dataclasses.dataclass(frozen=True)
class Stretch:
  """Tokens at distances `first` to `end` - 1 into their document.

  Gains are in bits per byte, positive where memory helps; None for a condition
  that was not measured.
  """

  first: int
  end: int
  documents: int
  tokens: int
  num_bytes: int
  own: Loss
  swap: Loss | None
  none: Loss | None
  gain: Estimate | None  # none - own
  gain_over_swap: Estimate | None  # swap - own


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Memory against none, over tokens past the first segment of a document.

  `bins` divide what `past` holds. `note` says why a number is missing.
  """

  segment: int
  past: Stretch
  bins: tuple[Stretch, ...]
  resamples: int
  note: str = ''


def compare(tally: Tally, resamples: int = 2000, seed: int = 0) -> Comparison:
  """The conditions, and the gains, past the first segment of documents.

  Intervals: percentile bootstrap of the ratio of sums, over documents.
  """
  first = int(np.searchsorted(tally.edges, tally.segment))
  bins = [b for b in _bins_with_tokens(tally) if b.start >= first]
  past, *stretches = _stretches(
    tally, [slice(first, None), *bins], resamples, seed
  )
  return Comparison(
    segment=tally.segment,
    past=past,
    bins=tuple(stretches),
    resamples=resamples,
    note=_note(tally, past),
  )


def by_position(
  tally: Tally, resamples: int = 2000, seed: int = 0
) -> tuple[Stretch, ...]:
  """Mean losses by distance into the document, its first segment included."""
  return tuple(_stretches(tally, _bins_with_tokens(tally), resamples, seed))


def _bins_with_tokens(tally: Tally) -> list[slice]:
  tokens = tally.sums()[:, :, TOKENS].sum(axis=0)
  return [slice(b, b + 1) for b in np.flatnonzero(tokens).tolist()]


def _note(tally: Tally, past: Stretch) -> str:
  if past.tokens == 0:
    return (
      f'No document goes past its first segment of {tally.segment} tokens, so '
      'there is nothing that memory could add.'
    )
  if past.num_bytes == 0:
    return 'The tokens stand for no bytes, so there are no bits per byte.'
  if past.documents < FEWEST:
    return (
      f'{past.documents} of the documents go so far: no intervals, which come '
      f'from resampling documents and take {FEWEST}.'
    )
  return ''


def _stretches(tally: Tally, parts: list[slice], resamples: int, seed: int):
  """A Stretch for every slice of bins; the same resamples serve them all."""
  sums = tally.sums()
  parts_DPC = np.zeros((len(sums), len(parts), sums.shape[2]))
  for p, part in enumerate(parts):
    parts_DPC[:, p] = sums[:, part].sum(axis=1)
  drawn_RPC = _resample(parts_DPC, resamples, seed)
  for p, part in enumerate(parts):
    sampled = _Sampled(
      parts_DPC[:, p].sum(axis=0),
      drawn_RPC[:, p],
      tally.documents(part) >= FEWEST,
    )
    yield _stretch(tally, part, sampled)


def _resample(sums: np.ndarray, resamples: int, seed: int) -> np.ndarray:
  """Sums [resamples, ...] over documents drawn with replacement."""
  documents, random = len(sums), np.random.default_rng(seed)
  flat, drawn = sums.reshape(documents, math.prod(sums.shape[1:])), []
  for start in range(0, resamples if documents else 0, _BLOCK):
    size = min(_BLOCK, resamples - start)
    chosen = random.integers(documents, size=(size, documents))
    chosen += np.arange(size)[:, None] * documents
    times = np.bincount(chosen.reshape(-1), minlength=size * documents)
    drawn.append(times.reshape(size, documents).astype(np.float64) @ flat)
  drawn = np.concatenate(drawn) if drawn else np.zeros((0, flat.shape[1]))
  return drawn.reshape(len(drawn), *sums.shape[1:])


@dataclasses.dataclass(frozen=True)
class _Sampled:
  """The sums of a stretch [columns], and of its resamples [R, columns]."""

  sums: np.ndarray
  drawn: np.ndarray
  has_interval: bool

  def bits(self, per: int, more: int, less: int | None = None) -> Estimate:
    """Nats of column `more`, or of more - less, as bits per unit of `per`."""
    if not self.sums[per]:
      return Estimate(None)
    value = float(_bits(self.sums, per, more, less))
    if not self.has_interval or not math.isfinite(value):
      return Estimate(value)
    drawn = self.drawn[self.drawn[:, per] > 0]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(_bits(drawn, per, more, less), [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


def _bits(sums: np.ndarray, per: int, more: int, less: int | None):
  nats = sums[..., more] - (0 if less is None else sums[..., less])
  return nats / math.log(2) / sums[..., per]


def _stretch(tally: Tally, part: slice, sampled: _Sampled) -> Stretch:
  nats = {
    name: NATS + CONDITIONS.index(name) for name in tally.conditions | {'own'}
  }
  losses = {
    name: Loss(sampled.bits(BYTES, of), sampled.bits(TOKENS, of))
    for name, of in nats.items()
  }
  gains = {
    name: sampled.bits(BYTES, of, less=nats['own']) for name, of in nats.items()
  }
  first = int(tally.edges[part.start])
  after = part.stop if part.stop is not None else len(tally.edges)
  end = int(tally.edges[after]) if after < len(tally.edges) else tally.reach
  return Stretch(
    first=first,
    end=max(first, min(end, tally.reach)),
    documents=tally.documents(part),
    tokens=round(sampled.sums[TOKENS]),
    num_bytes=round(sampled.sums[BYTES]),
    own=losses['own'],
    swap=losses.get('swap'),
    none=losses.get('none'),
    gain=gains.get('none'),
    gain_over_swap=gains.get('swap'),
  )
