"""Ends a run that no further step can help."""

import dataclasses
import math

from lctx.checkpoint import CheckpointStore
from lctx.errors import RunError
from lctx.training.loop import Moment


class NotFiniteError(RunError):
  """Too many steps in a row without a finite loss and gradient."""


@dataclasses.dataclass
class Guard:
  """Raises NotFiniteError where going on cannot help.

  That is after `max_skipped` steps were skipped in a row, and where the last
  validation of a run is not finite. A checkpoint after which no step was
  finite is no good, however finite its numbers are: if this run wrote it, it
  is taken back. It looks every `every` and every `max_skipped` steps, for
  looking waits for the device. `start` is the step that the run went on from.
  """

  store: CheckpointStore
  max_skipped: int
  every: int
  start: int

  def __call__(self, moment: Moment) -> None:
    due = moment.step % self.every == 0 or moment.step % self.max_skipped == 0
    if not due and not moment.stop:
      return
    skipped, metric = int(moment.state.skipped), self.store.settings.metric
    value = (moment.validation or {}).get(metric, 0.0)
    if skipped >= self.max_skipped:
      raise NotFiniteError(
        f'{skipped} steps in a row, up to step {moment.step}, had no finite '
        'loss and gradient, so training stops (train.max_skipped = '
        f'{self.max_skipped}). {self._way_on(moment.step - skipped)}'
      )
    if moment.stop and not math.isfinite(value):
      raise NotFiniteError(
        f'The run ends at step {moment.step} with a model whose validation '
        f'gives {metric} {value}. {self._way_on(moment.step - skipped)}'
      )

  def _way_on(self, broken: int) -> str:
    """What to do; the state of step `broken` has had no finite step."""
    store = self.store
    for step in store.steps:
      if step >= broken and step > self.start:
        store.withdraw(step)
    newest = store.latest_step
    advice = 'Lower optimizer.peak, lengthen the warm-up or clip harder'
    if newest is None:
      return f'There is no checkpoint before that. {advice}, and start again.'
    if newest < broken:
      return (
        f'The checkpoint of step {newest} is good. {advice}, and run the same '
        'command to go on from it.'
      )
    return (
      f'It went on from step {newest} without one finite step. {advice}; if '
      f'that does not help, remove {store.folder / str(newest)} to go on from '
      'the checkpoint before it, or start again in a new workdir.'
    )
