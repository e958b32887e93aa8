"""Transformer-XL on PG-19, whole books in pieces of SentencePiece, 12 layers.

Claim: near the 3.62 bits per token of `XL:512` in Hutchins et al. 2022, table
1, whose sizes, optimizer and steps these are. Their 32,000 pieces are not
ours, and their positions are T5's: compare bits per character.

Data: TFDS with `pip install -e '.[tfds]'`.
Run, on the TPUs or GPUs of one host:
  tfds build pg19 --file_format=array_record
  python train.py --config=configs/pg19_base.py --workdir=runs/pg19_base
  python eval.py --workdir=runs/pg19_base
"""

from lctx import (
  Adafactor,
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
  """`arg` is a ready SentencePiece .model; by default one is trained."""
  return Config(
    model=presets.transformer_xl(
      depth=12,
      width=1024,
      num_heads=8,
      head_width=128,
      ffn_width=4096,
      memory_length=512,
      memory_dropout=0.1,  # so that evaluating without memory means something
      pre_norm=True,
      compute=Compute('bfloat16', remat_segments=True),
    ),
    data=Lanes(
      Tfds('pg19', field='book_text'),
      SentencePiece(path=arg) if arg else SentencePiece(vocab_size=32_000),
      rows=32,
      segment=512,
      segments=8,
    ),
    optimizer=Adafactor(1e-2, Cosine(warmup=1000, final=0.1), clip=1.0),
    train=Training(steps=500_000, eval_every=5000),
    eval=Evaluation(rows=16),
    checkpoint=Checkpoints(every=5000),
  )
