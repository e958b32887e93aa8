"""Transformer-XL on the source code of Python's standard library.

Claim: memory of the text before the segment helps, on files it never saw.
Run: python train.py --config=configs/quickstart.py --workdir=runs/quickstart
"""

from lctx import (
  Adam,
  Bytes,
  Checkpoints,
  Config,
  Cosine,
  Evaluation,
  Lanes,
  Stdlib,
  Training,
  presets,
)


def get_config(arg: str | None = None) -> Config:
  """`arg` 'no_memory' is the twin that is trained without memory."""
  memory = 0 if arg == 'no_memory' else 128
  return Config(
    model=presets.transformer_xl(
      depth=4,
      width=128,
      num_heads=4,
      memory_length=memory,
      memory_dropout=0.25 if memory else 0.0,
      pre_norm=True,
    ),
    data=Lanes(Stdlib(), Bytes(), rows=16, segment=128),
    optimizer=Adam(peak=3e-3, schedule=Cosine(warmup=50), clip=1.0),
    train=Training(steps=500, eval_every=250, valid_tokens=50_000),
    eval=Evaluation(rows=16, tokens=200_000),
    checkpoint=Checkpoints(every=250, keep_last=1),
  )
