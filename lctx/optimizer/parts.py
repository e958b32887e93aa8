"""Adam, Lion, Adafactor and Muon.

Every optimizer is the same chain: clip the gradients by their global norm,
apply the optimizer's own rule, add decayed weights (decoupled: Loshchilov and
Hutter 2019), multiply by minus the rate of the step.
"""

import dataclasses
import logging
import math
from collections.abc import Callable

import jax
import optax
from optax import contrib

from lctx.optimizer.axes import each, is_matrix, sides
from lctx.optimizer.checks import require, require_above, require_averages
from lctx.optimizer.layerwise import layer_by_layer
from lctx.optimizer.schedules import Cosine, Schedule
from lctx.types import Array, Params

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """What all optimizers have; use one of those below.

  `peak`: the highest rate. `decay`: each update takes rate * decay off every
  matrix. `clip`: largest global norm of the gradients, 0 = no clipping; 0.25
  is Transformer-XL's.
  """

  peak: float = 2.5e-4
  schedule: Schedule = dataclasses.field(default_factory=Cosine)
  decay: float = 0.0
  clip: float = 0.25

  def __post_init__(self):
    require_above('peak', self.peak)
    for field in ('decay', 'clip'):
      value = getattr(self, field)
      good = math.isfinite(value) and value >= 0
      require(good, field, value, 'finite and at least 0, where 0 is off')

  def rate(self, steps: int) -> Callable[[Array | int], Array]:
    """The learning rate as a function of the updates made so far.

    Raises ValueError if `steps`, the updates of the whole run, is below 1.
    """
    if steps < 1:
      raise ValueError(
        f'train.steps = {steps} leaves nothing to schedule: it must be at '
        'least 1.'
      )
    return lambda step: self.peak * self.schedule.fraction(step, steps)

  def transform(self, steps: int, axes: Params) -> optax.GradientTransformation:
    """The optimizer of a run of `steps` updates.

    `axes` is like the parameters, each leaf a tuple of logical axes. Raises
    ValueError for a leaf with more than two sides.
    """
    rate = self.rate(steps)
    if steps <= self.schedule.warmup:
      _log.warning(
        'train.steps = %d ends within optimizer.schedule.warmup = %d: the '
        'rate never reaches optimizer.peak.',
        steps,
        self.schedule.warmup,
      )
    parts = [self._rule(axes)]
    if self.clip:
      parts.insert(0, optax.clip_by_global_norm(self.clip))
    if self.decay:
      mask = each(is_matrix, axes)
      parts.append(optax.add_decayed_weights(self.decay, mask))
    return optax.chain(*parts, optax.scale_by_learning_rate(rate))

  def _rule(self, axes: Params) -> optax.GradientTransformation:
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Adam(Optimizer):
  """Kingma and Ba 2015; with `decay`, AdamW.

  m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, both divided by one minus
  their b to the power of the updates; the direction is m / (sqrt(v) + eps).
  """

  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8

  def __post_init__(self):
    super().__post_init__()
    require_averages(b1=self.b1, b2=self.b2)
    require_above('eps', self.eps)

  def _rule(self, axes):
    return optax.scale_by_adam(self.b1, self.b2, self.eps)


@dataclasses.dataclass(frozen=True)
class Lion(Optimizer):
  """Chen et al. 2023: direction sign(b1 m + (1 - b1) g), then
  m = b2 m + (1 - b2) g. Wants about a tenth of Adam's peak, and ten times its
  decay.
  """

  peak: float = 3e-5
  b1: float = 0.9
  b2: float = 0.99

  def __post_init__(self):
    super().__post_init__()
    require_averages(b1=self.b1, b2=self.b2)

  def _rule(self, axes):
    return optax.scale_by_lion(self.b1, self.b2)


@dataclasses.dataclass(frozen=True)
class Adafactor(Optimizer):
  """Shazeer and Stern 2018: the second moment of a matrix as row times column.

  v keeps 1 - n^-exponent of itself at update n. The direction g / sqrt(v) is
  clipped to a root mean square of 1 and multiplied by that of the parameter
  (at least 1e-3), so `peak` is relative. Each layer of a stack is on its own.
  A kernel [width, heads, head_width] is the matrix it multiplies by; those
  with a side under 128, as in the paper's code, keep the whole v.
  """

  peak: float = 1e-2
  exponent: float = 0.8

  def __post_init__(self):
    super().__post_init__()
    require_above('exponent', self.exponent)

  def _rule(self, axes):
    return layer_by_layer(
      optax.chain(
        optax.scale_by_factored_rms(decay_rate=self.exponent),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
      ),
      axes,
    )


@dataclasses.dataclass(frozen=True)
class Muon(Optimizer):
  """Jordan 2024: the momentum of a matrix, made orthogonal; Adam for the rest.

  m = momentum m + (1 - momentum) g, Nesterov's look-ahead, then five
  Newton-Schulz iterations. Times rms sqrt(max(inputs, outputs)), so that one
  peak and one decay serve matrices and Adam alike (Liu et al. 2025, 2.2).
  """

  momentum: float = 0.95
  rms: float = 0.2
  b1: float = 0.9
  b2: float = 0.999

  def __post_init__(self):
    super().__post_init__()
    require_averages(momentum=self.momentum, b1=self.b1, b2=self.b2)
    require_above('rms', self.rms)

  def _rule(self, axes):
    dimensions = each(
      lambda names: (
        contrib.MuonDimensionNumbers(*sides(names))
        if is_matrix(names)
        else optax.MaskedNode()
      ),
      axes,
    )
    orthogonal = optax.chain(
      contrib.scale_by_muon(
        beta=self.momentum, weight_dimension_numbers=dimensions
      ),
      optax.stateless(lambda updates, _: self._scaled(updates, dimensions)),
    )
    adam = optax.scale_by_adam(self.b1, self.b2)
    labels = each(lambda names: 'muon' if is_matrix(names) else 'adam', axes)
    return optax.partition({'muon': orthogonal, 'adam': adam}, labels)

  def _scaled(self, updates, dimensions):
    def scale(update, sides):
      longest = max(math.prod(update.shape[i] for i in side) for side in sides)
      return update * (self.rms * longest**0.5)

    return jax.tree.map(scale, updates, dimensions)
