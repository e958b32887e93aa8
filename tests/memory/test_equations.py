"""Every memory is its equations, whatever documents share a row.

The oracle reads each document alone and token by token; the model reads packed
rows, by segments, where documents begin anywhere.
"""

import dataclasses

import jax
import numpy as np
import oracle
import pytest
import tiny

from lctx.memory import (
  Associative,
  Compressive,
  Conv,
  DenseRetrieval,
  DilatedConv,
  Dual,
  FullGate,
  GatedDelta,
  GatedLinear,
  HeadGate,
  Infini,
  LongMemory,
  LstmGate,
  MaxPool,
  MeanPool,
  Melodi,
  Memory,
  MostUsed,
  Retrieval,
  Single,
  SinkCache,
  StateCell,
  Tokens,
)
from lctx.positions import Alibi, NoPosition

SEGMENT, COUNT, ROWS = 6, 5, 2
LENGTH = SEGMENT * COUNT
# One long document; and two that begin inside a segment, behind an empty slot.
DOCUMENT = np.zeros((ROWS, LENGTH), np.int32)
DOCUMENT[1, 0], DOCUMENT[1, 9:], DOCUMENT[1, 14:] = -1, 1, 2
MEMORIES = {
  'none': (Memory(), oracle.Nothing),
  'mean': (Compressive(6, 4, 3, MeanPool()), oracle.Mean),
  'max': (Compressive(6, 4, 3, MaxPool()), oracle.Max),
  'conv': (Compressive(6, 4, 3, Conv()), oracle.Conv),
  'dilated conv': (Compressive(6, 4, 3, DilatedConv()), oracle.Dilated),
  'most used': (Compressive(6, 4, 3, MostUsed()), oracle.MostUsed),
  'infini': (Infini(), oracle.Infini),
  'infini, delta': (Infini(delta=True), oracle.InfiniDelta),
  'infini, lstm': (Infini(gate=LstmGate()), oracle.InfiniLstm),
  'gated delta': (GatedDelta(chunk=4), oracle.GatedDelta),
  'gated linear': (GatedLinear(chunk=64), oracle.GatedLinear),
  'delta beside': (GatedDelta(5, gate=HeadGate()), oracle.DeltaBeside),
  'cell, skip': (StateCell(3), oracle.StateCell),
  'cell, dual': (StateCell(3, Dual(), LstmGate()), oracle.DualCell),
  'cell, single': (StateCell(3, Single(), FullGate()), oracle.SingleCell),
  'retrieval': (Retrieval(16, 3), oracle.Retrieval),
  'dense retrieval': (DenseRetrieval(16), oracle.DenseRetrieval),
  'sinks': (SinkCache(7, 2), oracle.Sinks),
  'tokens': (Tokens(2), oracle.Tokens),
  'associative': (Associative(3, 4), oracle.Associative),
  'melodi': (Melodi(SEGMENT, 3), oracle.Melodi),
  'melodi, long': (Melodi(SEGMENT, 3, LongMemory(8, 2)), oracle.MelodiLong),
}


# They say how far off their states are, or that theirs are nowhere.
PLACED = (
  *(SinkCache, Compressive, Melodi, Tokens, Associative),
  *(StateCell, DenseRetrieval),
)


def model_with(memory):
  position = Alibi() if isinstance(memory, PLACED) else NoPosition()
  model = tiny.transformer_xl(
    width=oracle.WIDTH, pre_norm=True, position=position
  )
  return dataclasses.replace(model, memory=memory)


def alone(params, memory, ids, document):
  """Every document of a row by the oracle, with the borders of the row."""
  states = np.zeros((LENGTH, oracle.WIDTH))
  for number in sorted({*document.tolist()} - {-1}):
    slots = np.flatnonzero(document == number)
    borders = np.flatnonzero(slots % SEGMENT == 0)
    segments = np.split(ids[slots], borders[borders > 0])
    states[slots] = oracle.hidden(params, memory, segments)
  return states


@pytest.mark.parametrize('name', MEMORIES)
def test_it_is_its_equations(name, close):
  memory, equations = MEMORIES[name]
  model = model_with(memory)
  params = tiny.large_params(model)
  ids = tiny.some_ids(ROWS, LENGTH)
  got, _ = tiny.loop(model, params, ids, [SEGMENT] * COUNT, DOCUMENT)
  wide = jax.tree.map(np.asarray, params)
  for row in range(ROWS):
    want = alone(wide, equations, np.asarray(ids)[row], DOCUMENT[row])
    held = DOCUMENT[row] >= 0
    close(np.asarray(got)[row][held], want[held])
