"""What becomes of long texts is told, and no token is read that is not."""

import logging

import numpy as np
import pytest

from lctx.data.long_texts import Carry, Refuse, Stride, Truncate


def read(policy, count, room, ahead=False):
  (parts,) = policy.parts([count], [room], 'texts', ahead=ahead)
  return [
    ''.join('#' if counts else '+' for counts in np.asarray(part.counts)).rjust(
      part.place[0] + len(part.place), '.'
    )
    if len(part.place) == part.place[-1] - part.place[0] + 1
    else ''.join('#' if i in part.place else '.' for i in range(count))
    for part in parts
  ]


def test_what_is_cut_is_what_the_policy_says():
  assert read(Truncate(), 8, 5) == ['#####']
  assert read(Truncate(cut='head'), 8, 5) == ['...#####']
  assert read(Truncate(cut='middle'), 8, 5) == ['###...##']
  assert read(Truncate(cut='middle'), 8, 1) == ['#']


def test_windows_leave_a_token_to_the_one_that_shows_most_of_its_context():
  """The earlier where tokens look back; the one it is deeper in where both."""
  behind = ['####', '..++##', '....++##', '.....+++#']
  assert read(Stride(), 9, 4) == behind
  both = ['###+', '..+##+', '....+#++', '.....+###']
  assert read(Stride(), 9, 4, ahead=True) == both
  assert read(Stride(overlap=0.0), 9, 4) == ['####', '....####', '.....+++#']


@pytest.mark.parametrize('ahead', [False, True])
@pytest.mark.parametrize('overlap', [0.0, 0.3, 0.5, 0.99])
def test_windows_read_every_token_and_count_it_once(overlap, ahead):
  for room in (1, 2, 5, 7):
    for count in range(1, 30):
      policy = Stride(overlap=overlap)
      (parts,) = policy.parts([count], [room], 'texts', ahead=ahead)
      counted = np.concatenate([part.place[part.counts] for part in parts])
      assert counted.tolist() == list(range(count))
      for place, _ in parts:
        assert len(place) <= room
        assert (np.diff(place) == 1).all()


def test_what_has_room_is_read_whole_and_nothing_is_said(caplog):
  caplog.set_level(logging.INFO)
  for policy in (Refuse(), Truncate(), Stride(), Carry()):
    for room in (8, None):
      made = policy.parts([3, 8], [room] * 2, 'texts', ahead=False)
      assert [[len(part.place) for part in parts] for parts in made] == [
        [3],
        [8],
      ]
  assert not caplog.messages


def test_what_is_not_read_is_counted(caplog):
  Truncate(cut='head').parts([3, 9, 12], [8, 8, 8], 'prompts', ahead=False)
  Stride(overlap=0.5).parts([3, 9, 12], [8, 8, 8], 'prompts', ahead=False)
  begins = (
    '2 of 3 prompts are longer than there is room for: one has 12 tokens where '
    '8 have. data.long_texts = '
  )
  assert caplog.messages == [
    f"{begins}Truncate(length=None, cut='head'): 19 of 24 tokens are read, in "
    '3 parts.',
    f'{begins}Stride(length=None, overlap=0.5): 24 of 24 tokens are read, in 5 '
    'parts.',
  ]


def test_refused_texts_say_how_long_they_are_and_what_to_choose():
  with pytest.raises(ValueError, match=r'1 of 2 texts .* 9 tokens.*truncate'):
    Refuse().parts([3, 9], [8, 8], 'texts', ahead=False)
  with pytest.raises(ValueError, match=r'9 tokens.*model\.position\.restarts'):
    Carry().parts([3, 9], [8, 8], 'texts', ahead=False)
  with pytest.raises(ValueError, match='Ask for less'):
    Truncate().parts([3], [0], 'texts', ahead=False)


def test_a_length_of_its_own_counts_marks():
  assert Truncate(length=7).room(None, 2) == 5
  assert Truncate(length=7).room(6, 2) == 4
  assert Truncate().room(6, 2) == 4
  assert Truncate().room(None, 2) is None


def test_what_cannot_be_is_refused_by_name():
  for make, field in (
    (lambda: Truncate(length=0), r'long_texts\.length = 0'),
    (lambda: Truncate(cut='end'), r"long_texts\.cut = 'end'"),
    (lambda: Stride(overlap=1.0), r'long_texts\.overlap = 1'),
    (lambda: Carry(length=5), r'long_texts\.length = 5'),
  ):
    with pytest.raises(ValueError, match=field):
      make()
