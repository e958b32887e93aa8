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
SEQUENCE = 'ForSequenceClassification'
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


ENCODER = {
  'vocab_size': 61,
  'hidden_size': 24,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'intermediate_size': 36,
  'max_position_embeddings': 64,
}
T5 = {
  'vocab_size': 61,
  'd_model': 24,
  'd_kv': 10,
  'd_ff': 36,
  'num_layers': 2,
  'num_heads': 4,
  'relative_attention_num_buckets': 16,
  'relative_attention_max_distance': 30,
  'decoder_start_token_id': 0,
}
LONGT5 = {**T5, 'feed_forward_proj': 'gated-gelu', 'local_radius': 5}
BART = {
  'vocab_size': 61,
  'd_model': 24,
  'encoder_layers': 2,
  'decoder_layers': 3,
  'encoder_attention_heads': 4,
  'decoder_attention_heads': 3,
  'encoder_ffn_dim': 36,
  'decoder_ffn_dim': 40,
}
LED = {
  'attention_window': [4, 10],
  'max_encoder_position_embeddings': 40,
  'max_decoder_position_embeddings': 30,
}
WRITES = 'ForConditionalGeneration'
LONGFORMER = {**ENCODER, 'attention_window': 6, 'sep_token_id': 2}
BLOCKS = {**ENCODER, 'attention_type': 'block_sparse', 'block_size': 4}
LENGTHS = {'big_bird_whole_blocks': 40}  # of all others: 37


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
  **{  # rows have 37 tokens: these are read as short, and as long
    f'llama_dynamic_{length}': (
      'Llama',
      {
        **LLAMA,
        'max_position_embeddings': trained,
        **rope('dynamic', factor=4.0, rope_theta=100.0),
      },
    )
    for length, trained in (('short', 48), ('long', 32))
  },
  **{
    f'llama_longrope_{length}': (
      'Llama',
      {
        **LLAMA,
        **rope(
          'longrope',
          rope_theta=100.0,
          short_factor=[1.0, 1.5, 2.5],
          long_factor=[1.5, 4.0, 9.0],
          **more,
        ),
      },
    )
    for length, more in (
      ('short', {'original_max_position_embeddings': 48}),
      ('long', {'original_max_position_embeddings': 16, 'factor': 3.0}),
    )
  },
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
  'gemma_2_in_turn': (
    'Gemma2',
    {
      **LLAMA,
      'num_hidden_layers': 5,
      'head_dim': 8,
      'sliding_window': 8,
    },
  ),
  'gemma_3_window': (
    'Gemma3',
    {
      **LLAMA,
      'num_hidden_layers': 7,
      'head_dim': 8,
      'query_pre_attn_scalar': 12,
      'layer_types': [
        'full_attention' if i % 3 == 2 else 'sliding_attention'
        for i in range(7)
      ],
      'sliding_window': 8,
      'rope_parameters': {
        'full_attention': {
          'rope_type': 'linear',
          'factor': 8.0,
          'rope_theta': 1e6,
        },
        'sliding_attention': {'rope_type': 'default', 'rope_theta': 1e4},
      },
    },
  ),
  'qwen2_first_layers': (
    'Qwen2',
    {
      **LLAMA,
      'num_hidden_layers': 3,
      'use_sliding_window': True,
      'sliding_window': 9,
      'max_window_layers': 1,
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
  't5': ('T5', T5, WRITES),
  't5_gated': (
    'T5',
    {
      **T5,
      'feed_forward_proj': 'gated-gelu',
      'num_decoder_layers': 3,
      'layer_norm_epsilon': 1e-3,
      'tie_word_embeddings': False,
    },
    WRITES,
  ),
  't5_encoder': ('T5', {**T5, 'feed_forward_proj': 'gelu'}, 'EncoderModel'),
  't5_model': ('T5', T5, 'Model'),
  't5_texts': ('T5', {**T5, 'num_labels': 3}, SEQUENCE),
  't5_tokens': ('T5', {**T5, 'num_labels': 5}, 'ForTokenClassification'),
  't5_span': ('T5', T5, 'ForQuestionAnswering'),
  'longt5_local': ('LongT5', LONGT5, WRITES),
  'longt5_global': (
    'LongT5',
    {
      **LONGT5,
      'encoder_attention_type': 'transient-global',
      'global_block_size': 4,
      'tie_word_embeddings': False,
    },
    WRITES,
  ),
  'longt5_model': (
    'LongT5',
    {**LONGT5, 'encoder_attention_type': 'transient-global'},
    'Model',
  ),
  'bart': ('Bart', {**BART, 'max_position_embeddings': 40}, WRITES),
  'bart_model': ('Bart', {**BART, 'max_position_embeddings': 40}, 'Model'),
  'bart_scaled': (
    'Bart',
    {**BART, 'scale_embedding': True, 'activation_function': 'relu'},
    WRITES,
  ),
  'bart_texts': ('Bart', BART, SEQUENCE),
  'bart_span': ('Bart', BART, 'ForQuestionAnswering'),
  'led': (
    'LED',
    {**BART, **LED},
    WRITES,
  ),
  'led_model': ('LED', {**BART, **LED}, 'Model'),
  'bert': ('Bert', ENCODER, 'ForMaskedLM'),
  'bert_model': (
    'Bert',
    {**ENCODER, 'type_vocab_size': 3, 'layer_norm_eps': 1e-3},
    'Model',
  ),
  'bert_texts': ('Bert', {**ENCODER, 'num_labels': 3}, SEQUENCE),
  'bert_tokens': (
    'Bert',
    {**ENCODER, 'num_labels': 5, 'hidden_act': 'gelu_new'},
    'ForTokenClassification',
  ),
  'bert_span': ('Bert', ENCODER, 'ForQuestionAnswering'),
  'roberta': ('Roberta', {**ENCODER, 'hidden_act': 'relu'}, 'ForMaskedLM'),
  'roberta_number': (
    'Roberta',
    {**ENCODER, 'type_vocab_size': 1, 'num_labels': 1},
    SEQUENCE,
  ),
  'longformer': (
    'Longformer',
    {**LONGFORMER, 'attention_window': [4, 10]},
    'ForMaskedLM',
  ),
  'longformer_model': (
    'Longformer',
    {**LONGFORMER, 'type_vocab_size': 1},
    'Model',
  ),
  'longformer_texts': ('Longformer', LONGFORMER, SEQUENCE),
  'longformer_tokens': ('Longformer', LONGFORMER, 'ForTokenClassification'),
  'longformer_span': ('Longformer', LONGFORMER, 'ForQuestionAnswering'),
  'big_bird': (
    'BigBird',
    {**ENCODER, 'attention_type': 'original_full', 'rescale_embeddings': True},
    'ForMaskedLM',
  ),
  'big_bird_texts': (
    'BigBird',
    {**ENCODER, 'attention_type': 'original_full', 'use_bias': False},
    SEQUENCE,
  ),
  'big_bird_sparse': ('BigBird', {**BLOCKS, 'num_random_blocks': 2}, 'Model'),
  'big_bird_whole_blocks': (
    'BigBird',
    {**BLOCKS, 'num_random_blocks': 1, 'use_bias': False},
    'ForMaskedLM',
  ),
  'big_bird_short': (  # of as many blocks as it would see
    'BigBird',
    {**BLOCKS, 'num_random_blocks': 3, 'hidden_act': 'relu', 'num_labels': 3},
    SEQUENCE,
  ),
  'big_bird_span': (
    'BigBird',
    {**BLOCKS, 'num_random_blocks': 2, 'sep_token_id': 2},
    'ForQuestionAnswering',
  ),
}
ONE, KINDS = {'num_hidden_layers': 1}, ('sliding', 'full')
GEMMA_3 = {**CASES['gemma_3_window'][1], 'num_hidden_layers': 2}
GEMMA_3['layer_types'] = [f'{kind}_attention' for kind in KINDS]
DECODERS = {  # their bodies have cases of their own
  'gpt2': ('GPT2', {**CASES['gpt2'][1], 'n_layer': 1}),
  'llama': ('Llama', {**LLAMA, **ONE}),
  'mistral': ('Mistral', {**LLAMA, **ONE, 'sliding_window': 7}),
  'qwen2': ('Qwen2', {**LLAMA, **ONE}),
  'qwen3': ('Qwen3', {**LLAMA, **ONE, 'head_dim': 8}),
  'gemma': ('Gemma', {**LLAMA, **ONE, 'head_dim': 8}),
  'gemma_2': CASES['gemma_2'],
  'gemma_3': ('Gemma3Text', GEMMA_3),
  'gpt_neox': ('GPTNeoX', {**NEOX, **ONE}),
  'bloom': ('Bloom', {**CASES['bloom'][1], 'n_layer': 1}),
}
CLASSIFIERS = {
  f'{name}_texts': (
    kind,
    {**fields, 'num_labels': 3, 'pad_token_id': 0},
    SEQUENCE,
  )
  for name, (kind, fields) in DECODERS.items()
}
CASES |= CLASSIFIERS
CASES |= {f'{name}_model': (*x, 'Model') for name, x in DECODERS.items()}


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
  biases = [x for name, x in model.named_buffers() if 'bias' in name]
  for parameter in (*model.parameters(), *biases):
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
  """Three rows of 37 tokens, or as long as it says, the last two padded.

  By less than a window: a query of padding that sees nothing else gives no
  number, and spoils the whole row in the next layer.
  """
  random = np.random.default_rng(1)
  windowed = CASES[name][1].get('sliding_window')
  length = LENGTHS.get(name, 37)
  ends = (length, 33, 31) if windowed else (length, 22, 1)
  ids = random.integers(3, 61, (3, length))
  mask = np.arange(length)[None] < np.array(ends)[:, None]
  kind = CASES[name][0]
  pad = {'Roberta': 1, 'Longformer': 1, 'Bart': 1, 'LED': 1}.get(kind, 0)
  found = {
    'input_ids': np.where(mask, ids, pad),
    'attention_mask': mask.astype(np.int64),
  }
  if kind in ENCODERS:
    types = CASES[name][1].get('type_vocab_size', 2)
    found['token_type_ids'] = random.integers(0, types, (3, length))
  alone = 't5_encoder', 't5_tokens'
  if kind in ('Bart', 'LED', 'T5', 'LongT5') and name not in alone:
    found['decoder_input_ids'] = random.integers(3, 61, (3, 19))
  if name in ('bart_texts', 't5_texts'):
    del found['decoder_input_ids']  # they have a rule of their own
    end = 2 if name == 'bart_texts' else 1
    found['input_ids'][np.arange(3), np.array(ends) - 1] = end
  if name in CLASSIFIERS:
    found['input_ids'][0, [10, 36]] = pad  # read, but for the last it is not
  if kind in ('Longformer', 'LED'):
    is_global = np.zeros((3, 37), np.int64)  # of row 2: none
    is_global[0, [0, 3, 4, 20, 36]] = is_global[1, 0] = 1
    found['global_attention_mask'] = is_global
  if name in ('longformer_texts', 'longformer_span'):
    del found['global_attention_mask']  # they have rules of their own
    found['input_ids'][:, [5, 9, 30]] = 2  # three end marks
    found['input_ids'][2, [0, 5, 9, 30]] = 2, 1, 1, 1
    found['input_ids'][2, :3] = 2
    found['attention_mask'][2, :3] = 1
    found['attention_mask'][1, 22:31] = 1
  if name == 'big_bird_span':
    del found['token_type_ids']  # it has a rule of its own
    found['input_ids'][[0, 0, 1, 1], [5, 20, 9, 21]] = 2
  return found


ENCODERS = 'Bert', 'Roberta', 'Longformer', 'BigBird'
FIELDS = (
  *('logits', 'start_logits', 'end_logits'),
  *('last_hidden_state', 'pooler_output', 'encoder_last_hidden_state'),
)


def expected(model: torch.nn.Module, given: dict) -> dict[str, np.ndarray]:
  tensors = {name: torch.asarray(x) for name, x in given.items()}
  with torch.no_grad():
    found = model.double()(**tensors)
  return {x: found[x].numpy() for x in FIELDS if x in found}


def write(name: str) -> None:
  kind, fields, *head = CASES[name]
  text = 'Text' if kind == 'Gemma3' else ''
  config = getattr(transformers, f'{kind}{text}Config')(**fields)
  config._attn_implementation = 'eager'
  usual = 'LMHeadModel' if kind == 'GPT2' else 'ForCausalLM'
  (head,) = head or [usual]
  model = getattr(transformers, f'{kind}{head}')(config).eval()
  drawn(model)
  folder = FOLDER / name
  model.save_pretrained(folder)
  (folder / 'generation_config.json').unlink(missing_ok=True)
  given = inputs(name)
  values = expected(model, given)
  saved = {f'expected/{field}': x for field, x in values.items()}
  np.savez_compressed(folder / 'case.npz', **given, **saved)
  largest = {field: np.abs(x).max().round(1) for field, x in values.items()}
  print(f'{name}: up to {largest}')
  check_read_back(folder, type(model), given, values)


def check_read_back(folder, kind, given, values) -> None:
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
  for field, value in values.items():
    worst = np.abs(back[field] - value).max()
    assert np.array_equal(back[field], value), (field, worst)


if __name__ == '__main__':
  for case in sys.argv[1:] or CASES:
    write(case)
