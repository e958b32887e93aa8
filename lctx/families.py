"""What can be done with each published family: a table, made of the code.

python -m lctx.families
"""

import dataclasses

from lctx import data, fits, memory, presets
from lctx.config import Config
from lctx.data import objectives
from lctx.interop import hugging_face
from lctx.models.encoder_decoder import EncoderDecoder
from lctx.models.text import Decoder
from lctx.optimizer import Adam
from lctx.patterns import Causal, Prefix
from lctx.positions import LayerPositions, Rope, T5Bias
from lctx.positions.alibi import Alibi

SMALL = 2, 16, 2  # layers, width, heads
CONTEXT = 64
NEAR = {'window': 8}
FAMILIES = {
  'GPT-2': ('GPT2', presets.gpt2(*SMALL, CONTEXT)),
  'Llama': ('Llama', presets.llama(*SMALL, CONTEXT)),
  'Mistral': ('Mistral', presets.llama(*SMALL, CONTEXT, **NEAR)),
  'Qwen 2.5, 3': ('Qwen', presets.llama(*SMALL, CONTEXT)),
  'Gemma 1, 2, 3': ('Gemma', presets.gemma(*SMALL, CONTEXT, window=(8, None))),
  'GPT-NeoX, Pythia': ('GPTNeoX', presets.gpt_neox(*SMALL, CONTEXT)),
  'Bloom': ('Bloom', presets.bloom(*SMALL, CONTEXT)),
  'BERT': ('Bert', presets.bert(*SMALL, CONTEXT)),
  'RoBERTa': ('Roberta', presets.roberta(*SMALL, CONTEXT)),
  'Longformer': ('Longformer', presets.longformer(*SMALL, CONTEXT, **NEAR)),
  'BigBird': ('BigBird', presets.bigbird(*SMALL, CONTEXT, block=4)),
  'T5 1.0, 1.1': ('T5', presets.t5(*SMALL)),
  'LongT5': ('LongT5', presets.longt5(*SMALL, radius=8)),
  'BART': ('Bart', presets.bart(*SMALL, CONTEXT)),
  'LED': ('LED', presets.led(*SMALL, CONTEXT, written=CONTEXT, **NEAR)),
}
OBJECTIVES = (
  objectives.Causal(),
  objectives.PrefixLM(),
  objectives.FillInMiddle(),
  objectives.MaskedLM(),
  objectives.SpanCorruption(),
  objectives.Bart(),
  objectives.GapSentences(),
)
MEMORIES = {
  'cache': memory.XLCache(8),
  'tokens': memory.Tokens(2),
  'associative': memory.Associative(2, 4, 2),
  'infini': memory.Infini(),
  'delta': memory.GatedDelta(gate=memory.HeadGate()),
  'compressive': memory.Compressive(8, 4, 2),
  'retrieval': memory.Retrieval(8, 2),
  'states': memory.StateCell(2),
}


def table() -> str:
  """Markdown, a row for each family."""
  head = (
    'family',
    'reads and writes',
    'trains by',
    'stretch',
    'memory',
    'stream',
  )
  lines = [head, ('---',) * len(head)]
  for name, (prefix, model) in FAMILIES.items():
    lines.append(
      (
        name,
        ', '.join(_architectures(prefix)),
        ', '.join(_objectives(model)),
        _stretch(model),
        _memories(model),
        _stream(model),
      )
    )
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _architectures(prefix: str) -> list[str]:
  """Those whose names begin so, without what they share."""
  names = [x for x in hugging_face.FAMILIES if x.startswith(prefix)]
  kinds = {x.removeprefix(prefix).lstrip('0123456789') for x in names}
  return sorted(f'`{kind}`' for kind in kinds)


def _objectives(model) -> list[str]:
  found = []
  for objective in OBJECTIVES:
    lanes, trained = data.Lanes(segment=32, objective=objective), model
    if isinstance(model, Decoder) and objective == objectives.PrefixLM():
      trained = model.clone(pattern=Causal() | Prefix())  # it says so in Python
    try:
      fits.check_asked(Config(trained, lanes, Adam(1e-3)))
    except ValueError:
      continue
    found.append(type(objective).__name__)
  return found


def _stretch(model) -> str:
  position = model.encoder.position if _pairs(model) else model.position
  if isinstance(position, LayerPositions):
    position = position.each[0]
  match position:
    case Rope():
      return 'PI, NTK, YaRN, LongRoPE, Llama 3'
    case T5Bias() | Alibi():
      return 'as it is: by distance'
  return 'no: positions end'


def _memories(model) -> str:
  """How many of the kinds it can have, and those it cannot."""
  refused = []
  for name, kind in MEMORIES.items():
    try:
      if _pairs(model):
        side = dataclasses.replace(model.encoder, memory=kind)
        dataclasses.replace(model, encoder=side)
      else:
        model.clone(memory=kind)
    except ValueError:
      refused.append(name)
  able = len(MEMORIES) - len(refused)
  said = f'{able} of {len(MEMORIES)}'
  return said if not refused else f'{said}; not {", ".join(refused)}'


def _stream(model) -> str:
  """Whether it reads and writes without end, in a memory that does not grow."""
  if _pairs(model):
    return 'no: it reads a text whole, by segments'
  if not isinstance(model, Decoder):
    return 'no: it predicts no next token'
  return 'yes' if model.position.limit is None else 'to the last position'


def _pairs(model) -> bool:
  return isinstance(model, EncoderDecoder)


if __name__ == '__main__':
  print(table())
