"""Floating-point operations of a model, counted on paper, and of devices.

A multiplication and an addition are two operations. Only matrix products
count: what remains (norms, softmax, elementwise) is a percent or two. A scan's
body is counted once by XLA whatever its length, so XLA cannot count for us.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

# Dense bfloat16 operations per second of one jax device, as published by the
# maker. The first entry whose words all occur in `device_kind` counts.
PEAK = {
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5e': 197e12,
  'TPU v5p': 459e12,
  'TPU v5': 459e12,
  'TPU v6 lite': 918e12,
  'TPU v6e': 918e12,
  'A100': 312e12,
  'H100 PCIe': 756e12,
  'H100 NVL': 835e12,
  'H200 NVL': 835e12,
  'H100': 989e12,
  'H200': 989e12,
  'B200': 2250e12,
}


@dataclasses.dataclass(frozen=True)
class Bin:
  """A stretch of the vocabulary: `rows` vectors of `width`.

  `projected`: vectors and the model's width are joined by a matrix, on the way
  in and on the way out. `share`: the part of all tokens that meets this bin;
  1 for the first of an adaptive softmax (whose rows include the clusters), the
  frequency of its tokens for another.
  """

  rows: int
  width: int
  projected: bool = False
  share: float = 1.0


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What of a model decides its matrix products.

  `relative`: queries meet projected distances as well as keys (Dai et al.
  2019). `gated`: the feed-forward has three matrices, not two.
  """

  depth: int
  width: int
  num_heads: int
  head_width: int
  ffn_width: int
  bins: tuple[Bin, ...]
  relative: bool = True
  gated: bool = False


@dataclasses.dataclass(frozen=True)
class Reading:
  """How text is read: segments of a row, each seeing memory before it.

  `window`: a query sees at most so many keys, itself included (`same_length`);
  None = all of its memory. Memory is taken to be full. `rows` share one
  projection of the distances.
  """

  segment: int
  memory: int = 0
  rows: int = 1
  causal: bool = True
  window: int | None = None

  @property
  def visible(self) -> float:
    """Keys that a query sees, on average: (T + 1) / 2 + M if causal."""
    if not self.causal:
      return float(self.segment + self.memory)
    seen = self.memory + 1 + np.arange(self.segment)
    limit = seen.max() if self.window is None else self.window
    return float(np.minimum(seen, limit).mean())


@dataclasses.dataclass(frozen=True)
class Flops:
  """Operations per token of a forward pass, by what they are for.

  `reprojection`, of remembered states to keys and values, is work that a
  cache of keys and values would not do: it is no part of the model's.
  """

  projections: float
  attention: float
  relative: float
  ffn: float
  vocabulary: float
  reprojection: float

  @property
  def forward(self) -> float:
    """The model's, per token of inference."""
    parts = self.projections + self.attention + self.relative + self.ffn
    return parts + self.vocabulary

  @property
  def train(self) -> float:
    """The model's, per token of training: backward is twice forward."""
    return 3 * self.forward

  @property
  def hardware(self) -> float:
    """What training with a memory of states does, rematerialisation aside.

    Memory is behind a stop-gradient, so re-projection goes backward once, to
    the weights.
    """
    return self.train + 2 * self.reprojection


def count(sizes: Sizes, reading: Reading) -> Flops:
  """Operations per token."""
  heads = sizes.num_heads * sizes.head_width
  matrix = 2 * sizes.width * heads
  scores = 2 * heads * reading.visible
  keys = reading.segment + reading.memory
  once = matrix * keys / (reading.segment * reading.rows)
  matrices = 3 if sizes.gated else 2
  return Flops(
    projections=sizes.depth * 4 * matrix,
    attention=sizes.depth * 2 * scores,
    relative=sizes.depth * (scores + once) if sizes.relative else 0.0,
    ffn=sizes.depth * matrices * 2 * sizes.width * sizes.ffn_width,
    vocabulary=sum(_bin_flops(sizes.width, part) for part in sizes.bins),
    reprojection=sizes.depth * 2 * matrix * reading.memory / reading.segment,
  )


def utilisation(
  flops_per_second: float, devices: Sequence[jax.Device]
) -> float | None:
  """The share of the devices' peak that is used; None if one has no known peak.

  A CPU has none.
  """
  peaks = [_peak(device.device_kind) for device in devices]
  if None in peaks:
    return None
  return flops_per_second / sum(peaks)


def _bin_flops(width: int, part: Bin) -> float:
  scores = 2 * part.width * part.rows
  joined = 2 * 2 * width * part.width if part.projected else 0
  return part.share * (scores + joined)


def _peak(kind: str) -> float | None:
  for name, peak in PEAK.items():
    if set(name.split()) <= set(kind.replace('-', ' ').split()):
      return peak
  return None
