"""Transformer-XL on WikiText-103, 16 layers, 151M parameters.

Claim: 24.0 perplexity per token (words and line ends) on the test split (Dai
et al. 2019, table 1).

Data: wikitext-103-v1.zip, unpacked; data/wikitext-103 then holds
  wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens.
Run:
  python train.py --config=configs/wt103_base.py --workdir=runs/wt103_base
  python eval.py --workdir=runs/wt103_base
"""

from lctx import (
  Adam,
  ByName,
  Checkpoints,
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
      depth=16,
      width=410,
      num_heads=10,
      head_width=41,
      ffn_width=2100,
      memory_length=150,
      dropout=0.1,
      cutoffs=(20_000, 40_000, 200_000),
    ),
    data=Lanes(
      Text(arg or 'data/wikitext-103', ByName()), Words(), rows=60, segment=150
    ),
    optimizer=Adam(2.5e-4, Cosine(shifted=False), clip=0.25),
    train=Training(steps=200_000, eval_every=4000),
    eval=Evaluation(
      segment=64,
      memory=640,
      clamp=400,
      same_length=True,
      rows=10,
      compare=False,
    ),
    checkpoint=Checkpoints(every=4000),
  )
