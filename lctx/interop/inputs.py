"""What a published model is given, by the names it has there, as ours is."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lctx.types import EMPTY, GLOBAL, TYPE, Array, Coords, segment_coords

Given = Mapping[str, np.ndarray]


class Text(NamedTuple):
  """Tokens [B, T] of a model, and where they sit."""

  tokens: Array
  at: Coords


class Pair(NamedTuple):
  """What an encoder reads, and what its decoder does."""

  source: Text
  target: Text


def inputs(given: Given, config: Mapping[str, Any]) -> Text:
  """`input_ids`, with `attention_mask` and `token_type_ids` if they are there.

  Positions count the slots of a row, padding included. `position_ids` are not
  read.
  """
  ids = given['input_ids']
  return placed(ids, given, np.arange(ids.shape[1])[None])


def from_padding(given: Given, config: Mapping[str, Any]) -> Text:
  """The same, but positions count tokens that are no padding (RoBERTa).

  By the id of padding, not by the mask; padding itself is before the first.
  """
  ids = given['input_ids']
  is_token = ids != config['pad_token_id']
  return placed(ids, given, np.cumsum(is_token, axis=1) * is_token - 1)


def until_padding(given: Given, config: Mapping[str, Any]) -> Text:
  """The same, without what is behind the last token that is no padding.

  By the id of padding, if there is one: where heads of decoders read.
  """
  ids, padding = given['input_ids'], config.get('pad_token_id')
  slots = np.arange(ids.shape[1])[None]
  is_token = True if padding is None else ids != padding
  last = (slots * is_token).max(axis=1, keepdims=True)
  mask = given.get('attention_mask', np.ones_like(ids))
  return inputs({**given, 'attention_mask': mask * (slots <= last)}, config)


def placed(ids: np.ndarray, given: Given, offset: np.ndarray) -> Text:
  """Tokens whose absolute positions are known."""
  mask = given.get('attention_mask', np.ones_like(ids)) > 0
  types = given.get('token_type_ids', np.zeros_like(ids))
  is_global = given.get('global_attention_mask', np.zeros_like(ids)) > 0
  role = types.astype(np.int32) << TYPE | np.where(is_global, GLOBAL, 0)
  at = segment_coords(np.where(mask, 0, EMPTY).astype(np.int32))
  offset = np.broadcast_to(offset, ids.shape).astype(np.int32)
  return Text(ids.astype(np.int32), at.replace(role=role, offset=offset))


def pair(given: Given, config: Mapping[str, Any]) -> Pair:
  """`input_ids` of the encoder and `decoder_input_ids`, with their masks.

  Without those of the decoder it reads what the encoder does, a step later
  (BART, and T5's classifiers).
  """
  ids, names = given['input_ids'], ('input_ids', 'attention_mask')
  of_target = {
    x: given[f'decoder_{x}'] for x in names if f'decoder_{x}' in given
  }
  if 'input_ids' not in of_target:
    later = np.roll(ids, 1, axis=1)
    later[:, 0] = config['decoder_start_token_id']
    of_target = {**given, 'input_ids': later}
    of_target.pop('global_attention_mask', None)
  return Pair(inputs(given, config), inputs(of_target, config))


def before_first(given: Given, mark: int) -> np.ndarray:
  """A `global_attention_mask` of what comes before the first `mark`."""
  found = np.argmax(given['input_ids'] == mark, axis=1)
  slots = np.arange(given['input_ids'].shape[1])[None]
  return (slots < found[:, None]).astype(np.int64)


def first_alone(given: Given) -> np.ndarray:
  """A `global_attention_mask` of the first token."""
  mask = np.zeros_like(given['input_ids'])
  mask[:, 0] = 1
  return mask
