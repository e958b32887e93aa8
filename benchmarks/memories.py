"""Memories that benchmarks compare, in models that differ in nothing else."""

import dataclasses

from lctx import presets
from lctx.memory import (
  Associative,
  Compressive,
  DenseRetrieval,
  ElementGate,
  GatedDelta,
  GatedLinear,
  HeadGate,
  Infini,
  LongMemory,
  Melodi,
  Memory,
  OnLayers,
  Retrieval,
  SinkCache,
  StateCell,
  Together,
  Tokens,
  XLCache,
)
from lctx.models.parts import Compute
from lctx.models.text import Decoder
from lctx.models.vocabulary import Embedding
from lctx.positions import NoPosition


@dataclasses.dataclass(frozen=True)
class Size:
  """Of a model with heads of `head` channels, and of its training.

  `slots` are those of caches, `searched` those of retrieval; `tokens` are those
  of a step, and `peak` is the rate of learning.
  """

  depth: int
  width: int
  head: int
  segment: int
  slots: int
  searched: int
  tokens: int
  peak: float = 3e-3
  dtype: str = 'float32'


def memories(size: Size, cell: int = -2) -> dict[str, Memory]:
  """By name; the state cell is on layer `cell`."""
  segment, slots = size.segment, size.slots
  near = XLCache(segment)
  return {
    'none': Memory(),
    'xl': XLCache(slots),
    'compressive': Compressive(segment, slots - segment, 4),
    'tokens': Tokens(16),
    'associative': Associative(16, 32),
    'state cell': OnLayers(
      (cell,),
      Together(near, StateCell(64, gate=ElementGate(start=-1.0))),
      near,
    ),
    'infini': Infini(),
    'infini, delta': Infini(delta=True),
    'gated delta': GatedDelta(),
    'gated delta, hybrid': OnLayers((-1,), near, GatedDelta()),
    'gated linear': GatedLinear(),
    'retrieval': OnLayers((-1,), Retrieval(size.searched, 8), Memory()),
    'dense retrieval': OnLayers((-1,), DenseRetrieval(size.searched), Memory()),
    'sinks': SinkCache(slots, 4),
    'melodi': OnLayers(
      (1,),
      Melodi(segment, 16, LongMemory(slots, 8)),
      Melodi(segment, 16),
    ),
    'gated delta, beside': GatedDelta(gate=HeadGate()),
  }


def model_with(memory: Memory, size: Size, vocab: int | None) -> Decoder:
  """Rotary positions where tokens are attended to, none elsewhere."""
  model = presets.remembering(
    *(size.depth, size.width, size.width // size.head, memory),
    embed=Embedding(size.width, vocab),
    compute=Compute(size.dtype),
  )
  if any(run.memory.attends for run in model.runs):
    return model
  return dataclasses.replace(model, position=NoPosition())
