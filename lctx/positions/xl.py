"""Transformer-XL's relative positions, with sinusoids or a learned table."""

import dataclasses

import jax.numpy as jnp

from lctx.positions.base import Position
from lctx.positions.relative import Relative
from lctx.positions.sinusoid import check_even, sinusoid
from lctx.types import Array


@dataclasses.dataclass(frozen=True)
class RelativeXL(Position):
  """Sinusoids of the distance, projected by each layer (Dai et al. 2019, 3.3).

  `clamp`: distances beyond it count as it (`clamp_len`); None = no limit.
  `per_layer`: each layer has its own biases u and v (`untie_r`); the
  published PyTorch models share one pair. Keys ahead have negative distances.
  """

  meets_queries = projects = True

  clamp: int | None = None
  per_layer: bool = False

  def __post_init__(self):
    check_clamp(self)

  def check(self, sizes):
    check_even(
      'model.position = relativexl', sizes, 'model.position=learnedrelative'
    )

  def once(self, param, sizes, drop):
    behind, ahead = sizes.distances, sizes.ahead
    if self.clamp is not None:
      behind, ahead = min(behind, self.clamp + 1), min(ahead, self.clamp)
    sinusoid_PD = sinusoid(jnp.arange(-ahead, behind), sizes.width)
    sinusoid_PD = drop(sinusoid_PD.astype(sizes.dtype))
    return None if self.per_layer else biases(param, sizes), sinusoid_PD

  def score(self, param, shared, sizes):
    shared_biases, sinusoid_PD = shared
    u_NH, v_NH = shared_biases or biases(param, sizes)
    shape = (sizes.width, sizes.num_heads, sizes.head_width)
    kernel_DNH = param('relative', shape, ('width', 'heads', 'head_width'))
    kernel_DNH = kernel_DNH.astype(sinusoid_PD.dtype)
    r_PNH = jnp.einsum('pd,dnh->pnh', sinusoid_PD, kernel_DNH)
    scale, ahead = sizes.scale, sizes.ahead
    if self.clamp is not None:
      ahead = min(ahead, self.clamp)
    return Relative(r_PNH, u_NH, v_NH, None, scale, ahead)


@dataclasses.dataclass(frozen=True)
class LearnedRelative(Position):
  """A table of `length` distances per layer; farther ones use its last row.

  `clamp` keeps the rows of distances 0 to clamp - 1, as published. `ahead`
  more rows are for keys ahead of the query; as published there are none.
  """

  meets_queries = True

  length: int
  clamp: int | None = None
  ahead: int = 0

  def __post_init__(self):
    check_clamp(self)
    if self.length < 1 or self.ahead < 0:
      raise ValueError(
        f'model.position.length = {self.length} is the number of distances '
        'in the table and must be at least 1, model.position.ahead = '
        f'{self.ahead} those of keys ahead, at least 0. Use segment + memory '
        'for the first.'
      )
    if self.clamp is not None and self.clamp > self.length:
      raise ValueError(
        f'model.position.clamp = {self.clamp} has no effect: the table ends at '
        f'model.position.length = {self.length} distances. Use none, or fewer.'
      )

  def check(self, sizes):
    if sizes.ahead and not self.ahead:
      raise ValueError(
        'model.position = learnedrelative has no rows for keys ahead of a '
        'query, which model.pattern lets it see. Set model.position.ahead to '
        'how many steps ahead have a row of their own, or use a pattern that '
        'never looks ahead: causal, staircase, window with after = 0.'
      )

  def score(self, param, shared, sizes):
    heads = (sizes.num_heads, sizes.head_width)
    axes = ('distances', 'heads', 'head_width')
    r_PNH = param('relative', (self.ahead + self.length, *heads), axes)
    c_PN = param(
      'relative_bias', (self.ahead + self.length, heads[0]), axes[:2]
    )
    u_NH = param('content_bias', heads, axes[1:])
    if self.clamp is not None:
      r_PNH, c_PN = (x[: self.ahead + self.clamp] for x in (r_PNH, c_PN))
    scale = sizes.scale
    return Relative(r_PNH, u_NH, None, c_PN, scale, self.ahead)


def biases(param, sizes) -> tuple[Array, Array]:
  """u, which asks for content, and v, which asks for distance."""
  shape, axes = (sizes.num_heads, sizes.head_width), ('heads', 'head_width')
  return param('content_bias', shape, axes), param('distance_bias', shape, axes)


def check_clamp(position) -> None:
  if position.clamp is not None and position.clamp < 1:
    raise ValueError(
      f'model.position.clamp = {position.clamp} is a distance and must be at '
      'least 1. Use none for no limit.'
    )
