"""How many labels a head has, as a `config.json` says it."""

from typing import Any

from lctx.interop.options import Options


def count_of(options: Options, usual: int = 2) -> int:
  """As many as `id2label` names; `usual` where it is not there."""
  return len(options.take('id2label', range(usual)))


def said_of(count: int) -> dict[str, Any]:
  """The way back, with names that say nothing."""
  names = [f'LABEL_{i}' for i in range(count)]
  return {
    'id2label': {str(i): x for i, x in enumerate(names)},
    'label2id': {x: i for i, x in enumerate(names)},
  }
