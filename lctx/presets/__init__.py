"""Published models: each is one function that picks parts."""

from lctx.presets.decoders import bloom, gemma, gpt2, gpt_neox, llama
from lctx.presets.recurrent import (
  block_recurrent,
  gated_delta,
  melodi,
  memorizing,
  remembering,
  transformer_xl,
)

__all__ = [
  'block_recurrent',
  'bloom',
  'gated_delta',
  'gemma',
  'gpt2',
  'gpt_neox',
  'llama',
  'melodi',
  'memorizing',
  'remembering',
  'transformer_xl',
]
