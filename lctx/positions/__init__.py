"""Where tokens sit, as attention feels it."""

from lctx.positions.absolute import Learned, NoPosition, Sinusoidal
from lctx.positions.alibi import Alibi
from lctx.positions.base import Position, Score, Sizes, Tile
from lctx.positions.layers import LayerPositions
from lctx.positions.rope import (
  DynamicNtk,
  Linear,
  Llama3,
  LongRope,
  NtkAware,
  NtkByParts,
  Plain,
  Rope,
  Stretch,
  Yarn,
)
from lctx.positions.t5 import T5Bias
from lctx.positions.xl import LearnedRelative, RelativeXL

__all__ = [
  'Alibi',
  'DynamicNtk',
  'LayerPositions',
  'Learned',
  'LearnedRelative',
  'Linear',
  'Llama3',
  'LongRope',
  'NoPosition',
  'NtkAware',
  'NtkByParts',
  'Plain',
  'Position',
  'RelativeXL',
  'Rope',
  'Score',
  'Sinusoidal',
  'Sizes',
  'Stretch',
  'T5Bias',
  'Tile',
  'Yarn',
]
