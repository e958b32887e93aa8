"""How evicted states become few: every `rate` of them, one.

Rae et al. 2019 (Compressive Transformers), section 3.1. All are of one
document; what is of none, EMPTY, counts as nothing.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from lctx.types import Array


@dataclasses.dataclass(frozen=True)
class Compressor:
  """`compress` of states x [B, T, D] gives [B, T / rate, D]."""

  learned: ClassVar[bool] = False
  matrices: ClassVar[int] = 0  # that each state goes through
  by_usage: ClassVar[bool] = False

  def check(self) -> None:
    """Raises ValueError where its fields cannot be."""

  def compress(
    self,
    param: Callable,
    x: Array,
    document_BT: Array,
    usage_BT: Array | None,
    rate: int,
  ) -> tuple[Array, Array]:
    """The states, and the document of each [B, T / rate]."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Grouped(Compressor):
  """One state for `rate` that lie together."""

  def compress(self, param, x, document_BT, usage_BT, rate):
    groups_BGC = document_BT.reshape(document_BT.shape[0], -1, rate)
    return self.grouped(param, x, groups_BGC >= 0), groups_BGC.max(axis=2)

  def grouped(self, param: Callable, x: Array, counted_BGC: Array) -> Array:
    """One state for each group [B, G, D], of those that count."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class MeanPool(Grouped):
  """The mean of each group."""

  def grouped(self, param, x, counted_BGC):
    x_BGCD = _grouped(x, counted_BGC)
    count_BG1 = jnp.maximum(counted_BGC.sum(axis=2), 1)[..., None]
    return x_BGCD.sum(axis=2) / count_BG1.astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class MaxPool(Grouped):
  """The largest of each channel."""

  def grouped(self, param, x, counted_BGC):
    x_BGCD = _grouped(x, counted_BGC, -jnp.inf)
    largest = x_BGCD.max(axis=2)
    return jnp.where(counted_BGC.any(axis=2)[..., None], largest, 0)


@dataclasses.dataclass(frozen=True)
class Conv(Grouped):
  """A convolution, as wide as its stride.

  `loss` weighs the attention-reconstruction loss (section 3.2): how far what
  attention makes of compressed states is from what it made of those they stand
  for, without positions. It trains the compressor and nothing else, and nothing
  else trains the compressor; at 0, the loss of the text does.
  """

  learned, matrices = True, 1

  loss: float = 1.0

  def check(self):
    if not self.loss >= 0:
      raise ValueError(
        f'model.memory.compressor.loss = {self.loss} weighs a loss and must be '
        'at least 0. Published: 1.'
      )

  def grouped(self, param, x, counted_BGC):
    rate = counted_BGC.shape[2]
    kernel_CDE = _kernel(param, 'kernel', rate, x.shape[-1])
    y = jnp.einsum('bgcd,cde->bge', _grouped(x, counted_BGC), kernel_CDE)
    return y.astype(x.dtype) + _bias(param, 'bias', x)


@dataclasses.dataclass(frozen=True)
class DilatedConv(Conv):
  """Two convolutions: over three neighbours, then over three groups.

  The second takes every `rate`-th of what the first gave and ReLU bent, so a
  state is made of nine, up to `rate` + 1 steps from the middle of its group.
  The paper names dilated convolutions and leaves their sizes open; these are
  ours.
  """

  matrices = 6

  def grouped(self, param, x, counted_BGC):
    batch, groups, rate = counted_BGC.shape
    x = _grouped(x, counted_BGC).reshape(batch, groups * rate, -1)
    width = x.shape[-1]

    def convolved(name, x, gap):
      kernel_3DE = _kernel(param, name, 3, width)
      padded = jnp.pad(x, ((0, 0), (gap, gap), (0, 0)))
      y = sum(
        jnp.einsum(
          'btd,de->bte', padded[:, i * gap : i * gap + x.shape[1]], kernel_DE
        )
        for i, kernel_DE in enumerate(kernel_3DE)
      )
      return y.astype(x.dtype) + _bias(param, f'{name}_bias', x)

    x = nn.relu(convolved('near', x, 1))
    x = jnp.where(counted_BGC.reshape(batch, -1)[..., None], x, 0)
    return convolved('far', x, rate)[:, rate // 2 :: rate]


@dataclasses.dataclass(frozen=True)
class MostUsed(Compressor):
  """Those that attention gave most to: a mean over all that could see them."""

  by_usage = True

  def compress(self, param, x, document_BT, usage_BT, rate):
    count = x.shape[1] // rate
    usage_BT = jnp.where(document_BT >= 0, usage_BT, -1.0)
    _, best_BG = jax.lax.top_k(usage_BT, count)
    best_BG = jnp.sort(best_BG, axis=1)
    document_BG = jnp.take_along_axis(document_BT, best_BG, axis=1)
    return jnp.take_along_axis(x, best_BG[..., None], axis=1), document_BG


def _grouped(x: Array, counted_BGC: Array, nothing: float = 0.0) -> Array:
  """[B, G, C, D], `nothing` where a state does not count."""
  x_BGCD = x.reshape(*counted_BGC.shape, x.shape[-1])
  return jnp.where(counted_BGC[..., None], x_BGCD, nothing)


def _kernel(param, name, size, width):
  """Starts as the mean of what it covers, and a little noise."""

  def init(key, shape, dtype):
    mean = jnp.eye(width, dtype=dtype)[None] / size
    return mean + 0.02 * jax.random.normal(key, shape, dtype)

  return param(name, (size, width, width), ('taps', 'width', 'gate'), init)


def _bias(param, name, x):
  bias_D = param(name, x.shape[-1:], ('width',), nn.initializers.zeros)
  return bias_D.astype(x.dtype)[None, None]
