"""How the learning rate moves: warm-up, then one equation each."""

import dataclasses

import jax.numpy as jnp

from lctx.optimizer.checks import require, require_fraction
from lctx.types import Array


@dataclasses.dataclass(frozen=True)
class Schedule:
  """The fraction of the peak rate at update n, counted from 0.

  Warm-up is linear, (n + 1) / warmup while n < warmup. After it, each schedule
  has its own equation, in which p = (n - warmup) / (steps - warmup) is the
  share of the remaining updates that is done.
  """

  warmup: int = 0

  def __post_init__(self):
    require(self.warmup >= 0, 'schedule.warmup', self.warmup, 'at least 0')

  def fraction(self, step: Array | int, steps: int) -> Array:
    """Float32 scalar; `steps` is the number of updates in the whole run."""
    step = jnp.asarray(step, jnp.float32)
    rising = (step + 1) / max(1, self.warmup)
    return jnp.where(step < self.warmup, rising, self._after(step, steps))

  def _after(self, step, steps):
    raise NotImplementedError

  def _progress(self, step, steps):
    length = max(1, steps - self.warmup)
    return jnp.clip((step - self.warmup) / length, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Cosine(Schedule):
  """final + (1 - final) (1 + cos(pi p)) / 2.

  With `shifted` off, p = n / steps: the cosine has been falling during the
  warm-up, as in Transformer-XL's published PyTorch code (its TensorFlow code
  shifts). `final` is a fraction of the peak.
  """

  final: float = 0.0
  shifted: bool = True

  def __post_init__(self):
    super().__post_init__()
    require_fraction('schedule.final', self.final)

  def _after(self, step, steps):
    if self.shifted:
      progress = self._progress(step, steps)
    else:
      progress = jnp.clip(step / steps, 0.0, 1.0)
    falling = (1 + jnp.cos(jnp.pi * progress)) / 2
    return self.final + (1 - self.final) * falling


@dataclasses.dataclass(frozen=True)
class InverseSquareRoot(Schedule):
  """sqrt(w / (n + 1)), w = max(warmup, 1): Vaswani et al. 2017, section 5.3."""

  def _after(self, step, steps):
    return jnp.sqrt(max(1, self.warmup) / (step + 1))


@dataclasses.dataclass(frozen=True)
class Linear(Schedule):
  """1 - (1 - final) p; `final` is a fraction of the peak."""

  final: float = 0.0

  def __post_init__(self):
    super().__post_init__()
    require_fraction('schedule.final', self.final)

  def _after(self, step, steps):
    return 1 - (1 - self.final) * self._progress(step, steps)


@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
  """1."""

  def _after(self, step, steps):
    return jnp.ones_like(step)
