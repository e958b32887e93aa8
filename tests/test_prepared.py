"""What is known of a run before anything compiles."""

import types

import tiny

from lctx.data.byte_codec import Bytes
from lctx.data.corpora import Text
from lctx.data.lanes import Lanes
from lctx.prepared import model_flops


def flops(segment=4, rows=2, **model):
  lanes = Lanes(Text('x'), Bytes(), rows=rows, segment=segment)
  run = types.SimpleNamespace(
    model=tiny.transformer_xl(**model), config=types.SimpleNamespace(data=lanes)
  )
  return model_flops(run)


def by_hand(visible, memory, vocabulary):
  """Two layers of width 16, 2 heads of 8, hidden 20; 4 tokens of 2 rows."""
  projections = 4 * 2 * 16 * 16
  attention = 2 * 2 * 16 * visible
  relative = 2 * 16 * visible + 2 * 16 * 16 * (4 + memory) / (4 * 2)
  ffn = 2 * 2 * 16 * 20
  forward = 2 * (projections + attention + relative + ffn) + vocabulary
  return 3 * forward


def test_utilisation_counts_the_model_that_is_trained():
  assert flops() == by_hand(2.5 + 6, 6, 2 * 16 * 29)
  assert flops(memory_length=0) == by_hand(2.5, 0, 2 * 16 * 29)
  # Each query sees as many keys as there are slots, itself included.
  assert flops(same_length=True) == by_hand(6, 6, 2 * 16 * 29)


def test_utilisation_counts_every_bin_of_an_adaptive_softmax():
  # Bins of 9 and 20 tokens, 16 and 4 wide; one cluster in the head. Each is
  # joined to the width of the model on the way in and on the way out.
  bins = 2 * 16 * 10 + 2 * 2 * 16 * 16 + 2 * 4 * 20 + 2 * 2 * 16 * 4
  assert flops(cutoffs=(9,), div_val=4) == by_hand(2.5 + 6, 6, bins)
