"""Pretraining objectives: pure functions of a text and a seed, and packing."""

from lctx.data.objectives.base import Objective, Pair, Text, as_prefix
from lctx.data.objectives.denoising import Bart, GapSentences, Infill
from lctx.data.objectives.in_place import (
  Causal,
  FillInMiddle,
  MaskedLM,
  PrefixLM,
)
from lctx.data.objectives.packing import (
  PairRows,
  Rows,
  Sources,
  packed,
  packed_pairs,
)
from lctx.data.objectives.spans import (
  Lengths,
  SpanCorruption,
  spans_lengths,
)

__all__ = [
  'Bart',
  'Causal',
  'FillInMiddle',
  'GapSentences',
  'Infill',
  'Lengths',
  'MaskedLM',
  'Objective',
  'Pair',
  'PairRows',
  'PrefixLM',
  'Rows',
  'Sources',
  'SpanCorruption',
  'Text',
  'as_prefix',
  'packed',
  'packed_pairs',
  'spans_lengths',
]
