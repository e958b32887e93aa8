"""Config: all that makes a run, a tree of parts; from files, to JSON.

A config file is Python. It defines `get_config(arg=None)`, which returns a
Config; `arg` is what follows the colon in `--config=FILE:arg`.
"""

import dataclasses
import difflib
import inspect
import json
import os
import re
import traceback
import types
from collections.abc import Mapping
from pathlib import Path

from lctx import fits
from lctx.checkpoint import Checkpoints
from lctx.data import Lanes
from lctx.errors import checking
from lctx.evaluation.score import Evaluation
from lctx.fields import check, fields_of
from lctx.models.encoder_decoder import EncoderDecoder
from lctx.models.text import Decoder, Encoder
from lctx.optimizer import Optimizer
from lctx.overrides import from_json, override, to_json
from lctx.sharding.mesh import Mesh
from lctx.training.beginning import Beginning
from lctx.training.metrics import Logging
from lctx.training.step import Training

__all__ = ['Config', 'from_json', 'load', 'override', 'read', 'save', 'to_json']


@dataclasses.dataclass(frozen=True)
class Config:
  """All that makes a run; each part says what its fields mean.

  `profile` writes a trace of a few steps; `seed` decides everything random.
  """

  model: Decoder | Encoder | EncoderDecoder
  data: Lanes
  optimizer: Optimizer
  train: Training = dataclasses.field(default_factory=Training)
  eval: Evaluation = dataclasses.field(default_factory=Evaluation)
  checkpoint: Checkpoints = dataclasses.field(default_factory=Checkpoints)
  mesh: Mesh = dataclasses.field(default_factory=Mesh)
  log: Logging = dataclasses.field(default_factory=Logging)
  profile: bool = False
  seed: int = 0
  init: Beginning = dataclasses.field(default_factory=Beginning)

  def __post_init__(self):
    if not 0 <= self.seed < 2**32:
      raise ValueError(
        f'seed = {self.seed} must be a whole number from 0 to 2**32 - 1.'
      )
    check(self.model, fields_of(Config)['model'], 'model')
    fits.check(self)


def load(
  path: str | os.PathLike, overrides: Mapping[str, str | bool] | None = None
) -> Config:
  """The config of `FILE` or `FILE:arg`, with overrides ('data.rows': '8').

  Raises UserError, which names the file and line or the field: no such file,
  no `get_config`, an exception in it, or a value that cannot be.
  """
  name, colon, arg = os.fspath(path).partition(':')
  with checking():
    config = _get_config(Path(name), [arg] if colon else [])
  return changed(config, overrides)


def changed(
  config: Config, overrides: Mapping[str, str | bool] | None = None
) -> Config:
  """The config with overrides ('data.rows': '8'), every field's type checked.

  Raises UserError, which names the field.
  """
  with checking():
    check_types(config)
    return override(config, overrides or {})


def check_types(config: Config) -> None:
  """Raises ValueError, which names the field, for a value of a wrong type."""
  if not isinstance(config, Config):
    raise ValueError(
      f'A lctx Config is needed, but {config!r} is of type '
      f'{type(config).__name__}. lctx.config.load(path) reads one from a file.'
    )
  check(config, Config, '')


def save(config: Config, workdir: str | os.PathLike) -> None:
  """Writes `config.json`, which `read` takes, at once or not at all."""
  path = Path(workdir) / 'config.json'
  part = path.with_suffix('.part')
  part.write_text(json.dumps(to_json(config), indent=2) + '\n')
  os.replace(part, path)


def read(
  workdir: str | os.PathLike,
  overrides: Mapping[str, str | bool] | None = None,
) -> Config:
  """The config a folder was trained with, with overrides.

  Raises UserError: nothing was trained there, or the file is damaged.
  """
  path = Path(workdir).expanduser() / 'config.json'
  with checking():
    if not path.is_file():
      raise ValueError(
        f'workdir = {os.fspath(workdir)!r} has no config.json, so nothing was '
        'trained there. Give --workdir the folder that train.py was given.'
      )
    try:
      data = json.loads(path.read_text())
      if not isinstance(data, dict):
        raise ValueError(f'it holds {data!r}, and no fields')
      trained = from_json(data, Config)
    except ValueError as error:
      raise ValueError(
        f'{path} is damaged: {error}. Run the command that trained the model '
        'again; it writes the file anew.'
      ) from error
    return override(trained, overrides or {})


def _get_config(path: Path, args: list[str]) -> Config:
  if not path.is_file():
    raise ValueError(
      f'config = {str(path)!r} is not a file.{_beside(path)} Give --config a '
      'Python file that defines get_config(arg=None).'
    )
  module = types.ModuleType(path.stem)
  module.__file__ = str(path)
  try:
    exec(compile(path.read_bytes(), path, 'exec'), vars(module))
    get_config = getattr(module, 'get_config', None)
    config = get_config(*args) if callable(get_config) else None
  except AssertionError:  # ours, not the user's
    raise
  except Exception as error:
    where = _where(error, path)
    raise ValueError(f'{where}: {_about(error, module)}') from error
  if not callable(get_config):
    raise ValueError(
      f'{path} defines no get_config. Add `def get_config(arg=None):` that '
      'returns a lctx Config.'
    )
  if not isinstance(config, Config):
    raise ValueError(
      f'get_config() of {path} returned {type(config).__name__}, but must '
      'return a lctx Config.'
    )
  return config


def _beside(path: Path) -> str:
  """The nearest name of a config in the same folder."""
  names = [str(near) for near in path.parent.glob('*.py')]
  near = difflib.get_close_matches(str(path), names, n=1)
  return f' Did you mean {near[0]}?' if near else ''


def _where(error: Exception, path: Path) -> str:
  """The last line of the config file on the way to the error."""
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename == str(path)
  ]
  if isinstance(error, SyntaxError) and error.filename == str(path):
    lines.append(error.lineno)
  return f'{path}, line {lines[-1]}' if lines else str(path)


def _about(error: Exception, module: types.ModuleType) -> str:
  if isinstance(error, SyntaxError):
    return f'this is not Python ({error.msg}).'
  if isinstance(error, ValueError):
    return str(error)
  if wrong := _wrong_field(error):
    return wrong
  return f'{type(error).__name__}: {error}.{_argument_meant(error, module)}'


def _wrong_field(error: Exception) -> str:
  """What is wrong with a field of the part that could not check itself."""
  for frame, _ in traceback.walk_tb(error.__traceback__):
    part, where = frame.f_locals.get('self'), frame.f_code.co_name
    if where == '__post_init__' and dataclasses.is_dataclass(part):
      try:
        for name, hint in fields_of(type(part)).items():
          check(getattr(part, name), hint, f'{type(part).__name__}.{name}')
      except ValueError as wrong:
        return str(wrong)
  return ''


def _argument_meant(error: Exception, module: types.ModuleType) -> str:
  """The nearest argument to one that a part or preset does not take."""
  found = re.match(
    r"([\w.]+)\(\) got an unexpected keyword argument '(\w+)'", str(error)
  )
  if found is None:
    return ''
  called = found[1].removesuffix('.__init__')
  spaces = [module, *filter(inspect.ismodule, vars(module).values())]
  functions = [getattr(space, called, None) for space in spaces]
  names = [
    name
    for function in filter(callable, functions)
    for name in inspect.signature(function).parameters
  ]
  near = difflib.get_close_matches(found[2], names, n=1, cutoff=0.5)
  return f' Did you mean {near[0]}?' if near else ''
