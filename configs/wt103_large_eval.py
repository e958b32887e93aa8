"""The released `transfo-xl-wt103` weights, evaluated; nothing is trained.

Claim: 18.3 perplexity per token on the test split (Dai et al. 2019, table 1).

Data: as for wt103_base.py, and the state dict of the release as .safetensors
or .npz. Ids are a word's rank in wiki.train.tokens after <eos>, as there; a
perplexity in the thousands means other ids. Then write the release's words
to a file, one a line in order, and add --config.data.tokenizer.path=THAT.
Run:
  python -m lctx.imported --weights=transfo-xl-wt103.safetensors \
    --config=configs/wt103_large_eval.py --workdir=runs/wt103_released && \
  python eval.py --workdir=runs/wt103_released
"""

from lctx import (
  Adam,
  ByName,
  Config,
  Evaluation,
  Lanes,
  Text,
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
      per_layer_biases=True,  # of the release; the PyTorch code shares them
      dropout=0.2,
      attention_dropout=0.2,
      cutoffs=(20_000, 40_000, 200_000),
      div_val=4,
      tie_projections=(False, True, True, True),
    ),
    data=Lanes(
      Text(arg or 'data/wikitext-103', ByName()), Words(), rows=10, segment=384
    ),
    optimizer=Adam(),
    eval=Evaluation(
      segment=128,
      memory=1600,
      clamp=1000,
      same_length=True,
      rows=10,
      compare=False,
    ),
  )
