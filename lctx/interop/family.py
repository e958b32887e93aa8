"""What a published format has to say of itself."""

import dataclasses
import functools
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

from lctx.interop.inputs import Given, Pair, Text, inputs
from lctx.interop.options import Options
from lctx.interop.tables import Entry
from lctx.memory import GlobalAttention, TransientGlobal, XLCache
from lctx.models.encoder_decoder import EncoderDecoder, Side
from lctx.models.parts import Stack
from lctx.models.text import Decoder, Encoder
from lctx.patterns import BlockSparse
from lctx.positions import Position

Model = Decoder | Encoder | EncoderDecoder


class Family(NamedTuple):
  """One of `architectures`: its `config.json`, and the table of its arrays."""

  model_for: Callable[[Options], Model]  # reads every option
  config_of: Callable[[Model], dict[str, Any]]  # the way back
  entries: Callable[[Model], list[Entry]]
  tied: Callable[[Model], dict[str, str]]  # names that repeat another array
  body: str  # what names of the body begin with, in files with a head
  parts: dict[str, type]  # the kinds of 'position', 'stack.norm' and the like
  ignored: Callable[[str], bool] = lambda name: False  # not read
  inputs: Callable[[Given, dict], Text | Pair] = inputs
  # Arrays that a file must have and no output depends on, with their shapes.
  unused: Callable[[Model], dict[str, tuple[int, ...]]] = lambda model: {}
  model: type = Decoder


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


def check_parts(model: Model, family: Family, name: str) -> None:
  """Raises ValueError for parts that files of a family have no words for."""
  if type(model) is not family.model:
    raise ValueError(
      f'model = {type(model).__name__} has no name in a {name} file, which is '
      f'of a {family.model.__name__}. Name the architecture that it is.'
    )
  found = {'memory': XLCache, **family.parts}
  if family.model is EncoderDecoder:
    del found['memory']
  for path, kind in found.items():
    part = functools.reduce(getattr, path.split('.'), model)
    kinds = typing.get_args(kind) or (kind,)
    parts = [part]
    if path == 'memory':  # of two lengths, where some layers have a window
      parts = part.of_layers(model.stack.depth)
    for x in parts:
      if type(x) not in kinds or getattr(x, 'same_length', False):
        known = ' or '.join(x.__name__.lower() for x in kinds)
        raise ValueError(
          f'model.{path} = {part} has no name in a {name} file, which knows '
          f'{known} alone. Use that, or keep the lctx checkpoint.'
        )


def check_exports(model: Model, wanted: Model, name: str) -> None:
  """Raises ValueError where `model` has what the format does not know.

  `wanted` is what reading it back would give.
  """
  silent = {'memory', 'dropout', 'compute', 'parent', 'name'}
  fields = {field.name for field in dataclasses.fields(model)} - silent
  for field in sorted(fields):
    got, back = (
      _resolved(getattr(x, field), x.embed.width) for x in (model, wanted)
    )
    if got != back:
      raise ValueError(
        f'model.{field} = {got} would come back from a {name} file as {back}. '
        'Use that, or keep the lctx checkpoint.'
      )


def _resolved(part: Any, width: int) -> Any:
  """A part without what is said by leaving it out, or of beginnings alone.

  Nor has a file the length that is declared for a call.
  """
  match part:
    case Side():
      fields = ('stack', 'position', 'memory')
      changed = {x: _resolved(getattr(part, x), width) for x in fields}
      return dataclasses.replace(part, **changed)
    case GlobalAttention():  # how many, and which, a file does not say
      return dataclasses.replace(part, most=1, first=None)
    case BlockSparse():  # how blocks are drawn in training it says neither
      return dataclasses.replace(part, heads=1, seed=None)
    case TransientGlobal():
      return dataclasses.replace(part, position=part.scheme)
    case Stack():
      return dataclasses.replace(
        part,
        head_width=part.head_width_of(width),
        ffn_width=part.ffn_width_of(width),
        initializer_range=None,
      )
    case Position():
      trained = getattr(getattr(part, 'stretch', None), 'trained', None)
      return part.declared(trained) if trained else part
  return part
