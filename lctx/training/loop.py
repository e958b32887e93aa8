"""The training loop: for each batch a step, then the hooks."""

import dataclasses
import time
from collections.abc import Callable, Iterable

import jax

from lctx.training.interrupt import Interrupt
from lctx.training.state import State
from lctx.training.step import Step
from lctx.types import Array, Batch


@dataclasses.dataclass
class Moment:
  """What hooks are told after a step, in order; any may ask to stop."""

  step: int  # steps made so far
  state: State
  metrics: dict[str, Array]  # of this step, on the device
  waited: float  # seconds spent waiting for its batch
  stop: bool  # no step comes after this one
  validation: dict[str, float] | None = None  # filled in by a hook


Hook = Callable[[Moment], None]


def loop(
  step: Step,
  state: State,
  batch: Callable[[int], Batch],
  steps: int,
  hooks: Iterable[Hook],
  interrupt: Interrupt,
) -> State:
  """From where `state` is until `steps`, or a hook or an interrupt ends it."""
  for index in range(int(state.step), steps):
    asked = time.perf_counter()
    data = batch(index)
    waited = time.perf_counter() - asked
    state, metrics = step(state, data)
    stop = index + 1 == steps or interrupt.requested
    moment = Moment(index + 1, state, metrics, waited, stop)
    for hook in hooks:
      hook(moment)
    if moment.stop:
      break
  return jax.block_until_ready(state)
