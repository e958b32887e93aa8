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

import jax.numpy as jnp

from lctx.checkpoint import Checkpoints
from lctx.data import Lanes
from lctx.data.objectives import Objective, PrefixLM
from lctx.errors import checking
from lctx.evaluation.score import Evaluation
from lctx.fields import check, fields_of
from lctx.models.encoder_decoder import EncoderDecoder
from lctx.models.tasks import MaskedWords, Words
from lctx.models.text import Decoder, Encoder
from lctx.optimizer import Optimizer
from lctx.overrides import from_json, override, to_json
from lctx.patterns import Causal, Pattern
from lctx.patterns.base import visible
from lctx.sharding.mesh import Mesh
from lctx.training.beginning import Beginning
from lctx.training.metrics import Logging
from lctx.training.step import Training
from lctx.types import segment_coords

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
    if isinstance(self.model, EncoderDecoder):
      _check_pair(self)
      return
    _check_effects(self.model)
    if isinstance(self.model, Decoder):
      _check_order(self.model, self.data.objective)
    _check_roles(self.model, self.data.objective)
    for name in ('data', 'eval'):
      _check_segment(self.model, getattr(self, name).segment, name)


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


def _check_effects(model: Decoder) -> None:
  """Raises ValueError for an option that another one leaves without effect."""
  if model.dropout.memory and not model.remembers:
    name = type(model.memory).__name__.lower()
    raise ValueError(
      f'model.dropout.memory = {model.dropout.memory} drops a memory that is '
      f'not there: model.memory = {name} with model.memory.length = '
      f'{model.memory.length} carries nothing. Set the first to 0, or use '
      'model.memory=xlcache of some length.'
    )
  heads = model.heads
  scores = heads.span or heads.adaptive or heads.cap or heads.scale
  if not model.attends and scores:
    raise ValueError(
      'model.heads has a span, cap, scale or adaptive scores without effect: '
      f'model.memory = {model.memory} lets no layer attend to tokens. Remove '
      'them, or set model.memory.gate.'
    )
  alone = model.pattern == Causal() and not model.dropout.attention
  if not model.attends and not alone:
    raise ValueError(
      f'model.pattern = {model.pattern} and model.dropout.attention = '
      f'{model.dropout.attention} are of attention, but model.memory = '
      f'{model.memory} lets no layer attend to tokens. Leave them as they are '
      'by default, or set model.memory.gate.'
    )
  if any(model.embed.tie_projections) and not model.embed.projected:
    raise ValueError(
      f'model.embed.tie_projections = {model.embed.tie_projections} ties what '
      'is not there: with model.embed.div_val = 1 and no embed_width but the '
      "model's own, nothing is projected. Use () for no ties."
    )


def check_asked(config: Config) -> None:
  """Raises ValueError for a model that the objective cannot train."""
  objective, name = config.data.objective, type(config.model).__name__
  asked = type(objective).__name__.lower()
  if objective.pairs != isinstance(config.model, EncoderDecoder):
    gives = 'pairs of texts' if objective.pairs else 'single texts'
    wants = 'single texts' if objective.pairs else 'pairs of texts'
    raise ValueError(
      f'data.objective = {asked} gives {gives}, but model = {name.lower()} '
      f'reads {wants}. Use another objective, or another model.'
    )
  if isinstance(config.model, Encoder) and not objective.in_place:
    raise ValueError(
      f'data.objective = {asked} predicts what comes next, which model = '
      'encoder sees. Use data.objective=maskedlm, or a decoder.'
    )
  if isinstance(config.model, Decoder) and objective.in_place:
    raise ValueError(
      f'data.objective = {asked} hides tokens that stand between others, and '
      'model = decoder sees none after them. Use data.objective=causal, or an '
      'encoder.'
    )
  if not isinstance(config.model.task, Words | MaskedWords):
    raise ValueError(
      f'model.task = {config.model.task} asks for no words, which is all that '
      'data.objective trains. Use words, or maskedwords for an encoder.'
    )


