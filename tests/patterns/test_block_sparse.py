"""BigBird's blocks, as many as a segment has; the definition by loops."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx import presets
from lctx.patterns import (
  BlockSparse,
  Causal,
  Everything,
  LayerPatterns,
  Window,
  picture,
)
from lctx.patterns.base import visible
from lctx.types import EMPTY, segment_coords

PATTERNS = (
  BlockSparse(block=2, random=1, seed=None),
  BlockSparse(block=3, near=0, random=0, edge=2),
  BlockSparse(block=1, near=2, random=2, seed=None),
)


def seen_by_loops(pattern, length):
  """The paper's section 2, of blocks that are not drawn."""
  count = (length + pattern.block - 1) // pattern.block
  edges = [*range(pattern.edge), *range(count - pattern.edge, count)]
  seen = np.zeros((length, length), bool)
  for query in range(length):
    for key in range(length):
      row, column = query // pattern.block, key // pattern.block
      near = abs(row - column) <= pattern.near
      seen[query, key] = near or row in edges or column in edges
  return seen


@pytest.mark.parametrize('pattern', PATTERNS, ids=str)
def test_a_segment_has_as_many_blocks_as_it_fills(pattern):
  whole = pattern.whole
  for length in range(whole + 1, whole + 2 * pattern.block + 2):
    wanted = tiny.picture(seen_by_loops(pattern, length))
    assert picture(pattern, length) == wanted
    assert any('.' in line for line in wanted)
  assert pattern.of_length(whole) == pattern.of_length(1) == Everything()


def test_segments_of_eleven_published_blocks_are_seen_whole():
  published = BlockSparse()
  assert published.of_length(11 * 64) == Everything()
  assert published.of_length(11 * 64 + 1) == BlockSparse(12)
  assert published.of_length(4096) == BlockSparse(64)
  assert BlockSparse(9).of_length(1) == BlockSparse(9)


def test_the_first_block_counts_for_the_random_ones():
  """By the middle, and by the tokens of its own document."""
  pattern = BlockSparse(block=2, random=3, seed=None).of_length(24)
  document = np.repeat([[0, 1, EMPTY]], [11, 11, 2], axis=1)
  at = segment_coords(jnp.asarray(document, jnp.int32))
  (times,) = pattern.times(at, at)
  found = np.exp(times.of_query[0, :, None] * times.of_key[0, None])
  seen = np.asarray(visible(pattern, at, at, jnp.zeros(1, jnp.int32)))[0, 0]
  for query, key in np.argwhere(seen):
    row, column = (x - 11 * (x >= 11) for x in (query, key))
    middle = row // 2 != 0  # documents are too short to have the last block
    assert found[query, key] == pytest.approx(
      4 if middle and column // 2 == 0 else 1
    )
  whole = segment_coords(jnp.zeros((1, 24), jnp.int32))
  (times,) = pattern.times(whole, whole)
  assert list(np.flatnonzero(times.of_query[0])) == list(range(2, 22))
  assert list(np.flatnonzero(times.of_key[0])) == [0, 1]


def test_blocks_that_are_drawn_count_once():
  pattern = BlockSparse(block=2, random=2, heads=3).of_length(40)
  assert not pattern.counts
  drawn = pattern.plan() & ~BlockSparse(20, 2, random=0).plan()
  assert (drawn.sum(axis=-1)[:, 2:-2] == 2).all()
  assert (drawn[0] != drawn[1]).any()


def test_what_is_made_of_blocks_has_their_length_and_count():
  sparse = BlockSparse(block=1, random=1, seed=None)
  both = Causal() & sparse
  assert both.counts and not (Causal() & Window(2)).counts
  assert both.of_length(9) == Causal() & sparse.of_length(9)
  layers = LayerPatterns((Causal(), sparse))
  assert layers.counts
  assert layers.of_length(9).each == (Causal(), sparse.of_length(9))
  at = segment_coords(jnp.zeros((1, 9), jnp.int32))
  (one,), (other,) = (x.of_length(9).times(at, at) for x in (both, sparse))
  for x, y in zip(one, other):
    np.testing.assert_array_equal(x, y)


def test_blocks_that_cannot_stand_for_others_are_refused():
  for options in ({'heads': 2}, {'edge': 0}):
    with pytest.raises(ValueError, match='draws no blocks for any head'):
      BlockSparse(seed=None, **options)
  for blocks, block in ((0, 1), (-1, 1), (None, 0)):
    with pytest.raises(ValueError, match='must be at least 1'):
      BlockSparse(blocks, block)
  with pytest.raises(TypeError, match='only of_length knows'):
    BlockSparse().plan()
  pattern = {'heads': 1, 'seed': None}
  given = {'pattern': pattern, 'heads': {'cap': 5.0}, 'embed': {'vocab': 9}}
  with pytest.raises(ValueError, match=r'cap and adaptive bend.*seed=0'):
    presets.bigbird(1, 8, 2, 64, **given)
