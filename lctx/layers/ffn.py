"""The feed-forward part of a layer: widened, bent and narrowed again."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from lctx.layers.parameters import declare
from lctx.types import Array


@dataclasses.dataclass(frozen=True)
class FeedForward:
  """bent(x W1 + b1) W2 + b2 (Vaswani et al. 2017, section 3.3).

  `bias`: whether there are b1 and b2; the defaults are as published.
  """

  bias: bool = True
  matrices: ClassVar[int] = 2

  def bend(self, h_BTF: Array) -> Array:
    """The function that is not linear, of each channel alone."""
    raise NotImplementedError

  def __call__(
    self, param: Callable, x: Array, hidden: int, drop: Callable
  ) -> Array:
    """`hidden` is the width between; `drop` the dropout after each step."""

    def linear(name, x, width, axes):
      return _linear(param, name, x, width, axes, self.bias)

    def widened(name):
      return linear(name, x, hidden, ('width', 'hidden'))

    h = drop(self._between(widened))
    return drop(linear('out', h, x.shape[-1], ('hidden', 'width')))

  def _between(self, widened):
    return self.bend(widened('in'))


@dataclasses.dataclass(frozen=True)
class Relu(FeedForward):
  """max(0, h), as in the first Transformers."""

  def bend(self, h_BTF):
    return nn.relu(h_BTF)


@dataclasses.dataclass(frozen=True)
class Tanh(FeedForward):
  """From -1 to 1."""

  def bend(self, h_BTF):
    return jnp.tanh(h_BTF)


@dataclasses.dataclass(frozen=True)
class Gelu(FeedForward):
  """h times the normal distribution up to h (Hendrycks and Gimpel 2016).

  `exact`: by erf (BERT, NeoX); else by tanh (GPT-2's and T5's `gelu_new`).
  """

  exact: bool = True

  def bend(self, h_BTF):
    return jax.nn.gelu(h_BTF, approximate=not self.exact)


@dataclasses.dataclass(frozen=True)
class GatedFeedForward(FeedForward):
  """(bent(x W) * x V) W2 (Shazeer 2020): `gate`, `in` and `out`, no biases.

  With three matrices for two, 2/3 of a width is as many parameters.
  """

  bias: bool = False
  matrices: ClassVar[int] = 3

  def _between(self, widened):
    h_BTF = widened('in')
    return self.bend(widened('gate')) * h_BTF


@dataclasses.dataclass(frozen=True)
class Glu(GatedFeedForward):
  """Gated by a sigmoid (Dauphin et al. 2017)."""

  def bend(self, h_BTF):
    return nn.sigmoid(h_BTF)


@dataclasses.dataclass(frozen=True)
class Geglu(GatedFeedForward):
  """Gated by GELU; `exact` as there. T5 1.1 is not exact."""

  exact: bool = True

  def bend(self, h_BTF):
    return jax.nn.gelu(h_BTF, approximate=not self.exact)


@dataclasses.dataclass(frozen=True)
class Swiglu(GatedFeedForward):
  """Gated by h * sigmoid(h), Swish or SiLU: Llama, Mistral."""

  def bend(self, h_BTF):
    return nn.silu(h_BTF)


class Feed(nn.Module):
  """Owns the parameters and the dropout of a feed-forward part."""

  kind: FeedForward
  hidden: int
  dropout: float

  @nn.compact
  def __call__(self, x):
    drop = nn.Dropout(self.dropout, deterministic=not self.has_rng('dropout'))
    return self.kind(declare(self), x, self.hidden, drop)


def _linear(param, name, x, width, axes, bias):
  kernel = param(name, (x.shape[-1], width), axes)
  y = jnp.einsum('btd,df->btf', x, kernel.astype(x.dtype))
  if not bias:
    return y
  bias_F = param(f'{name}_bias', (width,), axes[1:], nn.initializers.zeros)
  return y + bias_F.astype(x.dtype)[None, None]
