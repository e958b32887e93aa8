"""What a published format has to say of itself."""

import dataclasses
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

from lctx.interop.inputs import Given, Inputs, inputs
from lctx.interop.options import Options
from lctx.interop.tables import Entry
from lctx.memory import XLCache
from lctx.models.reader import Reader


class Family(NamedTuple):
  """One of `architectures`: its `config.json`, and the table of its arrays."""

  model_for: Callable[[Options], Reader]  # reads every option
  config_of: Callable[[Reader], dict[str, Any]]  # the way back
  entries: Callable[[Reader], list[Entry]]
  tied: Callable[[Reader], dict[str, str]]  # names that repeat another array
  body: str  # what names of the body begin with, in files with a head
  parts: dict[str, type]  # the kinds of 'position', 'norm' and the like
  ignored: Callable[[str], bool] = lambda name: False  # not read
  inputs: Callable[[Given, dict], Inputs] = inputs
  # Arrays that a file must have and no output depends on, with their shapes.
  unused: Callable[[Reader], dict[str, tuple[int, ...]]] = lambda model: {}


def dropouts(options: Options, hidden: tuple[str, ...], attention: str):
  """`model.dropout`'s numbers. Raises ValueError where hidden ones differ."""
  found = {name: options.take(name, 0.0) for name in hidden}
  if len({*found.values()}) > 1:
    listed = ', '.join(f'{name} = {x}' for name, x in found.items())
    raise ValueError(
      f'{options.where} has {listed}, but model.dropout.hidden is one number. '
      'Give them one value; it matters to training alone.'
    )
  (one,) = {*found.values()} or {0.0}
  return one, options.take(attention, 0.0)


def check_parts(model: Reader, family: Family, name: str) -> None:
  """Raises ValueError for parts that files of a family have no words for."""
  memories = {*model.memory.of_layers(model.stack.depth)}
  if any(getattr(memory, 'same_length', False) for memory in memories):
    raise ValueError(
      f'model.memory = {model.memory} has no name in a {name} file, which '
      'knows a plain cache alone. Turn same_length off, or keep the lctx '
      'checkpoint.'
    )
  found = {
    'model.memory': model.memory,
    'model.position': model.position,
    'model.pattern': model.pattern,
    'model.stack.norm': model.stack.norm,
    'model.stack.ffn': model.stack.ffn,
  }
  usual = {'memory': XLCache}
  if {type(memory) for memory in memories} == {XLCache}:
    del found['model.memory']  # of one length or two
  for field, part in found.items():
    kind = {**usual, **family.parts}.get(field.rpartition('.')[-1], object)
    kinds = typing.get_args(kind) or (kind,)
    if type(part) not in kinds and object not in kinds:
      known = ' or '.join(x.__name__.lower() for x in kinds)
      raise ValueError(
        f'{field} = {part} has no name in a {name} file, which knows '
        f'{known} alone. Use that, or keep the lctx checkpoint.'
      )


def check_exports(model: Reader, wanted: Reader, name: str) -> None:
  """Raises ValueError where `model` has what the format does not know.

  `wanted` is what reading it back would give.
  """
  for field in ('embed', 'stack', 'position', 'pattern', 'heads', 'task'):
    got, back = (_resolved(x, field) for x in (model, wanted))
    if got != back:
      raise ValueError(
        f'model.{field} = {got} would come back from a {name} file as {back}. '
        'Use that, or keep the lctx checkpoint.'
      )


def _resolved(model: Reader, field: str) -> Any:
  """A part without what is said by leaving it out, or of beginnings alone.

  Nor has a file the length that is declared for a call.
  """
  if field == 'position':
    trained = getattr(getattr(model.position, 'stretch', None), 'trained', None)
    return model.position.declared(trained) if trained else model.position
  if field != 'stack':
    return getattr(model, field)
  width = model.embed.width
  return dataclasses.replace(
    model.stack,
    head_width=model.stack.head_width_of(width),
    ffn_width=model.stack.ffn_width_of(width),
    initializer_range=None,
  )
