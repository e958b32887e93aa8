"""Transformer-XL on text8, 12 layers, 41M parameters.

Claim: none published at this size; the recipe of enwik8's 12 layers (Dai et
al. 2019), whose 24 layers reach 1.08 bits per character (text8_large.py).

Data:
  wget -P data http://mattmahoney.net/dc/text8.zip
Run:
  python train.py --config=configs/text8_base.py --workdir=runs/text8_base
  python eval.py --workdir=runs/text8_base
"""

from lctx import (
  Adam,
  ByBytes,
  Checkpoints,
  Config,
  Cosine,
  Evaluation,
  Lanes,
  PublishedBytes,
  Text,
  Training,
  presets,
)


def get_config(arg: str | None = None) -> Config:
  """`arg` is the path of the text, data/text8.zip if none is given."""
  return Config(
    model=presets.transformer_xl(
      depth=12,
      width=512,
      num_heads=8,
      head_width=64,
      ffn_width=2048,
      memory_length=512,
      dropout=0.1,
    ),
    data=Lanes(
      Text(arg or 'data/text8.zip', ByBytes(whole_characters=False)),
      PublishedBytes(),
      rows=22,
      segment=512,
    ),
    optimizer=Adam(2.5e-4, Cosine(shifted=False), clip=0.25),
    train=Training(steps=400_000, eval_every=4000),
    eval=Evaluation(
      segment=80,
      memory=2100,
      clamp=820,
      same_length=True,
      rows=10,
      compare=False,
    ),
    checkpoint=Checkpoints(every=4000),
  )
