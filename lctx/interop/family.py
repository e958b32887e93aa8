"""What a published format has to say of itself."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from lctx.interop.options import Options
from lctx.interop.tables import Entry
from lctx.memory import XLCache
from lctx.models.reader import Decoder


class Family(NamedTuple):
  """One of `architectures`: its `config.json`, and the table of its arrays."""

  model_for: Callable[[Options], Decoder]  # reads every option
  config_of: Callable[[Decoder], dict[str, Any]]  # the way back
  entries: Callable[[Decoder], list[Entry]]
  tied: Callable[[Decoder], dict[str, str]]  # names that repeat another array
  body: str  # what names of the body begin with, in files with a head
  parts: dict[str, type]  # the kinds of 'position', 'norm' and 'ffn'
  ignored: Callable[[str], bool] = lambda name: False  # buffers, not read


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


def check_parts(model: Decoder, family: Family, name: str) -> None:
  """Raises ValueError for parts that files of a family have no words for."""
  if not isinstance(model.memory, XLCache) or model.memory.same_length:
    raise ValueError(
      f'model.memory = {model.memory} has no name in a {name} file, which '
      'knows a plain cache alone. Use xlcache, or keep the lctx checkpoint.'
    )
  found = {
    'model.position': model.position,
    'model.stack.norm': model.stack.norm,
    'model.stack.ffn': model.stack.ffn,
  }
  for field, part in found.items():
    kind = family.parts[field.rpartition('.')[-1]]
    if type(part) is not kind:
      raise ValueError(
        f'{field} = {part} has no name in a {name} file, which knows '
        f'{kind.__name__.lower()} alone. Use that, or keep the lctx checkpoint.'
      )


def check_exports(model: Decoder, wanted: Decoder, name: str) -> None:
  """Raises ValueError where `model` has what the format does not know.

  `wanted` is what reading it back would give.
  """
  for field in ('embed', 'stack', 'position', 'pattern', 'heads'):
    got, back = (_resolved(x, field) for x in (model, wanted))
    if got != back:
      raise ValueError(
        f'model.{field} = {got} would come back from a {name} file as {back}. '
        'Use that, or keep the lctx checkpoint.'
      )


def _resolved(model: Decoder, field: str) -> Any:
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
