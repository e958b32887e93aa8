"""A published model goes on with its own pretraining, on another text.

Claim: one command trains it on by the objective it was pretrained with, and one
more writes it back as its own library reads it.

Run:
  python train.py --config=configs/published.py:NAME --workdir=runs/more
  python -m lctx.interop export --workdir=runs/more --like=NAME --to=runs/mine

NAME is the folder of a published model, or one of the Hugging Face hub, such as
EleutherAI/pythia-70m.

Segments are of 512 tokens. A BigBird sees as many as those whole, without its
blocks, and longer ones as in evaluation, without random blocks; to train it on
the pattern of its paper, drawn once, add

  --config.data.segment=4096 --config.model.pattern.seed=0
"""

from lctx import Config, published


def get_config(arg: str | None = None) -> Config:
  """`arg` is the folder, or the name on the hub."""
  if arg is None:
    raise ValueError(
      'No model is named. Write --config=configs/published.py:NAME with the '
      'folder of a published model, or its name on the Hugging Face hub.'
    )
  return published.find(arg).config
