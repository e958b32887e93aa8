"""Transformer-XL on enwik8, 24 layers, 277M parameters.

Claim: 0.99 bits per character on the test split (Dai et al. 2019, table 2),
to compare with bits per token, as in enwik8_base.py.

Data:
  wget -P data http://mattmahoney.net/dc/enwik8.zip
Run, on the TPUs or GPUs of one host; parameters are split over all:
  python train.py --config=configs/enwik8_large.py --workdir=runs/enwik8_large \
    --config.mesh.data=1 --config.mesh.fsdp=-1
"""

from lctx import (
  Adam,
  ByBytes,
  Checkpoints,
  Compute,
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
      depth=24,
      width=1024,
      num_heads=8,
      head_width=128,
      ffn_width=3072,
      memory_length=768,
      dropout=0.15,
      attention_dropout=0.15,
      compute=Compute('bfloat16', remat_layers=True),
    ),
    data=Lanes(
      Text(arg or 'data/enwik8.zip', ByBytes(whole_characters=False)),
      PublishedBytes(),
      rows=64,
      segment=768,
    ),
    optimizer=Adam(2.5e-4, Cosine(warmup=4000, shifted=False), clip=0.25),
    train=Training(steps=400_000, eval_every=4000),
    eval=Evaluation(
      segment=128,
      memory=3800,
      clamp=1000,
      same_length=True,
      rows=10,
      compare=False,
    ),
    checkpoint=Checkpoints(every=4000),
  )
