"""Transformer-XL on WikiText-103, 18 layers, 285M parameters (paper: 257M).

Claim: 18.3 perplexity per token (words and line ends) on the test split (Dai
et al. 2019, table 1).

Data: as for wt103_base.py.
Run, on the TPUs or GPUs of one host; parameters are split over all:
  python train.py --config=configs/wt103_large.py --workdir=runs/wt103_large \
    --config.mesh.data=1 --config.mesh.fsdp=-1
"""

from lctx import (
  Adam,
  ByName,
  Checkpoints,
  Compute,
  Config,
  Cosine,
  Evaluation,
  Lanes,
  Text,
  Training,
  Words,
  presets,
)


def get_config(arg: str | None = None) -> Config:
  """`arg` is the folder of the three files, data/wikitext-103 by default."""
  return Config(
    model=presets.transformer_xl(
      depth=18,
      width=1024,
      num_heads=16,
      ffn_width=4096,
      memory_length=384,
      dropout=0.2,
      attention_dropout=0.2,
      cutoffs=(20_000, 40_000, 200_000),
      div_val=4,
      tie_projections=(False, True, True, True),
      compute=Compute('bfloat16', remat_layers=True),
    ),
    data=Lanes(
      Text(arg or 'data/wikitext-103', ByName()), Words(), rows=128, segment=384
    ),
    optimizer=Adam(2.5e-4, Cosine(warmup=16_000, shifted=False), clip=0.25),
    train=Training(steps=4_000_000, eval_every=10_000),
    eval=Evaluation(
      segment=128,
      memory=1600,
      clamp=1000,
      same_length=True,
      rows=10,
      compare=False,
    ),
    checkpoint=Checkpoints(every=4000),
  )
