"""Writes tests/golden/hf/CASE: tiny published models, and what they give.

python tests/golden/hf_cases.py [CASE ...]

It needs the extra `golden` (transformers and torch for the CPU). Every
parameter is drawn anew: default initialisation has no biases and all scales at
one, and hides a port that forgets them. Inputs are padded and of odd lengths;
expected values are float64, by the slow attention. Then what lctx writes of the
same model is read back by transformers: no name may be missing or unexpected,
and the values must be equal.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

from lctx.interop import hugging_face

FOLDER = Path(__file__).parent / 'hf'
SMALL = {'vocab_size': 61, 'bos_token_id': 1, 'eos_token_id': 2}
ROTARY = {
  **SMALL,
  'hidden_size': 24,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'max_position_embeddings': 64,
}
LLAMA = {**ROTARY, 'intermediate_size': 36, 'num_key_value_heads': 2}
NEOX = {**ROTARY, 'hidden_size': 32, 'intermediate_size': 40}


def rope(kind: str, **more) -> dict:
  return {
    'rope_parameters': {'rope_type': kind, 'rope_theta': 10_000.0, **more}
  }


CASES = {
  'gpt2': (
    'GPT2',
    {**SMALL, 'n_layer': 2, 'n_embd': 24, 'n_head': 4, 'n_positions': 64},
  ),
  'gpt2_exact': (
    'GPT2',
    {
      **SMALL,
      'n_layer': 2,
      'n_embd': 24,
      'n_head': 3,
      'n_inner': 40,
      'n_positions': 48,
      'activation_function': 'gelu',
      'layer_norm_epsilon': 1e-3,
    },
  ),
  'llama': (
    'Llama',
    {
      **LLAMA,
      'head_dim': 10,
      'rms_norm_eps': 1e-3,
      'rope_parameters': {'rope_type': 'default', 'rope_theta': 500.0},
    },
  ),
  'llama_biases_tied': (
    'Llama',
    {
      **LLAMA,
      'attention_bias': True,
      'mlp_bias': True,
      'tie_word_embeddings': True,
      'num_key_value_heads': 4,
      **rope('linear', factor=3.0),
    },
  ),
  'llama_3': (
    'Llama',
    {
      **LLAMA,
      **rope(
        'llama3',
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=16,
      ),
    },
  ),
  'llama_yarn': (
    'Llama',
    {
      **LLAMA,
      **rope('yarn', factor=4.0, original_max_position_embeddings=16),
    },
  ),
  'llama_yarn_all': (
    'Llama',
    {
      **LLAMA,
      **rope(
        'yarn',
        factor=4.0,
        original_max_position_embeddings=16,
        beta_fast=8.0,
        beta_slow=2.0,
        truncate=False,
        attention_factor=1.3,
      ),
    },
  ),
  'mistral_window': ('Mistral', {**LLAMA, 'sliding_window': 7}),
  'mistral_whole': ('Mistral', {**LLAMA, 'sliding_window': None}),
  'qwen2': ('Qwen2', LLAMA),
  'qwen2_window': (
    'Qwen2',
    {
      **LLAMA,
      'use_sliding_window': True,
      'sliding_window': 9,
      'max_window_layers': 0,
    },
  ),
  'qwen3': ('Qwen3', {**LLAMA, 'head_dim': 8, 'tie_word_embeddings': True}),
  'qwen3_biases': ('Qwen3', {**LLAMA, 'attention_bias': True}),
  'gemma': ('Gemma', {**LLAMA, 'head_dim': 8, 'attention_bias': True}),
  'gemma_2': (
    'Gemma2',
    {
      **LLAMA,
      'head_dim': 8,
      'layer_types': ['full_attention'] * 2,
      'query_pre_attn_scalar': 12,
      'attn_logit_softcapping': 2.0,
      'final_logit_softcapping': 3.0,
    },
  ),
  'gemma_2_window': (
    'Gemma2',
    {
      **LLAMA,
      'head_dim': 8,
      'layer_types': ['sliding_attention'] * 2,
      'sliding_window': 8,
    },
  ),
  'gpt_neox': ('GPTNeoX', NEOX),
  'gpt_neox_in_turn': (
    'GPTNeoX',
    {
      **NEOX,
      'use_parallel_residual': False,
      'rotary_pct': 0.5,
      'layer_norm_eps': 1e-3,
      'tie_word_embeddings': True,
    },
  ),
  'bloom': (
    'Bloom',
    {**SMALL, 'hidden_size': 24, 'n_layer': 2, 'n_head': 3},
  ),
  'bloom_untied': (
    'Bloom',
    {
      **SMALL,
      'hidden_size': 24,
      'n_layer': 2,
      'n_head': 4,
      'tie_word_embeddings': False,
      'layer_norm_epsilon': 1e-3,
    },
  ),
}


def drawn(model: torch.nn.Module, seed: int = 0) -> None:
  """Every parameter anew: scales near one, the rest near one over its root."""
  random = torch.Generator().manual_seed(seed)
  norms = {
    id(x)
    for module in model.modules()
    if 'norm' in type(module).__name__.lower()
    for name, x in module.named_parameters(recurse=False)
    if name == 'weight'
  }
  for parameter in model.parameters():
    values = torch.randn(parameter.shape, generator=random)
    if id(parameter) in norms:
      values = 1 + 0.2 * values
    elif parameter.ndim == 1:
      values = 0.2 * values
    else:
      values /= parameter.shape[-1] ** 0.5
    with torch.no_grad():
      parameter.copy_(values)


def inputs(name: str) -> dict[str, np.ndarray]:
  """Three rows of 37 tokens, the last two padded.

  By less than a window: a query of padding that sees nothing else gives no
  number, and spoils the whole row in the next layer.
  """
  ends = (37, 33, 31) if name.endswith('window') else (37, 22, 1)
  ids = np.random.default_rng(1).integers(3, 61, (3, 37))
  mask = np.arange(37)[None] < np.array(ends)[:, None]
  return {
    'input_ids': np.where(mask, ids, 0),
    'attention_mask': mask.astype(np.int64),
  }


def expected(model: torch.nn.Module, given: dict) -> np.ndarray:
  tensors = {name: torch.asarray(x) for name, x in given.items()}
  with torch.no_grad():
    return model.double()(**tensors).logits.numpy()


def write(name: str) -> None:
  kind, fields = CASES[name]
  config = getattr(transformers, f'{kind}Config')(**fields)
  config._attn_implementation = 'eager'
  suffix = 'LMHeadModel' if kind == 'GPT2' else 'ForCausalLM'
  model = getattr(transformers, f'{kind}{suffix}')(config).eval()
  drawn(model)
  folder = FOLDER / name
  model.save_pretrained(folder)
  (folder / 'generation_config.json').unlink(missing_ok=True)
  given = inputs(name)
  logits = expected(model, given)
  np.savez_compressed(
    folder / 'case.npz', **given, **{'expected/logits': logits}
  )
  print(f'{name}: logits up to {np.abs(logits).max():.1f}')
  check_read_back(folder, type(model), given, logits)


def check_read_back(folder, kind, given, logits) -> None:
  """What lctx writes, transformers reads as the same model."""
  ours = hugging_face.load(folder)
  with tempfile.TemporaryDirectory() as again:
    hugging_face.save(
      again, ours.model, ours.params, ours.architecture, like=ours.config
    )
    model, told = kind.from_pretrained(
      again, output_loading_info=True, attn_implementation='eager'
    )
  for wrong in ('missing_keys', 'unexpected_keys', 'mismatched_keys'):
    assert not told[wrong], (wrong, told[wrong])
  back = expected(model.eval(), given)
  assert np.array_equal(back, logits), np.abs(back - logits).max()


if __name__ == '__main__':
  for case in sys.argv[1:] or CASES:
    write(case)
