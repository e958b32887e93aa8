"""Transformer-XL on the One Billion Word benchmark, 18 layers, 358M parameters.

Claim: 23.5 perplexity per token (words and <S>) on the test split (Dai et al.
2019, table 4, with 0.46B parameters; these are the sizes of the published
script, which are smaller).

Data: TFDS with `pip install -e '.[tfds]'`, and the benchmark's word list
1b_word_vocab.txt in data/.
Run:
  tfds build lm1b --file_format=array_record
  python train.py --config=configs/lm1b_base.py --workdir=runs/lm1b_base
  python eval.py --workdir=runs/lm1b_base
"""

from lctx import (
  Adam,
  Checkpoints,
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
      depth=18,
      width=1024,
      num_heads=8,
      head_width=128,
      ffn_width=4096,
      memory_length=32,
      cutoffs=(60_000, 100_000, 640_000),
      div_val=4,
    ),
    data=Lanes(
      Tfds('lm1b', joined=True),
      Words(mark='<S>', both_ends=True, unknown='<UNK>', path=words),
      rows=224,
      segment=32,
    ),
    optimizer=Adam(2.5e-4, Cosine(warmup=20_000, shifted=False), clip=0.25),
    train=Training(steps=500_000, eval_every=10_000),
    eval=Evaluation(
      segment=32, memory=128, same_length=True, rows=64, compare=False
    ),
    checkpoint=Checkpoints(every=5000),
  )
