"""Adaptive attention: attention weighted by how alike two positions are.

alpha_ij = exp(cos phi_ij) / sum_k exp(cos phi_ik), phi_ij the angle between
the sinusoids of positions i and j, k over what row i may see. The formula
softmax(alpha H H^T) has two readings. `AdaptiveQueries` multiplies matrices,
(alpha H) H^T: queries are averaged over positions. `AdaptiveScores` multiplies
element by element.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from lctx.positions.base import Score, Sizes
from lctx.positions.relative import Relative
from lctx.positions.sinusoid import check_even, sinusoid
from lctx.positions.steps import Times
from lctx.types import Array


@dataclasses.dataclass(frozen=True)
class Adaptive:
  """One of the two readings."""

  def check(self, sizes: Sizes) -> None:
    """Raises ValueError for a width that has no sinusoids."""
    check_even('model.heads.adaptive', sizes, 'model.heads.adaptive=none')

  def score(self, param: Callable, sizes: Sizes) -> Score | None:
    """What changes the logits of one layer."""
    raise NotImplementedError

  def average(self, sizes: Sizes) -> Score | None:
    """The logits by which queries are averaged first; None = they are not."""
    return None


@dataclasses.dataclass(frozen=True)
class AdaptiveScores(Adaptive):
  """Logits times (n_i alpha_ij)^g, n_i the number of keys that row i sees.

  Each head learns g; it starts at 0, where nothing is changed.
  """

  def score(self, param, sizes):
    zeros = nn.initializers.zeros
    g_N = param('adaptive', (sizes.num_heads,), ('heads',), zeros)
    return Reweighted(g_N, cosines(sizes))


@dataclasses.dataclass(frozen=True)
class AdaptiveQueries(Adaptive):
  """Queries averaged by alpha over all positions that a query may see.

  Queries of earlier positions are carried beside their keys.
  """

  def score(self, param, sizes):
    return None

  def average(self, sizes):
    return cosines(sizes)


@struct.dataclass
class Reweighted(Score):
  """Logits times exp(g (cos phi_ij + log(n_i / z_i))).

  `log_ratio` is [N or 1, B, T], z_i the sum of exp(cos phi_ik) over visible k.
  """

  g_N: Array
  cosine: Relative
  log_ratio: Any = None

  folds = True

  def of_heads(self, heads_N):
    assert self.log_ratio is None  # sums are made of the heads that are there
    return self.replace(g_N=self.g_N[heads_N])

  def block(self, s_NBTS, q_BTNH, q_at, k_at):
    cosine = self.cosine.block(jnp.zeros(()), q_BTNH, q_at, k_at)
    power = self.g_N[:, None, None, None] * (cosine + self.log_ratio[..., None])
    return s_NBTS * jnp.exp(power)

  def steps(self, q_BTNH, q_at, k_at):
    (cosine,) = self.cosine.steps(q_BTNH, q_at, k_at)
    ratio_BNT = jnp.moveaxis(self.log_ratio, 0, 1)
    by_query_BNT = self.g_N[None, :, None] * ratio_BNT
    return (Times(c=self.g_N[None] * cosine.c, by_query=by_query_BNT),)

  def fold(self, q_at, k_at, visible_NBTS):
    cosine = self.cosine.block(jnp.zeros(()), None, q_at, k_at)
    weight = jnp.where(visible_NBTS, jnp.exp(cosine), 0)
    return visible_NBTS.sum(axis=-1, dtype=jnp.float32), weight.sum(axis=-1)

  def folded(self, sums):
    count, weight = sums
    ratio = jnp.where(weight > 0, count, 1) / jnp.where(weight > 0, weight, 1)
    return self.replace(log_ratio=jnp.log(ratio))

  def along(self, q_at, k_at):
    more = q_at.length - self.log_ratio.shape[-1]
    longer = jnp.pad(self.log_ratio, ((0, 0), (0, 0), (0, more)))
    cosine = self.cosine.along(q_at, k_at)
    return self.replace(cosine=cosine, log_ratio=longer)

  def cut(self, tile):
    rows = jax.lax.dynamic_slice_in_dim(
      self.log_ratio, tile.query, tile.queries, axis=-1
    )
    return self.replace(cosine=self.cosine.cut(tile), log_ratio=rows)

  def put(self, total, part, tile):
    place = (total.log_ratio, tile.query, tile.queries)
    rows = part.log_ratio + jax.lax.dynamic_slice_in_dim(*place, axis=-1)
    return Reweighted(
      total.g_N + part.g_N,
      self.cosine.put(total.cosine, part.cosine, tile),
      jax.lax.dynamic_update_slice_in_dim(
        total.log_ratio, rows, tile.query, axis=-1
      ),
    )


def cosines(sizes: Sizes) -> Relative:
  """cos phi by distance: it depends on nothing else."""
  steps = jnp.arange(-sizes.ahead, sizes.distances)
  waves_PD = sinusoid(steps, sizes.width)
  cosine_P = waves_PD[:, sizes.width // 2 :].mean(axis=-1)
  return Relative(None, None, None, cosine_P[:, None], 1.0, sizes.ahead)