def check_measured(config: Config) -> None:
  """Raises ValueError for options of evaluation that an objective leaves."""
  names = 'segment', 'memory', 'same_length', 'clamp', 'declared'
  given = [x for x in names if getattr(config.eval, x) is not None]
  given += ['compare'] if config.eval.compare else []
  if given:
    listed = ', '.join(f'eval.{x} = {getattr(config.eval, x)}' for x in given)
    raise ValueError(
      f'{listed}: of reading all of a text, which is not what data.objective = '
      f'{type(config.data.objective).__name__.lower()} is measured by. Leave '
      'them none, and eval.compare=false.'
    )


def _check_pair(config: Config) -> None:
  """Raises ValueError for an encoder-decoder that the data does not fit."""
  model, lanes = config.model, config.data
  _check_order(model.target, lanes.objective)
  if model.dropout.memory:
    raise ValueError(
      f'model.dropout.memory = {model.dropout.memory} is of memory that is '
      'carried from step to step, which an encoder-decoder does not. Set it to '
      '0.'
    )
  if lanes.segments > 1 and not model.source.remembers:
    raise ValueError(
      f'data.segments = {lanes.segments} cuts what the encoder reads, and '
      f'model.encoder.memory = {model.encoder.memory} carries nothing from one '
      'segment to the next. Set data.segments=1 with a longer data.segment, or '
      'give the encoder a memory, such as tokens.'
    )
  for side in (model.source, model.target):
    _check_roles(side, lanes.objective)
  for side, text in (
    (model.source, lanes.length),
    (model.target, lanes.written),
  ):
    limit, name = side.position.limit, type(side).__name__.lower()
    if limit is not None and text > limit:
      raise ValueError(
        f'The {name} reads {text} tokens, but model.{name}.position ends after '
        f'{limit}. Set data.segment shorter, or model.{name}.position.length '
        'longer.'
      )
  if model.context == 'memory' and not lanes.alone:
    raise ValueError(
      'model.context = memory is of one text, but rows of data may hold '
      'several. Set data.alone=true.'
    )
  model.encoder.memory.check_segment(lanes.segment, 'data.segment')


def _check_order(model: Decoder, objective: Objective) -> None:
  """Raises ValueError for a model that sees what it must predict.

  A prefix is seen both ways where the objective says which tokens it is.
  """
  patterns = [
    p for run in model.runs for p in run.memory.patterns(run.kind.pattern)
  ]
  ahead = [pattern for pattern in patterns if pattern.reach.after != 0]
  if isinstance(objective, PrefixLM):
    ahead = [x for x in ahead if _sees_ahead(x, model.stack.num_heads)]
  if ahead:
    raise ValueError(
      f'model.pattern = {model.pattern} lets a token see those after it, which '
      'a model that predicts the next token must not. In Python combine it '
      'with Causal() & ..., or use one of causal, window and dilated (with '
      'after = 0), staircase, sinks.'
    )


def _sees_ahead(pattern: Pattern, num_heads: int) -> bool:
  """Of tokens that have no role."""
  at = segment_coords(jnp.zeros((1, 16), jnp.int32))
  seen = visible(pattern.of_length(16), at, at, jnp.arange(num_heads))
  return bool(jnp.triu(seen, 1).any())


def _check_roles(model: Decoder | Encoder, objective: Objective) -> None:
  """Raises ValueError for a pattern that would choose no token."""
  if isinstance(objective, PrefixLM) and not model.pattern.by_role:
    raise ValueError(
      f'data.objective = prefixlm says which tokens are a prefix, but '
      f'model.pattern = {model.pattern} does not look at it. In Python combine '
      'it with ... | Prefix().'
    )
  if model.pattern.by_role and not isinstance(objective, PrefixLM):
    raise ValueError(
      f'model.pattern = {model.pattern} chooses tokens by their role, but the '
      'texts of data.corpus give none, so it would choose nothing. Give '
      'globaltokens or prefix a number: first.'
    )


def _check_segment(model: Decoder, segment: int | None, name: str) -> None:
  if segment is None:
    return
  model.memory.check_segment(segment, f'{name}.segment')
  limit = model.position.limit
  if limit is not None and segment > limit:
    raise ValueError(
      f'{name}.segment = {segment} is longer than model.position.length = '
      f'{limit}, where positions end. Use shorter segments, or set '
      f'model.position.length to {segment} or more.'
    )


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
