"""The official PyTorch Transformer-XL: its state dict to ours, and back."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from lctx import presets
from lctx.interop import tables
from lctx.interop.tables import Arrays
from lctx.interop.transformer_xl_names import (
  OFFICIAL,
  RELEASED,
  Spelling,
  entries,
  tied,
)
from lctx.models.text import Decoder
from lctx.positions.xl import LearnedRelative
from lctx.types import Params

IGNORED = ('pos_emb.inv_freq', 'crit.out_layers.lm_head.weight')


def load(path: str | Path) -> Arrays:
  """Named arrays of an `.npz` or `.safetensors` file.

  Raises:
    ValueError: no such file, or another kind of file.
  """
  path = Path(path)
  if not path.is_file():
    raise ValueError(f'There is no file {path}. Give an .npz or .safetensors.')
  try:
    if path.suffix == '.npz':
      with np.load(path) as arrays:
        return dict(arrays)
    if path.suffix == '.safetensors':
      return load_file(path)
  except (zipfile.BadZipFile, SafetensorError) as error:
    raise ValueError(f'{path} is damaged: {error}. Copy it again.') from error
  raise ValueError(
    f'{path} is neither .npz nor .safetensors. A PyTorch file can run code '
    'when it is read; save its state dict as one of these two first.'
  )


def model_for(config: Mapping, arrays: Arrays) -> Decoder:
  """The model that an official config (`args` of the code) describes.

  Raises:
    ValueError: an `attn_type` that has no relative positions (2 or 3).
  """
  clamp = config['clamp_len'] if config['clamp_len'] > 0 else None
  position = None
  if config['attn_type'] == 1:
    rows = arrays['r_emb'].shape[1]
    position = LearnedRelative(rows, clamp and min(clamp, rows))
  elif config['attn_type'] != 0:
    raise ValueError(
      f'attn_type = {config["attn_type"]} has absolute positions, which do not '
      'work with memory in the published code. Types 0 and 1 are read.'
    )
  return presets.transformer_xl(
    depth=config['n_layer'],
    width=config['d_model'],
    num_heads=config['n_head'],
    head_width=config['d_head'],
    ffn_width=config['d_inner'],
    memory_length=config['mem_len'],
    same_length=config['same_length'],
    clamp=None if position else clamp,
    position=position,
    pre_norm=config['pre_lnorm'],
    per_layer_biases=_is_released(arrays),
    vocab=config['n_token'],
    embed_width=config['d_embed'],
    cutoffs=tuple(config['cutoffs']),
    div_val=config['div_val'],
    tie_weights=config['tie_weight'],
    tie_projections=tuple(config['tie_projs']),
  )


def read(arrays: Arrays, model: Decoder) -> Params:
  """Our parameters from an official state dict, for a model that fits it.

  Raises:
    ValueError: names that are missing, unexpected, of another shape, or tied
      in the model but different in the file; the first few of them listed.
  """
  spelling = RELEASED if _is_released(arrays) else OFFICIAL
  ignored = {spelling.body + name for name in IGNORED} | set(IGNORED)
  return tables.read(
    arrays,
    entries(model, spelling),
    tied(model, spelling),
    ignored.__contains__,
  )


def write(
  params: Params, model: Decoder, spelling: Spelling = OFFICIAL
) -> dict[str, np.ndarray]:
  """The official state dict of our parameters; tied names appear twice."""
  return tables.write(params, entries(model, spelling), tied(model, spelling))


def _is_released(arrays):
  return any(name.startswith(RELEASED.body) for name in arrays)
