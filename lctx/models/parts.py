"""The sizes of a stack and how it is computed: parts of a config."""

import dataclasses

import jax.numpy as jnp

from lctx.kernels.banded import Banded
from lctx.kernels.base import Kernel
from lctx.kernels.choose import Auto
from lctx.kernels.chunked import Chunked
from lctx.kernels.dense import Dense
from lctx.kernels.fused import Fused
from lctx.kernels.splash import Splash
from lctx.layers.ffn import FeedForward, Relu
from lctx.layers.gates import Gate, Residual
from lctx.layers.norm import LayerNorm, Norm

__all__ = [
  'Auto',
  'Banded',
  'Chunked',
  'Compute',
  'Dense',
  'Dropout',
  'Fused',
  'Splash',
  'Stack',
]


@dataclasses.dataclass(frozen=True)
class Stack:
  """`depth` equal layers: attention, then a feed-forward part.

  `head_width` None = width / num_heads; `ffn_width` None = 4 x width.
  `pre_norm`: norms sit before each part and memory holds un-normed states;
  `norm_after` (Gemma 2) norms what a pre-normed part gives, too, `final_norm`
  what the last layer gives. `parallel` (GPT-NeoX): both parts read what the
  layer received. `gate` is how each part joins what it read; every place has
  parameters of its own.
  `initializer_range`: the standard deviation of matrices and tables when
  training begins; None = 1 / sqrt(width), which small models want.
  """

  depth: int
  num_heads: int
  head_width: int | None = None
  ffn_width: int | None = None
  pre_norm: bool = False
  norm_after: bool = False
  final_norm: bool = False
  parallel: bool = False
  norm: Norm = dataclasses.field(default_factory=LayerNorm)
  ffn: FeedForward = dataclasses.field(default_factory=Relu)
  gate: Gate = dataclasses.field(default_factory=Residual)
  initializer_range: float | None = 0.02

  def __post_init__(self):
    if self.initializer_range is not None and self.initializer_range <= 0:
      raise ValueError(
        f'model.stack.initializer_range = {self.initializer_range} is a '
        'standard deviation and must be above 0, or none for 1 / sqrt(width).'
      )
    for name in ('norm_after', 'parallel'):
      if getattr(self, name) and not self.pre_norm:
        raise ValueError(
          f'model.stack.{name} is of parts that are normed before, but '
          'model.stack.pre_norm is off. Turn both on, or both off.'
        )
    for name in ('depth', 'num_heads', 'head_width', 'ffn_width'):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ValueError(
          f'model.stack.{name} = {value} must be at least 1. Give it a '
          'positive number.'
        )

  def head_width_of(self, width: int) -> int:
    if self.head_width is not None:
      return self.head_width
    if width % self.num_heads:
      near = [n for n in range(1, width + 1) if width % n == 0]
      near.sort(key=lambda n: abs(n - self.num_heads))
      raise ValueError(
        f'model.stack.num_heads = {self.num_heads} does not divide '
        f'model.embed.width = {width}. Use {near[0]} or {near[1]} heads, '
        'another width, or set model.stack.head_width.'
      )
    return width // self.num_heads

  def deviation_of(self, width: int) -> float:
    """Of matrices and tables, before training."""
    return self.initializer_range or width**-0.5

  def ffn_width_of(self, width: int) -> int:
    return self.ffn_width or 4 * width


@dataclasses.dataclass(frozen=True)
class Dropout:
  """What training hides, as shares: 0 = nothing.

  `hidden`: of states and positions; `attention`: of its weights, but not
  of those by which retrieval, Melodi's long memory and state cells recall, nor
  of what global tokens see;
  `memory`: of rows that lose their memory before a segment, so that reading
  without memory is something the model has met.
  """

  hidden: float = 0.0
  attention: float = 0.0
  memory: float = 0.0

  def __post_init__(self):
    for name in ('hidden', 'attention', 'memory'):
      rate = getattr(self, name)
      if not 0 <= rate < 1 and (name, rate) != ('memory', 1):
        raise ValueError(
          f'model.dropout.{name} = {rate} is the share that is dropped and '
          'must be at least 0 and below 1.'
        )


@dataclasses.dataclass(frozen=True)
class Compute:
  """How the model is computed; none of it changes what it means.

  `dtype`: of activations; parameters, softmax and losses stay float32.
  `remat_layers`, `remat_segments`: recompute instead of storing, per layer
  and per segment. `unroll`: layers per step of the scan over layers; more
  is faster and compiles longer. `kernel` of attention: Auto
  chooses one for each attention and logs why; the others are that one always.
  """

  dtype: str = 'float32'
  remat_layers: bool = False
  remat_segments: bool = False
  unroll: int = 1
  kernel: Kernel = dataclasses.field(default_factory=Auto)

  def __post_init__(self):
    if self.dtype not in ('float32', 'bfloat16'):
      raise ValueError(
        f'model.compute.dtype = {self.dtype!r} is not a type lctx computes '
        "in. Use 'float32' or 'bfloat16'."
      )
    if self.unroll < 1:
      raise ValueError(
        f'model.compute.unroll = {self.unroll} counts layers and must be at '
        'least 1.'
      )

  @property
  def jax_dtype(self):
    return jnp.dtype(self.dtype)
