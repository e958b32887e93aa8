"""Transformer-XL on enwik8, 12 layers, 41M parameters.

Claim: 1.06 bits per character on the test split (Dai et al. 2019, table 2).
The published vocabulary drops newlines, so compare that number with the bits
per token that eval.py prints; --config.data.tokenizer=bytes reads every byte.

Data:
  wget -P data http://mattmahoney.net/dc/enwik8.zip
Run:
  python train.py --config=configs/enwik8_base.py --workdir=runs/enwik8_base
  python eval.py --workdir=runs/enwik8_base
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
  """`arg` is the path of the text, data/enwik8.zip if none is given."""
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
      Text(arg or 'data/enwik8.zip', ByBytes(whole_characters=False)),
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
