"""Files of a family that have another head than words, or none at all."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from lctx.interop.family import Family, Model
from lctx.interop.inputs import until_padding
from lctx.interop.labels import count_of, said_of
from lctx.interop.layers import linear
from lctx.interop.options import Options
from lctx.interop.tables import Entry
from lctx.models.encoder_decoder import EncoderDecoder
from lctx.models.tasks import (
  Spans,
  States,
  Task,
  TextLabels,
  TextScores,
  TokenLabels,
)

LABELS = 'labels'


class Head(NamedTuple):
  """A kind of task, and the matrices that answer it."""

  kind: type[Task]
  ask: Callable[[Options], Task]
  names: dict[str, str]  # of linear layers: theirs to ours
  bias: bool = True


BODY = Head(States, lambda options: States(), {})
SPAN = Head(
  Spans, lambda options: Spans(count_of(options)), {'qa_outputs': LABELS}
)
TOKENS = Head(
  TokenLabels,
  lambda options: TokenLabels(count_of(options)),
  {'classifier': LABELS},
)
SCORES = Head(
  TextScores,
  lambda options: TextScores(count_of(options)),
  {'score': LABELS},
  bias=False,
)


def of_end_mark(usual: int) -> Head:
  """Labels of a pair by the last token that is written; `usual`ly so many."""
  names = {'dense': 'pooled', 'out_proj': LABELS}
  return Head(
    TextLabels,
    lambda options: TextLabels(count_of(options, usual), of='last'),
    {f'classification_head.{name}': leaf for name, leaf in names.items()},
  )


def with_head(family: Family, head: Head, body: str | None = None) -> Family:
  """The family of the same bodies with another head than that for words.

  `body`: what names of the body begin with; None = as in `family`.
  """
  body = family.body if body is None else body
  names = {'family': family, 'body': body}
  return family._replace(
    model_for=functools.partial(_model_for, family=family, head=head),
    config_of=functools.partial(_config_of, family=family),
    entries=functools.partial(_entries, head=head, **names),
    tied=functools.partial(_tied, **names),
    body=body,
    parts={**family.parts, 'task': head.kind},
    unused=functools.partial(_unused, **names),
  )


def of_decoders(families: dict[str, Family]) -> dict[str, Family]:
  """Bodies and classifiers of texts, of families that predict words."""
  found = {}
  for name, family in families.items():
    name = name.removesuffix('ForCausalLM').removesuffix('LMHeadModel')
    name = 'Gemma3Text' if name == 'Gemma3' else name  # which has pictures
    scored = with_head(family, SCORES)._replace(inputs=until_padding)
    found[f'{name}Model'] = with_head(family, BODY, '')
    found[f'{name}ForSequenceClassification'] = scored
  return found


def _model_for(options: Options, family: Family, head: Head) -> Model:
  """Words are not predicted, so nothing is tied to them."""
  asked = head.ask(options)
  options.take('tie_word_embeddings', True)
  model = family.model_for(options)
  embed = dataclasses.replace(model.embed, tie_weights=True, out_bias=False)
  return dataclasses.replace(model, embed=embed, task=asked)


def _config_of(model: Model, family: Family) -> dict[str, Any]:
  found = family.config_of(model)
  found.pop('tie_word_embeddings', None)
  labels = getattr(model.task, LABELS, None)
  return found if labels is None else found | said_of(labels)


def _entries(
  model: Model, family: Family, body: str, head: Head
) -> list[Entry]:
  of_body = [
    dataclasses.replace(entry, name=_renamed(entry.name, family, body))
    for entry in family.entries(model)
    if entry.name.startswith(family.body)
  ]
  return [*of_body, *_of_head(model, head)]


def _of_head(model: Model, head: Head) -> Iterator[Entry]:
  width = model.embed.width
  root = ('decoder',) if isinstance(model, EncoderDecoder) else ()
  for name, leaf in head.names.items():
    shape = width, model.task.labels if leaf == LABELS else width
    of = *root, 'answers'
    yield from linear(name, leaf, shape, bias=head.bias, of=of)


def _tied(model: Model, family: Family, body: str) -> dict[str, str]:
  return {
    _renamed(alias, family, body): _renamed(name, family, body)
    for alias, name in family.tied(model).items()
    if alias.startswith(family.body)
  }


def _unused(
  model: Model, family: Family, body: str
) -> dict[str, tuple[int, ...]]:
  found = family.unused(model)
  return {_renamed(name, family, body): found[name] for name in found}


def _renamed(name: str, family: Family, body: str) -> str:
  return body + name.removeprefix(family.body)
