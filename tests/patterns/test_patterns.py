"""Patterns as pictures: a row for each query, # where it sees the key."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.patterns import (
  BlockSparse,
  Causal,
  Chunks,
  Dilated,
  Everything,
  GlobalTokens,
  Prefix,
  Sinks,
  Staircase,
  Window,
)
from lctx.patterns import picture as drawn
from lctx.patterns.base import visible
from lctx.types import GLOBAL, PREFIX, join, segment_coords

ONE = jnp.zeros(1, jnp.int32)  # head 0


def coords(length, start=0):
  return segment_coords(jnp.zeros((1, length), jnp.int32), start=start)


def picture(pattern, length, before=0):
  """What `length` queries see of themselves and `before` keys before them.

  It is the same picture when the coordinates promise nothing.
  """
  q_at, k_at = coords(length), coords(before + length, -before)
  found = tiny.picture(pattern.allowed(q_at, k_at, ONE)[0, 0])
  vague = q_at.replace(start=None)
  assert tiny.picture(pattern.allowed(vague, k_at, ONE)[0, 0]) == found
  return found


def test_everything_is_everything():
  assert picture(Everything(), 2, before=1) == ['###', '###']


def test_causal_sees_itself_and_all_before():
  assert picture(Causal(), 4) == ['#...', '##..', '###.', '####']
  assert picture(Causal(), 2, before=3) == ['####.', '#####']


def test_a_window_of_one_step_sees_itself_and_the_step_before():
  assert picture(Window(1), 4) == ['#...', '##..', '.##.', '..##']
  assert picture(Window(0), 3) == ['#..', '.#.', '..#']
  assert picture(Window(2), 3, before=2) == ['###..', '.###.', '..###']


def test_a_staircase_sees_as_far_as_the_first_of_its_segment():
  assert picture(Staircase(2), 3, before=4) == [
    '..###..',
    '..####.',
    '..#####',
  ]


def test_a_staircase_has_a_tread_for_each_segment():
  at = coords(7)
  at = at.replace(segment=jnp.array([[0, 0, 0, 3, 3, 3, 6]]))
  assert tiny.picture(Staircase(2).allowed(at, at, ONE)[0, 0]) == [
    '#......',
    '##.....',
    '###....',
    '.###...',
    '.####..',
    '.#####.',
    '....###',
  ]


def test_and_is_what_both_allow():
  pattern = Window(3) & Staircase(1)
  assert picture(pattern, 3, before=3) == ['..##..', '..###.', '..####']
  assert picture(Causal() & Everything(), 2) == picture(Causal(), 2)


def test_no_document_sees_another_and_empty_slots_are_never_seen():
  document = jnp.array([[-1, 4, 4, 5], [-1, -1, 0, 0]])
  at = segment_coords(document)
  first, second = visible(Causal(), at, at, ONE)[0]
  assert tiny.picture(first) == ['....', '.#..', '.##.', '...#']
  assert tiny.picture(second) == ['....', '....', '..#.', '..##']


def test_joined_keys_keep_their_promise_only_where_they_touch():
  assert join(coords(3, -3), coords(2)).start == -3
  assert join(coords(3, -4), coords(2)).start is None
  assert join(coords(3, -3).replace(start=None), coords(2)).start is None


def test_or_is_what_either_allows():
  assert drawn(Window(0) | Window(0, 1), 3) == ['##.', '.##', '..#']
  both = (Window(1) | Sinks(1)) & Window(3)
  assert drawn(both, 5) == ['#....', '##...', '###..', '#.##.', '...##']


def test_sinks_are_the_first_tokens_of_each_document():
  sinks = Window(1) | Sinks(1)
  assert drawn(sinks, 5) == ['#....', '##...', '###..', '#.##.', '#..##']
  at = segment_coords(jnp.array([[7, 7, 8, 8, 8, 8]]))
  assert drawn(sinks, 6, at=at) == [
    '#.....',
    '##....',
    '..#...',
    '..##..',
    '..###.',
    '..#.##',
  ]


def test_a_window_has_two_sides_each_counted_by_itself():
  assert drawn(Window(2, 1), 4) == ['##..', '###.', '####', '.###']
  assert drawn(Window(0, 2), 4) == ['###.', '.###', '..##', '...#']


def test_heads_are_dilated_each_by_its_own_gap():
  pattern = Dilated(1, gaps=(1, 2))
  assert drawn(pattern, 4, head=0) == drawn(Window(1), 4)
  assert drawn(pattern, 4, head=1) == ['#...', '.#..', '#.#.', '.#.#']
  ahead = Dilated(1, gaps=(1, 3), after=1)
  assert drawn(ahead, 5, head=1) == [
    '#..#.',
    '.#..#',
    '..#..',
    '#..#.',
    '.#..#',
  ]
  assert pattern.reach == (2, 0) and ahead.reach == (3, 3)


def test_chunks_see_nothing_outside():
  assert drawn(Chunks(2), 5) == ['##...', '##...', '..##.', '..##.', '....#']
  assert drawn(Causal() & Chunks(2), 3) == ['#..', '##.', '..#']
  at = segment_coords(jnp.array([[0, 1, 1, 1]]))
  assert drawn(Chunks(2), 4, at=at) == ['#...', '.##.', '.##.', '...#']


def test_global_tokens_see_all_and_are_seen_by_all():
  longformer = Window(0) | GlobalTokens(first=1)
  assert drawn(longformer, 4) == ['####', '##..', '#.#.', '#..#']
  at = segment_coords(jnp.zeros((1, 4), jnp.int32))
  at = at.replace(role=jnp.array([[0, GLOBAL, PREFIX, 0]]))
  chosen = Window(0) | GlobalTokens()
  assert drawn(chosen, 4, at=at) == ['##..', '####', '.##.', '.#.#']


def test_a_prefix_sees_itself_both_ways():
  pattern = Causal() | Prefix(first=2)
  assert drawn(pattern, 4) == ['##..', '##..', '###.', '####']
  at = segment_coords(jnp.zeros((1, 4), jnp.int32))
  at = at.replace(role=jnp.array([[PREFIX, PREFIX, PREFIX, GLOBAL]]))
  chosen = Causal() | Prefix()
  assert drawn(chosen, 4, at=at) == ['###.', '###.', '###.', '####']


def test_blocks_see_near_edges_and_random_ones():
  plain = BlockSparse(blocks=6, block=1, near=1, random=0, edge=1)
  assert drawn(plain, 6) == [
    '######',
    '###..#',
    '####.#',
    '#.####',
    '#..###',
    '######',
  ]
  pattern = BlockSparse(blocks=9, block=2, random=2, heads=3, seed=5)
  plans = pattern.plan()
  sparse = BlockSparse(blocks=9, block=2, random=0).plan()[0]
  assert (plans[:, sparse]).all()
  drawn_more = (plans & ~sparse).sum(axis=-1)
  np.testing.assert_array_equal(drawn_more[:, [0, 8]], 0)
  np.testing.assert_array_equal(drawn_more[:, 2:7], 2)
  assert (plans[0] != plans[1]).any()
  cells = np.kron(plans[1], np.ones((2, 2), bool))
  assert drawn(pattern, 18, head=1) == tiny.picture(cells)


def test_blocks_that_a_document_goes_beyond_belong_to_the_last():
  pattern = BlockSparse(blocks=3, block=1, near=0, random=0, edge=1)
  assert drawn(pattern, 5)[1:] == ['##' + '###', '#####', '#####', '#####']


def test_what_has_a_rule_of_its_own_is_not_its_reach():
  class Even(Causal):
    def allowed(self, q_at, k_at, heads_N):
      return super().allowed(q_at, k_at, heads_N) & (k_at.index[:1] % 2 == 0)

  assert (Causal() & Window(3)).is_reach
  for pattern in (Even(), Causal() & Even(), Causal() | Window(3), Chunks(2)):
    assert not pattern.is_reach, pattern


REFUSED = {
  'Window(before=-1': lambda: Window(-1),
  'Dilated(before=1, gaps=()': lambda: Dilated(1, ()),
  'Dilated(before=1, gaps=(1, 0)': lambda: Dilated(1, (1, 0)),
  'Chunks(size=0)': lambda: Chunks(0),
  'Sinks(count=0)': lambda: Sinks(0),
  'GlobalTokens(first=0)': lambda: GlobalTokens(0),
  'Prefix(first=-2)': lambda: Prefix(-2),
  'must be at least 1, near': lambda: BlockSparse(blocks=0),
  'has 3 blocks for the middle': lambda: BlockSparse(blocks=8, random=4),
  'gaps for 2 heads': lambda: Dilated(1, (1, 2)).check_heads(3),
  'model.pattern.heads = 2': lambda: (
    Causal() & BlockSparse(8, heads=2)
  ).check_heads(3),
}


@pytest.mark.parametrize('about', REFUSED)
def test_patterns_that_cannot_be_are_refused(about):
  with pytest.raises(ValueError, match=re.escape(about)):
    REFUSED[about]()
