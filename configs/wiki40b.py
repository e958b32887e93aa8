"""Transformer-XL on English Wikipedia articles (Wiki-40B), 12 layers.

Claim: none published for this model; within an article the memory must help,
by the interval in the closing table.

Data: TFDS with `pip install -e '.[tfds]'`.
Run (another language: --config=configs/wiki40b.py:de):
  tfds build wiki40b/en --file_format=array_record
  python train.py --config=configs/wiki40b.py --workdir=runs/wiki40b
"""

from lctx import (
  Adam,
  Checkpoints,
  Compute,
  Config,
  Cosine,
  Evaluation,
  Lanes,
  SentencePiece,
  Tfds,
  Training,
  presets,
)


def get_config(arg: str | None = None) -> Config:
  """`arg` is the language, English by default."""
  return Config(
    model=presets.transformer_xl(
      depth=12,
      width=768,
      num_heads=12,
      memory_length=512,
      dropout=0.1,
      memory_dropout=0.1,  # so that evaluating without memory means something
      pre_norm=True,
      compute=Compute('bfloat16'),
    ),
    data=Lanes(
      Tfds(f'wiki40b/{arg or "en"}'),
      SentencePiece(vocab_size=32_000),
      rows=64,
      segment=512,
    ),
    optimizer=Adam(4e-4, Cosine(warmup=4000, final=0.1), decay=0.1, clip=1.0),
    train=Training(steps=200_000, eval_every=5000),
    eval=Evaluation(rows=32, tokens=2_000_000),
    checkpoint=Checkpoints(every=5000),
  )
