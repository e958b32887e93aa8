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
from lctx.models.decoder import Decoder
from lctx.positions import NoPosition, Rope


def memories(segment: int, slots: int, cell: int = -2) -> dict[str, Memory]:
  """For segments of a length; caches and searched memories have `slots`.

  The state cell is on layer `cell`.
  """
  near = XLCache(segment)
  return {
    'none': Memory(),
    'xl': XLCache(slots),
    'compressive': Compressive(segment, slots - segment, 4),
    'tokens': Tokens(16),
    'associative': Associative(16, 32),
    'state cell': OnLayers(
      (cell,),
      Together(near, StateCell(64, gate=ElementGate(start=1.0))),
      near,
    ),
    'infini': Infini(),
    'infini, delta': Infini(delta=True),
    'gated delta': GatedDelta(),
    'gated delta, hybrid': OnLayers((-1,), near, GatedDelta()),
    'gated linear': GatedLinear(),
    'retrieval': OnLayers((-1,), Retrieval(slots, 8), Memory()),
    'dense retrieval': OnLayers((-1,), DenseRetrieval(slots), Memory()),
    'sinks': SinkCache(slots, 4),
    'melodi': OnLayers(
      (1,),
      Melodi(segment, 16, slots, 8, gate=ElementGate()),
      Melodi(segment, 16),
    ),
    'gated delta, beside': GatedDelta(gate=HeadGate()),
  }


def model_with(memory: Memory, depth: int, width: int, vocab: int) -> Decoder:
  """Heads of 32 channels, rotary positions where tokens are attended to."""
  model = presets.transformer_xl(
    depth, width, width // 32, 0, pre_norm=True, position=Rope(), vocab=vocab
  )
  model = dataclasses.replace(model, memory=memory)
  if any(run.memory.attends for run in model.runs):
    return model
  return dataclasses.replace(model, position=NoPosition())
