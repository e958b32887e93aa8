"""Each pretraining objective, on a small model of the family that has it.

Claim: every objective learns on a CPU in minutes; docs/log.md has the curves.

Run, NAME one of causal, prefix, middle, masked, words, spans, denoising, gaps:
  python train.py --config=configs/objectives.py:NAME --workdir=runs/NAME
"""

from lctx import (
  Adam,
  Checkpoints,
  Config,
  Cosine,
  Evaluation,
  Lanes,
  Training,
  objectives,
  patterns,
  presets,
)

SIZES = 4, 128, 4  # layers, width, heads
SMALL = {'initializer_range': None}
SIDES = {'encoder': {'stack': SMALL}, 'decoder': {'stack': SMALL}}
LENGTH = 256


def llama(**parts):
  return presets.llama(*SIZES, LENGTH, stack=SMALL, **parts)


def bert():
  return presets.bert(*SIZES, LENGTH, stack=SMALL)


def t5():
  return presets.t5(*SIZES, **SIDES)


PREFIX = patterns.Causal() | patterns.Prefix()
BERT, T5 = presets.bert, presets.t5
CHOICES = {
  'causal': (llama(), objectives.Causal()),
  'prefix': (llama(pattern=PREFIX), objectives.PrefixLM()),
  'middle': (llama(), objectives.FillInMiddle()),
  'masked': (bert(), objectives.MaskedLM(kept=(0,))),
  'words': (bert(), objectives.MaskedLM(whole_words=True, kept=(0,))),
  'spans': (t5(), objectives.SpanCorruption()),
  'denoising': (
    presets.bart(*SIZES, 2 * LENGTH, **SIDES),
    objectives.Bart(),
  ),
  'gaps': (
    presets.longt5(*SIZES, radius=31, block=16, **SIDES),
    objectives.GapSentences(),
  ),
}


def get_config(arg: str | None = None) -> Config:
  """`arg` is the name of an objective, masked if none is given."""
  name = arg or 'masked'
  if name not in CHOICES:
    raise ValueError(f'{name!r} is none of {", ".join(CHOICES)}.')
  model, objective = CHOICES[name]
  return Config(
    model=model,
    data=Lanes(rows=8, segment=LENGTH, objective=objective),
    optimizer=Adam(2e-3, Cosine(warmup=100), clip=1.0),
    train=Training(steps=2000, eval_every=500, valid_tokens=50_000),
    eval=Evaluation(compare=False, tokens=50_000),
    checkpoint=Checkpoints(metric='bits_per_token', every=500),
  )
