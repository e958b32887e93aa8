"""A published model goes on with its own pretraining, on another text.

Run, NAME a folder of a published model, or one of the Hugging Face hub:
  python train.py --config=configs/published.py:NAME --workdir=runs/more \\
    --config.data.corpus=text --config.data.corpus.path=data/mine.txt
And write it back:
  python -m lctx.interop export --workdir=runs/more --like=NAME --to=mine
"""

from lctx import Config, published


def get_config(arg: str | None = None) -> Config:
  """`arg` is the model, such as EleutherAI/pythia-70m if none is given."""
  return published.find(arg or 'EleutherAI/pythia-70m').config
