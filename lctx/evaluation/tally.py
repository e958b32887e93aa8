"""Sums per document and bin of distance, gathered while a corpus passes by."""

import math
from collections.abc import Mapping

import numpy as np

from lctx.evaluation.rows import Rows

CONDITIONS = ('own', 'swap', 'none')  # whose memory a token was scored with
TOKENS, BYTES, NATS = 0, 1, 2  # columns of sums; nats: one per CONDITIONS
_GROUPS = 10_000


class Tally:
  """Sums per document and bin of distance, gathered piece by piece.

  Its memory is bounded (8 bytes a document, and up to 30 MB), so a corpus
  passes through. Documents are told apart by `Rows.source`; beyond 10,000,
  number i shares a group with i + 10,000, and groups are resampled.
  """

  def __init__(self, segment: int):
    self.segment = segment
    self.conditions: frozenset[str] = frozenset()  # known at the first `add`
    self.edges = bin_edges(segment)
    self.reach = 0  # distance behind the farthest token
    num_bins = len(self.edges)
    assert num_bins <= 64, num_bins
    self._sums = np.zeros((_GROUPS, num_bins, NATS + len(CONDITIONS)))
    self._seen = np.zeros(0, np.uint64)  # per document, a bit for every bin

  def add(
    self, rows: Rows, num_bytes: np.ndarray, nats: Mapping[str, np.ndarray]
  ) -> None:
    """`num_bytes` of the targets and `nats` per condition, [B, n] each.

    'own' is always measured, and the others at every call or never.
    """
    self.conditions = self.conditions or frozenset(nats)
    assert set(nats) == self.conditions, (set(nats), self.conditions)
    assert 'own' in nats and set(nats) <= set(CONDITIONS), set(nats)
    counted = rows.weight > 0
    if not counted.any():
      return
    weight = rows.weight[counted].astype(np.float64)
    distance = rows.distance[counted].astype(np.int64)
    source = rows.source[counted]
    of_token = [np.ones(len(weight)), num_bytes[counted]]
    nothing = np.zeros(counted.shape)
    of_token += [nats.get(name, nothing)[counted] for name in CONDITIONS]
    bins = np.searchsorted(self.edges, distance, 'right') - 1
    pairs, pair = np.unique(
      source.astype(np.int64) * len(self.edges) + bins, return_inverse=True
    )
    sums = [np.bincount(pair, weight * values) for values in of_token]
    source, bins = np.divmod(pairs, len(self.edges))
    np.add.at(self._sums, (source % _GROUPS, bins), np.stack(sums, axis=1))
    self._mark(source, bins)
    self.reach = max(self.reach, int(distance.max()) + 1)

  def sums(self) -> np.ndarray:
    """[documents or groups, bins, columns], those with tokens only."""
    used = self._sums[: len(self._seen)]
    return used[used[:, :, TOKENS].any(axis=1)]

  def documents(self, bins: slice) -> int:
    """How many documents have tokens in any of these bins."""
    bits = sum(1 << b for b in range(len(self.edges))[bins])
    return int(np.count_nonzero(self._seen & np.uint64(bits)))

  def _mark(self, source: np.ndarray, bins: np.ndarray) -> None:
    missing = int(source.max()) + 1 - len(self._seen)
    if missing > 0:
      self._seen = np.pad(self._seen, (0, max(missing, len(self._seen))))
    bits = np.uint64(1) << bins.astype(np.uint64)
    np.bitwise_or.at(self._seen, source, bits)


def bin_edges(segment: int) -> np.ndarray:
  """Where bins of distance begin: 0, then two in every doubling.

  The segment is an edge, so a bin lies before or past it, never across.
  """
  below, above = math.log2(segment), 31 - math.log2(segment)
  halves = np.arange(-math.floor(2 * below), math.ceil(2 * above))
  return np.unique(np.append(0, np.rint(segment * 2.0 ** (halves / 2)))).astype(
    np.int64
  )
