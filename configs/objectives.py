"""Each pretraining objective, on a small model of the family that has it.

Claim: each trains on a CPU in minutes; docs/log.md has curves on novels.

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

SIZES, LENGTH = (4, 128, 4), 256  # layers, width, heads; tokens of a row
SMALL = {'initializer_range': None}
SIDES = {'encoder': {'stack': SMALL}, 'decoder': {'stack': SMALL}}
PREFIX = patterns.Causal() | patterns.Prefix()
LLAMA = presets.llama(*SIZES, LENGTH, stack=SMALL)
BERT = presets.bert(*SIZES, LENGTH, stack=SMALL)
T5 = presets.t5(*SIZES, **SIDES)
BART = presets.bart(*SIZES, 2 * LENGTH, **SIDES)
LONGT5 = presets.longt5(*SIZES, radius=31, **SIDES)
CHOICES = {
  'causal': (LLAMA, objectives.Causal()),
  'prefix': (LLAMA.clone(pattern=PREFIX), objectives.PrefixLM()),
  'middle': (LLAMA, objectives.FillInMiddle()),
  'masked': (BERT, objectives.MaskedLM(kept=(0,))),
  'words': (BERT, objectives.MaskedLM(whole_words=True, kept=(0,))),
  'spans': (T5, objectives.SpanCorruption()),
  'denoising': (BART, objectives.Bart()),
  'gaps': (LONGT5, objectives.GapSentences()),
}


def get_config(arg: str | None = None) -> Config:
  """`arg` is the name of an objective, masked if none is given."""
  if arg and arg not in CHOICES:
    raise ValueError(f'{arg!r} is none of {", ".join(CHOICES)}.')
  model, objective = CHOICES[arg or 'masked']
  return Config(
    model=model,
    data=Lanes(rows=8, segment=LENGTH, objective=objective),
    optimizer=Adam(2e-3, Cosine(warmup=100), clip=1.0),
    train=Training(steps=2000, eval_every=500, valid_tokens=50_000),
    eval=Evaluation(compare=False, tokens=50_000),
    checkpoint=Checkpoints(metric='bits_per_token', every=500),
  )
