"""Rotary positions, and all their stretches.

Su et al. 2021, section 3.4.2. Channels of queries and keys are paired, and a
pair is turned by its token's position times the frequency of the pair; so the
logit of a query and a key depends on the steps between them only. Here the
letter R counts pairs.
"""

import dataclasses

import jax.numpy as jnp
from flax import struct

from lctx.positions.base import Position, Score
from lctx.positions.stretch import (
  DynamicNtk,
  Linear,
  NtkAware,
  Plain,
  Stretch,
)
from lctx.positions.stretch_longrope import LongRope
from lctx.positions.stretch_parts import Llama3, NtkByParts, Yarn
from lctx.types import Array

__all__ = [
  'DynamicNtk',
  'Linear',
  'Llama3',
  'LongRope',
  'NtkAware',
  'NtkByParts',
  'Plain',
  'Rope',
  'Rotation',
  'Stretch',
  'Yarn',
]


@dataclasses.dataclass(frozen=True)
class Rope(Position):
  """Rotates queries and keys by their positions.

  `base`: of the frequencies, base^(-2i / d). `share` of each head rotates, its
  first channels (rounded down); the rest passes unchanged. `interleaved`: pairs
  are neighbours, as in RoFormer and GPT-J; else channel i pairs with i + d / 2,
  as in GPT-NeoX and Llama. `stretch` slows the frequencies, for longer texts.
  """

  base: float = 10_000.0
  share: float = 1.0
  interleaved: bool = False
  stretch: Stretch = dataclasses.field(default_factory=Plain)

  def __post_init__(self):
    if not self.base > 1:
      raise ValueError(
        f'model.position.base = {self.base} must be above 1: frequencies fall '
        'from 1 towards 1 / base. Published models use 10000 to 1e7.'
      )
    if not 0 < self.share <= 1:
      raise ValueError(
        f'model.position.share = {self.share} is the share of a head that '
        'rotates and must be above 0 and at most 1. Use 1 to rotate all of it.'
      )

  def check(self, sizes):
    self.stretch.frequencies(self._width(sizes.head_width), self.base)

  def score(self, param, shared, sizes):
    width = self._width(sizes.head_width)
    theta, factor = self.stretch.frequencies(width, self.base)
    theta_R, factor = (jnp.asarray(x, jnp.float32) for x in (theta, factor))
    return Rotation(theta_R, factor, self.interleaved)

  def declared(self, length: int) -> 'Rope':
    """The same for a call that reads and writes `length` tokens in all.

    Only stretches that go by the length of the text are changed by it.
    """
    return dataclasses.replace(self, stretch=self.stretch.declared(length))

  def _width(self, head_width: int) -> int:
    """Channels of a head that rotate."""
    width = int(self.share * head_width)
    if width < 2 or width % 2:
      raise ValueError(
        f'model.position.share = {self.share} of head width {head_width} '
        f'rotates {width} channels, but they turn in pairs: an even number, at '
        'least 2. Change it, or model.stack.head_width.'
      )
    return width


@struct.dataclass
class Rotation(Score):
  """Turns pair r by `theta_R[r]` radians for each step of a position.

  Positions need a common origin only, and should be small: angles are float32.
  Keys must come as they were projected, not turned before.
  """

  theta_R: Array  # float32
  attention_factor: Array | float = 1.0  # float32, a scalar
  interleaved: bool = struct.field(pytree_node=False, default=False)

  def rotate(self, q_BTNH, k_BSKH, q_at, k_at):
    return (
      self._turned(q_BTNH, q_at.position),
      self._turned(k_BSKH, k_at.position),
    )

  def _turned(self, x_BTNH: Array, position_BT: Array) -> Array:
    position_BT11 = position_BT[..., None, None].astype(jnp.float32)
    angle_BT1R = position_BT11 * self.theta_R[None, None, None]
    cos_BT1R = self.attention_factor * jnp.cos(angle_BT1R)
    sin_BT1R = self.attention_factor * jnp.sin(angle_BT1R)
    width = 2 * self.theta_R.shape[-1]
    x, rest = x_BTNH[..., :width].astype(jnp.float32), x_BTNH[..., width:]
    axis = -1 if self.interleaved else -2  # of a pair, as [..., R, 2] or [2, R]
    shape = (-1, 2) if self.interleaved else (2, -1)
    pairs = x.reshape(*x.shape[:-1], *shape)
    a_BTNR, b_BTNR = jnp.moveaxis(pairs, axis, 0)
    turned = (
      a_BTNR * cos_BT1R - b_BTNR * sin_BT1R,
      a_BTNR * sin_BT1R + b_BTNR * cos_BT1R,
    )
    x = jnp.stack(turned, axis=axis).reshape(x.shape).astype(x_BTNH.dtype)
    return jnp.concatenate([x, rest], axis=-1) if rest.shape[-1] else x
