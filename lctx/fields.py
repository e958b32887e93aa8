"""What the fields of a part may hold, read off their annotations.

A part is a dataclass (a Linen module is one). Its fields hold int, float,
bool, str, None, other parts, and tuples of these. A field annotated with a
class may hold any part of that class or of its subclasses. Every error is a
ValueError that names the field.
"""

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from flax import linen as nn

_KINDS = {
  int: ('an int', '8'),
  float: ('a finite float', '1e-3'),
  bool: ('a bool', 'true'),
  str: ('a str', 'text'),
  type(None): ('none', 'none'),
}


@functools.cache
def fields_of(cls: type) -> dict[str, Any]:
  """Every field of a part, and its annotation."""
  hints = typing.get_type_hints(cls)
  linen = ('parent', 'name') if issubclass(cls, nn.Module) else ()
  return {
    field.name: hints[field.name]
    for field in dataclasses.fields(cls)
    if field.init and field.name not in linen
  }


def defaults_of(cls: type) -> dict[str, Any]:
  """The fields of a part that need not be given, and what they hold then."""
  defaults = {}
  for field in dataclasses.fields(cls):
    if field.name not in fields_of(cls):
      continue
    if field.default is not dataclasses.MISSING:
      defaults[field.name] = field.default
    elif field.default_factory is not dataclasses.MISSING:
      defaults[field.name] = field.default_factory()
  return defaults


def arms_of(hint: Any) -> tuple[Any, ...]:
  """The members of a union; of anything else, itself."""
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    return typing.get_args(hint)
  return (hint,)


def options_of(hint: Any) -> dict[str, type]:
  """The parts that a field may hold, by class name in lower case."""
  bases = [arm for arm in arms_of(hint) if isinstance(arm, type)]
  found = [cls for base in bases for cls in _with_subclasses(base)]
  named = [cls for cls in found if not cls.__name__.startswith('_')]
  return {cls.__name__.lower(): cls for cls in named if _is_part(cls)}


def tuple_of(hint: Any) -> Any:
  """The tuple among the members of a union, or None."""
  tuples = [arm for arm in arms_of(hint) if typing.get_origin(arm) is tuple]
  return tuples[0] if tuples else None


def elements_of(hint: Any, length: int) -> list[Any]:
  """The annotation of each element of a tuple, as far as it names them."""
  if hint is None:
    return []
  first, *rest = typing.get_args(hint)
  return [first] * length if rest == [...] else [first, *rest]


def build(cls: type, values: Mapping[str, Any], path: str) -> Any:
  """The part `cls` with these values, all of which were checked."""
  given = {**defaults_of(cls), **values}
  missing = [name for name in fields_of(cls) if name not in given]
  if missing:
    flags = ' '.join(
      f'--config.{join(path, name)}={_example(fields_of(cls)[name])}'
      for name in missing
    )
    raise ValueError(
      f'{path or "config"} = {cls.__name__} also needs '
      f'{" and ".join(join(path, name) for name in missing)}. Give it with '
      f'the same command: {flags}'
    )
  try:
    return cls(**given)
  except ValueError as error:
    if not path or f'{path}.' in str(error):
      raise
    raise ValueError(f'{path} ({cls.__name__}): {error}') from error


def check(value: Any, hint: Any, path: str) -> None:
  """Raises ValueError where `value`, or something in it, is of a wrong type."""
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    if not isinstance(value, tuple(options_of(hint).values())):
      raise wrong_type(type(value).__name__, hint, path)
    for name, field_hint in fields_of(type(value)).items():
      check(getattr(value, name), field_hint, join(path, name))
  elif isinstance(value, tuple):
    elements = elements_of(tuple_of(hint), len(value))
    if tuple_of(hint) is None or len(elements) != len(value):
      raise wrong_type(repr(value), hint, path)
    for index, element in enumerate(elements):
      check(value[index], element, join(path, str(index)))
  elif not any(_is_a(value, arm) for arm in arms_of(hint)):
    raise wrong_type(repr(value), hint, path)


def wrong_type(got: str, hint: Any, path: str) -> ValueError:
  """The error for a value that a field cannot hold."""
  names = [cls.__name__ for cls in options_of(hint).values()]
  if not names:
    return ValueError(
      f'{path} = {got} is not {_described(hint)}. Give it one, such as '
      f'{_example(hint)}.'
    )
  if type(None) in arms_of(hint):
    names.append('none')
  return ValueError(
    f'{path} = {got} is no part that fits there.{_meant(got, names)} It can be '
    f'{", ".join(sorted(names))}.'
  )


def unknown_field(name: str, cls: type, path: str) -> ValueError:
  """The error for a field that a part does not have."""
  names = list(fields_of(cls))
  owner = f'{path} ({cls.__name__})' if path else cls.__name__
  return ValueError(
    f'{join(path, name)} does not exist.{_meant(name, names, path)} {owner} '
    f'has {"these" if names else "no"} fields{": " if names else ""}'
    f'{", ".join(names)}.'
  )


def join(path: str, name: str) -> str:
  return f'{path}.{name}' if path else name


def _is_a(value: Any, arm: Any) -> bool:
  if arm is float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)
  if arm is int:
    return isinstance(value, int) and not isinstance(value, bool)
  return arm in _KINDS and isinstance(value, arm)


def _is_part(cls: type) -> bool:
  """Not a base class, which leaves a method to others by raising."""
  codes = [getattr(getattr(cls, n, None), '__code__', None) for n in dir(cls)]
  return dataclasses.is_dataclass(cls) and not any(
    code is not None and 'NotImplementedError' in code.co_names
    for code in codes
  )


def _with_subclasses(cls: type) -> list[type]:
  below = [_with_subclasses(sub) for sub in cls.__subclasses__()]
  return [cls, *(sub for subs in below for sub in subs)]


def _described(hint: Any) -> str:
  kinds = [
    _KINDS[arm][0] if arm in _KINDS else f'a tuple like {_example(arm)[1:-1]}'
    for arm in arms_of(hint)
  ]
  return ' or '.join(kinds)


def _example(hint: Any) -> str:
  arm = arms_of(hint)[0]
  if arm in _KINDS:
    return _KINDS[arm][1]
  if typing.get_origin(arm) is tuple:
    return f"'({','.join(_example(e) for e in elements_of(arm, 2))})'"
  assert options_of(arm), f'{arm} is neither a kind of value nor of parts'
  return next(iter(options_of(arm)))


def _meant(got: str, names: Iterable[str], path: str = '') -> str:
  names = {name.lower(): name for name in names}
  near = difflib.get_close_matches(got.lower(), names, n=1, cutoff=0.5)
  return f' Did you mean {join(path, names[near[0]])}?' if near else ''
