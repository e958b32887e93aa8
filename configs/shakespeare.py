"""A small Transformer-XL on Tiny Shakespeare, byte by byte, on a CPU.

Claim: in minutes on two cores it writes speeches with names that it keeps
using, and the memory helps on scenes it never saw.

Data: data/tinyshakespeare/input.txt of github.com/karpathy/char-rnn, saved as
data/shakespeare.txt; any other text goes behind a colon, shakespeare.py:PATH.
Run:
  python train.py --config=configs/shakespeare.py --workdir=runs/shakespeare
  python -m lctx.generation --workdir=runs/shakespeare --prompt='ROMEO:'
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
  """`arg` is the path of the text, data/shakespeare.txt by default."""
  return Config(
    model=presets.transformer_xl(
      depth=4,
      width=128,
      num_heads=4,
      memory_length=128,
      dropout=0.1,  # the text is short and is read several times
      memory_dropout=0.25,
      pre_norm=True,
    ),
    data=Lanes(
      Text(arg or 'data/shakespeare.txt'),
      Bytes(),
      rows=8,
      segment=128,
    ),
    optimizer=Adam(3e-3, Cosine(warmup=100), clip=1.0),
    train=Training(steps=2000, eval_every=500),
    eval=Evaluation(rows=8),
    checkpoint=Checkpoints(every=500),
  )
