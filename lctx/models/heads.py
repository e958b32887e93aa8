"""How the heads of a layer look: a part of a config."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from lctx.layers.norm import Norm
from lctx.positions.adaptive import Adaptive, AdaptiveQueries, AdaptiveScores
from lctx.positions.base import Score, Sizes
from lctx.positions.cap import SoftCap
from lctx.positions.span import AdaptiveSpan
from lctx.types import Array

__all__ = ['AdaptiveQueries', 'AdaptiveScores', 'AdaptiveSpan', 'Heads']


@dataclasses.dataclass(frozen=True)
class Heads:
  """What attention does beside position and pattern; by default nothing.

  `keys`: heads of keys and values; fewer than num_heads is grouped-query
  attention, 1 is multi-query, None as many. `norm` is of queries and of keys,
  each head by itself, before positions (QK-norm). `adaptive` reweights logits
  by how alike positions are, `cap` bounds them softly, `span` learns how far
  back each head looks; in this order. `bias` is added to queries, keys and
  values, `out_bias` to what all heads give together. `scale` multiplies logits,
  None = 1 / sqrt(head width).
  """

  keys: int | None = None
  norm: Norm | None = None
  cap: float | None = None
  span: AdaptiveSpan | None = None
  adaptive: Adaptive | None = None
  bias: bool = False
  out_bias: bool = False
  scale: float | None = None

  def __post_init__(self):
    if self.keys is not None and self.keys < 1:
      raise ValueError(
        f'model.heads.keys = {self.keys} counts heads of keys and must be at '
        'least 1. Use none for as many as queries have.'
      )
    if self.scale is not None and self.scale <= 0:
      raise ValueError(
        f'model.heads.scale = {self.scale} multiplies logits and must be above '
        '0. Use none for 1 / sqrt(head width).'
      )
    if self.cap is not None and self.cap <= 0:
      raise ValueError(
        f'model.heads.cap = {self.cap} bounds logits and must be above 0. Use '
        'none for no cap.'
      )

  def check(self, sizes: Sizes) -> None:
    """Raises ValueError where they cannot serve a model of these sizes."""
    if sizes.num_heads % sizes.key_heads:
      fit = [
        k for k in range(1, sizes.num_heads + 1) if not sizes.num_heads % k
      ]
      raise ValueError(
        f'model.heads.keys = {sizes.key_heads} does not divide '
        f'model.stack.num_heads = {sizes.num_heads}, whose heads share keys '
        f'evenly. Use one of {", ".join(map(str, fit))}.'
      )
    if self.adaptive is not None:
      self.adaptive.check(sizes)

  def scores(self, param: Callable, sizes: Sizes) -> tuple[Score, ...]:
    """What changes the logits of one layer, after its position."""
    found = [
      self.adaptive and self.adaptive.score(param, sizes),
      self.cap and SoftCap(self.cap),
      self.span and self.span.score(param, sizes),
    ]
    return tuple(score for score in found if score is not None)

  @property
  def placeless(self) -> tuple[Score, ...]:
    """What changes logits of keys that are of another text."""
    return () if self.cap is None else (SoftCap(self.cap),)

  def key_width(self, sizes: Sizes) -> int:
    """Channels of a key as it is carried: with its own position's queries?"""
    if self.average(sizes) is None:
      return sizes.head_width
    return sizes.head_width * (1 + sizes.num_heads // sizes.key_heads)

  def penalty(self, scores: tuple[Score, ...]) -> Array:
    """The auxiliary loss of one layer: a float32 scalar."""
    if self.span is None:
      return jnp.zeros((), jnp.float32)
    return self.span.loss(scores[-1])

  def average(self, sizes: Sizes) -> Score | None:
    """The logits by which queries are averaged first; None = they are not."""
    return self.adaptive and self.adaptive.average(sizes)
