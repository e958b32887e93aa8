"""Which ids of a published tokenizer are marks, and what for.

`tokenizer` is a `tokenizers.Tokenizer`; what it calls special is a mark.
"""

import dataclasses
import json
import logging
import re
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

# As the models spell them whose folders do not say.
USUAL = {
  'bos': ('<s>', '<bos>', '<|begin_of_text|>', '<|endoftext|>'),
  'cls': ('[CLS]', '<cls>'),
  'eos': ('</s>', '<eos>', '<|endoftext|>'),
  'sep': ('[SEP]', '<sep>'),
  'pad': ('<pad>', '[PAD]'),
  'mask': ('<mask>', '[MASK]'),
  'unk': ('<unk>', '[UNK]'),
}
_FLAGS = ('lstrip', 'rstrip', 'single_word', 'normalized')
_SENTINEL = re.compile('\u2581?<extra_id_([0-9]+)>')


@dataclasses.dataclass(frozen=True)
class Marks:
  """Ids of marks, None where the tokenizer has none.

  `start` is the first that there is of bos, cls, eos and pad. `sentinels` are
  T5's <extra_id_0>, <extra_id_1>, ...
  """

  start: int
  end: int | None
  cls: int | None
  sep: int | None
  pad: int | None
  mask: int | None
  sentinels: tuple[int, ...] = ()


def settings(folder: Path) -> dict[str, Any]:
  """What the folder says of its tokenizer; null says nothing."""
  said: dict[str, Any] = {}
  for name in ('special_tokens_map.json', 'tokenizer_config.json'):
    found = read_object(folder / name)
    said |= {key: value for key, value in found.items() if value is not None}
  return said


def read_object(path: Path) -> dict[str, Any]:
  """The JSON object of a file, an empty one where there is no file."""
  if not path.is_file():
    return {}
  try:
    found = json.loads(path.read_bytes())
  except ValueError as error:
    raise ValueError(
      f'{path} is damaged ({error}). Download it again.'
    ) from error
  if not isinstance(found, dict):
    raise ValueError(f'{path} is damaged (no JSON object). Download it again.')
  return found


def add_marks(tokenizer, folder: Path) -> None:
  """Adds the tokens that the files beside the vocabulary add to it."""
  said = settings(folder)
  numbered = {
    int(id): entry for id, entry in said.get('added_tokens_decoder', {}).items()
  }
  for content, id in read_object(folder / 'added_tokens.json').items():
    numbered.setdefault(id, content)
  named = [said[f'{role}_token'] for role in USUAL if f'{role}_token' in said]
  for key in ('additional_special_tokens', 'extra_special_tokens'):
    more = said.get(key, [])
    named += more.values() if isinstance(more, dict) else more
  _add(tokenizer, [numbered[id] for id in sorted(numbered)], special=False)
  _add(tokenizer, named, special=True)
  for id, entry in numbered.items():
    if (found := tokenizer.token_to_id(content_of(entry))) != id:
      raise ValueError(
        f'{folder} adds the token {content_of(entry)!r} as id {id}, but the '
        f'vocabulary leaves {found} for it. Download the files again: they '
        'belong to different tokenizers.'
      )


def _add(tokenizer, entries: list, special: bool) -> None:
  """A token that is there keeps its flags, but may become special."""
  from tokenizers import AddedToken

  there = tokenizer.get_added_tokens_decoder().values()
  is_special = {token.content: token.special for token in there}
  for entry in entries:
    content = content_of(entry)
    given = entry if isinstance(entry, dict) else {}
    flags = {name: given[name] for name in _FLAGS if name in given}
    becomes = special or given.get('special', False)
    if content in is_special and (is_special[content] or not becomes):
      continue
    token = AddedToken(content, special=becomes, **flags)
    add = tokenizer.add_special_tokens if becomes else tokenizer.add_tokens
    add([token])


def content_of(entry: Any) -> str:
  content = entry.get('content') if isinstance(entry, dict) else entry
  if not isinstance(content, str):
    raise ValueError(
      f'{entry!r} stands for a token in tokenizer_config.json, '
      'special_tokens_map.json or added_tokens.json. Download them again: it '
      'should be text.'
    )
  return content


def find_marks(tokenizer, folder: Path) -> Marks:
  """Each as the folder names it, else by number in its config, else as usual.

  A number counts only where the tokenizer calls its token special.

  Raises: ValueError where no mark could open a document.
  """
  added = tokenizer.get_added_tokens_decoder().items()
  special = {token.content: id for id, token in added if token.special}
  names = _names(tokenizer, folder, special)
  ids = {
    role: next((special[name] for name in names[role] if name in special), None)
    for role in USUAL
  }
  order = ('bos', 'cls', 'eos', 'pad')
  start = next((ids[role] for role in order if ids[role] is not None), None)
  if start is None:
    raise ValueError(
      f'{folder} has a tokenizer without a mark that could open documents: it '
      f'names no {", ".join(order)}. Name one of its tokens "bos_token" in '
      'tokenizer_config.json there.'
    )
  return Marks(
    start=start,
    end=ids['eos'],
    cls=ids['cls'],
    sep=ids['sep'],
    pad=ids['pad'],
    mask=ids['mask'],
    sentinels=_sentinels(tokenizer),
  )


def _names(tokenizer, folder: Path, special: dict) -> dict[str, list[str]]:
  """What each mark may be called, the most certain first."""
  said, config = settings(folder), read_object(folder / 'config.json')
  around = json.loads(tokenizer.to_str())['post_processor'] or {}
  by_id = {id: name for name, id in special.items()}
  names: dict[str, list[str]] = {role: [] for role in USUAL}
  for role, usual in USUAL.items():
    key = f'{role}_token'
    if key in said:
      names[role].append(content_of(said[key]))
    if role in around:  # of BERT and RoBERTa: cls, sep
      names[role].append(around[role][0])
    number = config.get(f'{key}_id')
    if isinstance(number, list):
      number = next(iter(number), None)
    if number in by_id:
      names[role].append(by_id[number])
    elif number is not None:
      _log.warning(
        '%s: %s_id=%s of config.json is no special token, so no mark',
        *(folder, key, number),
      )
    names[role] += usual
  return names


def _sentinels(tokenizer) -> tuple[int, ...]:
  found = {
    int(match[1]): id
    for token, id in tokenizer.get_vocab().items()
    if (match := _SENTINEL.fullmatch(token))
  }
  return tuple(found[number] for number in sorted(found))
