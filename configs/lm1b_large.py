"""Transformer-XL on the One Billion Word benchmark, 24 layers, 841M parameters.

Claim: 21.8 perplexity per token (words and <S>) on the test split (Dai et al.
2019, table 4).

Data: as for lm1b_base.py.
Run, on the TPUs or GPUs of one host; parameters are split over all:
  python train.py --config=configs/lm1b_large.py --workdir=runs/lm1b_large \
    --config.mesh.data=1 --config.mesh.fsdp=-1
"""

from lctx import (
  Adam,
  Checkpoints,
  Compute,
  Config,
  Cosine,
  Evaluation,
  Lanes,
  Tfds,
  Training,
  Words,
  presets,
)


def get_config(arg: str | None = None) -> Config:
  """`arg` is the word list, data/1b_word_vocab.txt by default."""
  words = arg or 'data/1b_word_vocab.txt'
  return Config(
    model=presets.transformer_xl(
      depth=24,
      width=1280,
      num_heads=16,
      ffn_width=8192,
      memory_length=32,
      dropout=0.05,
      attention_dropout=0.05,
      cutoffs=(60_000, 100_000, 640_000),
      div_val=4,
      compute=Compute('bfloat16', remat_layers=True),
    ),
    data=Lanes(
      Tfds('lm1b', joined=True),
      Words(mark='<S>', both_ends=True, unknown='<UNK>', path=words),
      rows=512,
      segment=32,
    ),
    optimizer=Adam(2.5e-4, Cosine(warmup=30_000, shifted=False), clip=0.25),
    train=Training(steps=1_200_000, eval_every=10_000),
    eval=Evaluation(
      segment=32, memory=128, same_length=True, rows=8, compare=False
    ),
    checkpoint=Checkpoints(every=5000),
  )
