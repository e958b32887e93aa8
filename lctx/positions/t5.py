"""T5's relative positions: a bias for each bucket of distances."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from lctx.positions.base import Position
from lctx.positions.relative import Relative


@dataclasses.dataclass(frozen=True)
class T5Bias(Position):
  """A learned bias per head and bucket (Raffel et al. 2020, section 2.1).

  Near distances have a bucket each, farther ones share them logarithmically,
  and from `farthest` on there is one. `both_ways` gives half of the buckets to
  keys ahead, as in encoders; without it keys ahead have none. One table for
  the stack, or `per_layer`.
  """

  buckets: int = 32
  farthest: int = 128
  both_ways: bool = False
  per_layer: bool = False

  def __post_init__(self):
    sides = 2 if self.both_ways else 1
    if self.buckets < 2 * sides or self.buckets % (2 * sides):
      raise ValueError(
        f'model.position.buckets = {self.buckets} must be a multiple of '
        f'{2 * sides}: half are for near distances'
        f'{", on each of two sides" if self.both_ways else ""}. Published: 32.'
      )
    if self.farthest <= self.buckets // sides // 2:
      raise ValueError(
        f'model.position.farthest = {self.farthest} must be beyond the '
        f'{self.buckets // sides // 2} near distances that have a bucket each. '
        'Published: 128.'
      )

  def check(self, sizes):
    if sizes.ahead and not self.both_ways:
      raise ValueError(
        'model.position = t5bias has no buckets for keys ahead of a query, '
        'which model.pattern lets it see. Set model.position.both_ways=true, '
        'or use a pattern that never looks ahead.'
      )

  def once(self, param, sizes, drop):
    return None if self.per_layer else self._table(param, sizes)

  def score(self, param, shared, sizes):
    table_FN = self._table(param, sizes) if shared is None else shared
    ahead = min(sizes.ahead, self.farthest)
    steps = np.arange(-ahead, min(sizes.distances, self.farthest + 1))
    c_PN = jnp.take(table_FN, self.bucket(steps), axis=0)
    return Relative(None, None, None, c_PN, 1.0, ahead)

  def _table(self, param, sizes):
    shape = self.buckets, sizes.num_heads
    return param('relative_bias', shape, ('buckets', 'heads'))

  def bucket(self, steps: np.ndarray) -> np.ndarray:
    """The bucket of each distance from key back to query."""
    count = self.buckets // 2 if self.both_ways else self.buckets
    exact, n = (
      count // 2,
      abs(steps) if self.both_ways else np.maximum(steps, 0),
    )
    ratio = np.log(np.maximum(n, 1).astype(np.float32) / exact)
    ratio = ratio / np.float32(math.log(self.farthest / exact))
    far = exact + (ratio * (count - exact)).astype(np.int32)
    bucket = np.where(n < exact, n, np.minimum(far, count - 1))
    return bucket + np.where(steps < 0, count, 0) * self.both_ways
