"""Patterns as pictures: a row for each query, # where it sees the key."""

import jax.numpy as jnp
import pytest
import tiny

from lctx.patterns.base import Everything, visible
from lctx.patterns.causal import Causal, Staircase, Window
from lctx.types import join, segment_coords


def coords(length, start=0):
  return segment_coords(jnp.zeros((1, length), jnp.int32), start=start)


def picture(pattern, length, before=0):
  """What `length` queries see of themselves and `before` keys before them.

  It is the same picture when the coordinates promise nothing.
  """
  q_at, k_at = coords(length), coords(before + length, -before)
  found = tiny.picture(pattern.allowed(q_at, k_at)[0])
  vague = q_at.replace(start=None)
  assert tiny.picture(pattern.allowed(vague, k_at)[0]) == found
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
  assert tiny.picture(Staircase(2).allowed(at, at)[0]) == [
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
  first, second = visible(Causal(), at, at)
  assert tiny.picture(first) == ['....', '.#..', '.##.', '...#']
  assert tiny.picture(second) == ['....', '....', '..#.', '..##']


def test_joined_keys_keep_their_promise_only_where_they_touch():
  assert join(coords(3, -3), coords(2)).start == -3
  assert join(coords(3, -4), coords(2)).start is None
  assert join(coords(3, -3).replace(start=None), coords(2)).start is None


def test_a_window_cannot_look_ahead():
  with pytest.raises(ValueError, match=r'Window\(before=-1\)'):
    Window(-1)
