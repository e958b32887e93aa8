"""Parts as text: typed overrides by dotted path, and JSON out and in."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from lctx.fields import (
  arms_of,
  build,
  check,
  defaults_of,
  elements_of,
  fields_of,
  join,
  options_of,
  tuple_of,
  unknown_field,
  wrong_type,
)


def override(config: Any, overrides: Mapping[str, str | bool]) -> Any:
  """The config with some fields given anew, all at once.

  `overrides` maps dotted paths to text: {'data.rows': '8', 'model.memory':
  'xlcache', 'model.memory.length': '64'}. A part is switched by the name of
  its class (in any case), and what it needs may be given beside it; elements
  of tuples are named by number. True and False stand for bare flags.

  Raises ValueError, naming the field: it does not exist, cannot be read, is
  not finite, misses something, or its part refuses it.
  """
  tree = _Node()
  for path, text in overrides.items():
    node = tree
    for name in path.split('.'):
      node = node.fields.setdefault(name, _Node())
    node.text = text
  return _changed(config, type(config), tree, '')


def to_json(value: Any) -> Any:
  """Parts as {'part': 'ClassName', field: value, ...}, tuples as lists."""
  if isinstance(value, tuple):
    return [to_json(element) for element in value]
  if not dataclasses.is_dataclass(value):
    return value
  fields = {
    name: to_json(getattr(value, name)) for name in fields_of(type(value))
  }
  return {'part': type(value).__name__, **fields}


def from_json(data: Any, hint: Any, path: str = '') -> Any:
  """What `to_json` was given, for a place that holds `hint`.

  Raises ValueError, naming the field, for an unknown part or field, a missing
  one without a default, or a value of the wrong type.
  """
  if isinstance(data, dict):
    return _part_from_json(data, hint, path)
  if isinstance(data, list):
    elements = elements_of(tuple_of(hint), len(data))
    if tuple_of(hint) is None or len(elements) != len(data):
      raise wrong_type(repr(data), hint, path or 'config')
    return tuple(
      from_json(value, element, join(path, str(index)))
      for index, (value, element) in enumerate(zip(data, elements))
    )
  check(data, hint, path or 'config')
  return data


def _part_from_json(data, hint, path):
  name = data.get('part')
  cls = options_of(hint).get(str(name).lower())
  if cls is None:
    raise wrong_type(str(name), hint, path or 'config')
  values, hints = {}, fields_of(cls)
  for field, value in data.items():
    if field == 'part':
      continue
    if field not in hints:
      raise unknown_field(field, cls, path)
    values[field] = from_json(value, hints[field], join(path, field))
  return build(cls, values, path)


@dataclasses.dataclass
class _Node:
  """The text given for a field, and what was given for fields inside it."""

  text: str | bool | None = None
  fields: dict[str, '_Node'] = dataclasses.field(default_factory=dict)


def _changed(value, hint, node, path):
  """What `value` becomes, of which only some fields may be given anew."""
  if node.text is not None:
    return _read(node, hint, path)
  if not node.fields:
    return value
  if isinstance(value, tuple):
    return _changed_tuple(value, hint, node, path)
  if dataclasses.is_dataclass(value):
    fields = {name: getattr(value, name) for name in fields_of(type(value))}
    return _with_fields(type(value), fields, node, path)
  options = options_of(hint)
  if value is None and len(options) == 1 and len(arms_of(hint)) == 1:
    (cls,) = options.values()  # of a part that was just chosen, and needs it
    return _with_fields(cls, defaults_of(cls), node, path)
  write = f'--config.{path}={next(iter(options), "VALUE")}'
  raise ValueError(
    f'{join(path, next(iter(node.fields)))} does not exist: {path} is '
    f'{"none" if value is None else repr(value)}, which has no fields. '
    + (
      f'Choose a part with the same command: {write}'
      if options
      else f'Set it as a whole: {write}'
    )
  )


def _with_fields(cls, values, node, path):
  """The part `cls` that holds `values`, changed as the fields of `node` say."""
  hints, values = fields_of(cls), dict(values)
  for name, inner in node.fields.items():
    if name not in hints:
      raise unknown_field(name, cls, path)
    values[name] = _changed(
      values.get(name), hints[name], inner, join(path, name)
    )
  return build(cls, values, path)


def _changed_tuple(value, hint, node, path):
  values, elements = list(value), elements_of(tuple_of(hint), len(value))
  for name, inner in node.fields.items():
    if not name.isdigit() or int(name) >= len(values):
      raise ValueError(
        f'{join(path, name)} does not exist: {path} is a tuple of '
        f'{len(values)}, whose elements are named by number, from 0.'
      )
    index = int(name)
    values[index] = _changed(
      values[index], elements[index], inner, join(path, name)
    )
  return tuple(values)


def _read(node, hint, path):
  """The value that the text of `node` stands for, where `hint` is wanted."""
  options, text = options_of(hint), node.text
  if isinstance(text, bool):
    if bool in arms_of(hint):
      return text
    raise ValueError(
      f'{path} was given no value, and it is not a bool. Write '
      f'--config.{path}=VALUE.'
    )
  if text.lower() in options:
    cls = options[text.lower()]
    return _with_fields(cls, defaults_of(cls), node, path)
  for kind in (kind for kind in _READ if kind in arms_of(hint)):
    with contextlib.suppress(KeyError, ValueError):
      value = _READ[kind](text)
      break
  else:
    if tuple_of(hint) is None:
      raise wrong_type(text if options else repr(text), hint, path)
    return _read_tuple(node, hint, path)
  return _changed(value, hint, _Node(fields=node.fields), path)


def _read_tuple(node, hint, path):
  text = node.text.strip()
  if text[:1] in ('(', '[') and text[-1:] in (')', ']'):
    text = text[1:-1]
  texts = [part.strip().strip('\'"') for part in text.split(',')]
  texts = [part for part in texts if part]
  elements = elements_of(tuple_of(hint), len(texts))
  if len(elements) != len(texts):
    raise wrong_type(repr(node.text), hint, path)
  fields = dict(node.fields)
  values = []
  for index, element in enumerate(elements):
    inner = fields.pop(str(index), _Node())
    one = _Node(inner.text or texts[index], inner.fields)
    values.append(_read(one, element, join(path, str(index))))
  return _changed(tuple(values), hint, _Node(fields=fields), path)


def _finite(text):
  number = float(text)
  if not math.isfinite(number):
    raise ValueError(f'{text} is not finite')
  return number


# In the order they are tried; a str can be anything, so it comes last.
_READ = {
  type(None): lambda text: {'none': None}[text.lower()],
  bool: lambda text: _BOOLS[text.lower()],
  int: int,
  float: _finite,
  str: str,
}
_BOOLS = {'true': True, '1': True, 'false': False, '0': False}
