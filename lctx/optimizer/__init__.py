"""Optimizers and their schedules: parts of a config, built on optax."""

from lctx.optimizer.average import ema
from lctx.optimizer.axes import is_matrix, sides
from lctx.optimizer.parts import Adafactor, Adam, Lion, Muon, Optimizer
from lctx.optimizer.schedules import (
  Constant,
  Cosine,
  InverseSquareRoot,
  Linear,
  Schedule,
)

__all__ = [
  'Adafactor',
  'Adam',
  'Constant',
  'Cosine',
  'InverseSquareRoot',
  'Linear',
  'Lion',
  'Muon',
  'Optimizer',
  'Schedule',
  'ema',
  'is_matrix',
  'sides',
]
