"""Texts of any length in rows of one length, first fit, never split."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lctx.data.objectives.base import Pair, Text
from lctx.types import EMPTY


class Rows(NamedTuple):
  """Texts in rows: [rows, length] each, int32 but `weight`.

  Padding has token, target, weight and role 0.
  """

  tokens: np.ndarray
  targets: np.ndarray
  weight: np.ndarray  # float32
  role: np.ndarray
  document: np.ndarray  # 0, 1, ... along the row, EMPTY = padding


class Sources(NamedTuple):
  """What encoders read, in rows: int32 [rows, length] each."""

  tokens: np.ndarray
  document: np.ndarray


class PairRows(NamedTuple):
  """Row by row, a pair has one document number in source and target."""

  source: Sources
  target: Rows


def packed(texts: Sequence[Text], length: int) -> Rows:
  """Each text, in order, goes to the first row that has room for it.

  Raises ValueError for a text longer than `length`.
  """
  sizes = [[len(text.tokens)] for text in texts]
  return _rows(texts, _first_fit(sizes, {'length': length}), length)


def packed_pairs(
  pairs: Sequence[Pair], source_length: int, target_length: int
) -> PairRows:
  """Each pair, in order, goes to the first row with room for both its texts.

  Raises ValueError for one longer than `source_length` or `target_length`.
  """
  sizes = [[len(pair.source), len(pair.target.tokens)] for pair in pairs]
  limits = {'source_length': source_length, 'target_length': target_length}
  rows = _first_fit(sizes, limits)
  sources = [pair.source for pair in pairs]
  return PairRows(
    source=Sources(
      tokens=_filled(sources, rows, source_length),
      document=_documents(sources, rows, source_length),
    ),
    target=_rows([pair.target for pair in pairs], rows, target_length),
  )


def _first_fit(
  sizes: list[list[int]], limits: dict[str, int]
) -> list[list[int]]:
  """The numbers of each row's texts; a text has a size for each limit."""
  rows, room = [], np.zeros((0, len(limits)), int)
  for number, size in enumerate(sizes):
    _check_fits(number, size, limits)
    fits = np.flatnonzero((room >= size).all(axis=1))
    if not len(fits):
      rows.append([])
      room = np.concatenate([room, [list(limits.values())]])
    row = fits[0] if len(fits) else len(rows) - 1
    rows[row].append(number)
    room[row] -= size
  return rows


def _check_fits(number: int, size: list[int], limits: dict[str, int]) -> None:
  for tokens, (name, limit) in zip(size, limits.items()):
    if tokens > limit:
      raise ValueError(
        f'text {number} is {tokens} tokens long, but a row holds '
        f'{name}={limit}, and no text is split. Cut it before, or give '
        f'{name} at least {tokens}.'
      )


def _rows(texts: Sequence[Text], rows: list[list[int]], length: int) -> Rows:
  tokens = [text.tokens for text in texts]
  weights = [text.weight for text in texts]
  return Rows(
    tokens=_filled(tokens, rows, length),
    targets=_filled([text.targets for text in texts], rows, length),
    weight=_filled(weights, rows, length, dtype=np.float32),
    role=_filled([text.role for text in texts], rows, length),
    document=_documents(tokens, rows, length),
  )


def _documents(
  arrays: list[np.ndarray], rows: list[list[int]], length: int
) -> np.ndarray:
  place = {n: i for row in rows for i, n in enumerate(row)}
  numbers = [np.full(len(a), place[n]) for n, a in enumerate(arrays)]
  return _filled(numbers, rows, length, fill=EMPTY)


def _filled(
  arrays: list[np.ndarray],
  rows: list[list[int]],
  length: int,
  *,
  fill: int = 0,
  dtype=np.int32,
) -> np.ndarray:
  """The arrays of each row side by side, then `fill`: [rows, length]."""
  filled = np.full((len(rows), length), fill, dtype)
  for row, numbers in zip(filled, rows):
    joined = np.concatenate([arrays[number] for number in numbers])
    row[: len(joined)] = joined
  return filled
