"""What a model carries from segment to segment, and what else it looks at."""

from lctx.memory.affine import Affine, Update, combine
from lctx.memory.associative import Associative
from lctx.memory.base import Around, Layer, Memory
from lctx.memory.carriers import Hidden, Projected
from lctx.memory.cells import Cell, Dual, Single, Skip
from lctx.memory.compose import OnLayers, Together
from lctx.memory.compressive import Compressive
from lctx.memory.compressors import (
  Compressor,
  Conv,
  DilatedConv,
  MaxPool,
  MeanPool,
  MostUsed,
)
from lctx.memory.delta import GatedDelta, GatedLinear
from lctx.memory.gates import (
  ElementGate,
  FullGate,
  HeadGate,
  LstmGate,
  MemoryGate,
)
from lctx.memory.global_attention import GlobalAttention
from lctx.memory.held import Held, Segment
from lctx.memory.infini import Infini
from lctx.memory.melodi import LongMemory, Melodi
from lctx.memory.retrieval import DenseRetrieval, Retrieval
from lctx.memory.sinks import SinkCache
from lctx.memory.state_cell import StateCell
from lctx.memory.tokens import Tokens
from lctx.memory.transient_global import TransientGlobal
from lctx.memory.xl import XLCache

__all__ = [
  'Affine',
  'Around',
  'Associative',
  'Cell',
  'Compressive',
  'Compressor',
  'Conv',
  'DenseRetrieval',
  'DilatedConv',
  'Dual',
  'ElementGate',
  'FullGate',
  'GatedDelta',
  'GatedLinear',
  'GlobalAttention',
  'HeadGate',
  'Held',
  'Hidden',
  'Infini',
  'Layer',
  'LongMemory',
  'LstmGate',
  'MaxPool',
  'MeanPool',
  'Melodi',
  'Memory',
  'MemoryGate',
  'MostUsed',
  'OnLayers',
  'Projected',
  'Retrieval',
  'Segment',
  'Single',
  'SinkCache',
  'Skip',
  'StateCell',
  'Together',
  'Tokens',
  'TransientGlobal',
  'Update',
  'XLCache',
  'combine',
]
