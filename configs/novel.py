"""A small Transformer-XL on one long text of yours, byte by byte, on a CPU.

Claim: in minutes on two cores it writes in the manner of the book, and the
memory of the page before helps on pages it never saw.

Run:
  python train.py --config=configs/novel.py:BOOK.txt --workdir=runs/novel
  python -m lctx.generation --workdir=runs/novel --prompt='It was'
"""

from lctx import (
  Adam,
  Bytes,
  Checkpoints,
  Config,
  Cosine,
  Evaluation,
  Lanes,
  Text,
  Training,
  presets,
)


def get_config(arg: str | None = None) -> Config:
  """`arg` is the text: a file, a folder or a pattern."""
  return Config(
    model=presets.transformer_xl(
      depth=4,
      width=128,
      num_heads=4,
      memory_length=128,
      memory_dropout=0.25,
      pre_norm=True,
    ),
    data=Lanes(Text(arg or ''), Bytes(), rows=8, segment=128),
    optimizer=Adam(3e-3, Cosine(warmup=100), clip=1.0),
    train=Training(steps=2000, eval_every=500),
    eval=Evaluation(rows=8),
    checkpoint=Checkpoints(every=500),
  )
