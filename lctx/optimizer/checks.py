"""What the fields of optimizers and schedules must be, or a ValueError."""

import math


def require(good: bool, field: str, value, need: str) -> None:
  if not good:
    raise ValueError(
      f'optimizer.{field} = {value} does not work: it must be {need}.'
    )


def require_above(field, value):
  good = math.isfinite(value) and value > 0
  require(good, field, value, 'a finite number above 0')


def require_fraction(field, value):
  require(0 <= value <= 1, field, value, 'from 0 to 1, a fraction of the peak')


def require_averages(**fields):
  for field, value in fields.items():
    require(0 <= value < 1, field, value, 'at least 0 and below 1')
