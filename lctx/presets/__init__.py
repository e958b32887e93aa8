"""Published models: each is one function that picks parts."""

from lctx.presets.decoders import bloom, gemma, gpt2, gpt_neox, llama
from lctx.presets.encoder_decoders import bart, led, longt5, t5
from lctx.presets.encoders import bert, bigbird, longformer, roberta
from lctx.presets.recurrent import (
  block_recurrent,
  gated_delta,
  melodi,
  memorizing,
  remembering,
  transformer_xl,
)

__all__ = [
  'bart',
  'bert',
  'bigbird',
  'block_recurrent',
  'bloom',
  'gated_delta',
  'gemma',
  'gpt2',
  'gpt_neox',
  'led',
  'llama',
  'longformer',
  'longt5',
  'melodi',
  'memorizing',
  'remembering',
  'roberta',
  't5',
  'transformer_xl',
]
