"""A published `config.json`, read to the last word."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

# They say nothing of what a model computes.
SILENT = (
  *('architectures', 'model_type', 'auto_map', '_name_or_path', 'name'),
  *('transformers_version', '_attn_implementation_autoset'),
  *('torch_dtype', 'dtype', 'use_cache', 'pretraining_tp'),
  *('bos_token_id', 'eos_token_id', 'pad_token_id', 'unk_token_id'),
  *('output_attentions', 'output_hidden_states', 'return_dict'),
  *(
    'gradient_checkpointing',
    'task_specific_params',
    'chunk_size_feed_forward',
  ),
  *('id2label', 'label2id', 'problem_type', 'tokenizer_class', 'torchscript'),
)
_NONE = object()


class Options:
  """The options of a config, each to be asked for once.

  An option that nobody asked for may change what the model computes, so
  `check_all_read` refuses it.
  """

  def __init__(
    self,
    config: Mapping[str, Any],
    where: str,
    arrays: Mapping[str, np.ndarray] | None = None,
  ):
    self._left, self.where = dict(config), where
    self.arrays = arrays or {}  # of the file beside it

  def take(self, name: str, default: Any = _NONE, null: Any = _NONE) -> Any:
    """Its value; `default` where it is missing, and where it is null, too.

    `null`: what null says instead. Raises ValueError where it is missing and
    there is no default.
    """
    is_null = name in self._left and self._left[name] is None
    value = self._left.pop(name, None)
    if value is not None:
      return value
    if is_null and null is not _NONE:
      return null
    if default is _NONE:
      raise ValueError(
        f'{self.where} has no {name}, without which the model is not known. '
        'Copy the file again, from where the weights are.'
      )
    return default

  def expect(self, name: str, *known: Any) -> Any:
    """One of the values that are `known` here; the first where it is missing.

    Raises ValueError for another one.
    """
    value = self.take(name, known[0])
    if value not in known:
      raise ValueError(
        f'{self.where} has {name} = {value!r}, which is not read here. Known '
        f'is {", ".join(map(repr, known))}.'
      )
    return value

  def check_all_read(self, silent: Iterable[str] = ()) -> None:
    """Raises ValueError for options that are left, but for `silent` ones.

    What is null says nothing.
    """
    given = {name for name, value in self._left.items() if value is not None}
    unread = sorted(given - {*SILENT, *silent})
    if unread:
      listed = ', '.join(f'{x} = {self._left[x]!r}' for x in unread)
      raise ValueError(
        f'{self.where} has options that are not known here: {listed}. They '
        'might change what the model computes, so it is not read. Remove them '
        'if you know that they do not.'
      )
