"""Whether a model, its data and its evaluation fit each other.

Each raises ValueError, which names the fields and says what to change. `config`
is a Config.
"""

from typing import Any

import jax.numpy as jnp

from lctx.data.lanes import Lanes
from lctx.data.long_texts import LongTexts
from lctx.data.objectives import Objective, PrefixLM
from lctx.models.encoder_decoder import EncoderDecoder
from lctx.models.tasks import Words
from lctx.models.text import Decoder, Encoder, TextModel
from lctx.patterns import Causal, Pattern
from lctx.patterns.base import visible
from lctx.types import segment_coords


def check(config: Any) -> None:
  """What can be seen of the config alone."""
  model, lanes = config.model, config.data
  if isinstance(model, EncoderDecoder):
    _check_pair(model, lanes)
    return
  _check_effects(model)
  if isinstance(model, Decoder):
    _check_order(model, lanes.objective)
  _check_roles(model, lanes.objective)
  for name in ('data', 'eval'):
    _check_segment(model, getattr(config, name).segment, name)


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


def check_asked(config: Any) -> None:
  """Raises ValueError for a model that the objective cannot train, or that
  could not read as its data says."""
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
  if not isinstance(config.model.task, Words):
    raise ValueError(
      f'model.task = {config.model.task} asks for no words, which is all that '
      'data.objective trains. Use words, or maskedwords for an encoder.'
    )
  check_long_texts(config.model, config.data.long_texts)


def check_long_texts(
  model: TextModel | EncoderDecoder, policy: LongTexts
) -> None:
  """Raises ValueError where the model cannot read long texts so."""
  reads = model.source if isinstance(model, EncoderDecoder) else model
  policy.check(reads.remembers)


def check_measured(config: Any) -> None:
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


def _check_pair(model: EncoderDecoder, lanes: Lanes) -> None:
  """Raises ValueError for an encoder-decoder that the data does not fit."""
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
  written = lanes.written
  _check_side(model.source, lanes.length, lanes.segment)
  _check_side(model.target, written, written)
  if model.context == 'memory' and not lanes.alone:
    raise ValueError(
      'model.context = memory is of one text, but rows of data may hold '
      'several. Set data.alone=true.'
    )
  model.encoder.memory.check_segment(lanes.segment, 'data.segment')


def _check_side(side: TextModel, text: int, segment: int) -> None:
  position, name = side.position, type(side).__name__.lower()
  for limit, read in (
    (position.limit, text),
    (position.segment_limit, segment),
  ):
    if limit is not None and read > limit:
      raise ValueError(
        f'The {name} reads {read} tokens, but model.{name}.position ends after '
        f'{limit}. Set data.segment shorter, or model.{name}.position.length '
        'longer.'
      )


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
  limit = model.position.segment_limit
  if limit is not None and segment > limit:
    raise ValueError(
      f'{name}.segment = {segment} is longer than model.position.length = '
      f'{limit}, where positions end. Use shorter segments, or set '
      f'model.position.length to {segment} or more.'
    )
