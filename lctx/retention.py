"""Which checkpoints a run keeps: the newest and the best.

One whose metadata cannot be read may be the best, so it stays.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Checkpoints:
  """When to save, and what to keep: the newest steps and the best ones.

  While the newest has not been validated, the one before it is kept too.
  """

  every: int = 1000  # steps between saves
  keep_last: int = 2
  keep_best: int = 1  # by `metric`, besides the newest
  metric: str = 'bits_per_token'  # of the validation; lower is better

  def __post_init__(self):
    for name, least in (('every', 1), ('keep_last', 1), ('keep_best', 0)):
      if getattr(self, name) < least:
        raise ValueError(
          f'checkpoint.{name} is {getattr(self, name)}, but has to be at '
          f'least {least}. Raise it; to save rarely, raise checkpoint.every.'
        )


class Keep:
  """Tells Orbax what to keep: no checkpoint that was found damaged."""

  def __init__(self, store):
    self.store = store

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    """`checkpoints` come in the order in which they were saved."""
    store, settings = self.store, self.store.settings
    steps = [info.step for info in checkpoints]
    whole = [step for step in steps if step not in store.damaged]
    kept = {*whole[-settings.keep_last :]}
    if whole and not store.best(whole[-1:]):  # no step has gone on from it yet
      kept |= {*whole[-2:]}
    kept |= {*store.best(whole)[: settings.keep_best]}
    kept |= {step for step in whole if step in store.unranked}
    return [step in kept for step in steps]
