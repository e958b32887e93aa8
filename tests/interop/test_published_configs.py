"""Configs as they were published are read, and have their parameters.

Sizes, options and counts are those of the models' pages.
"""

import math
from pathlib import Path

import jax
import pytest

from lctx.interop import hugging_face
from lctx.interop.options import Options
from lctx.memory import XLCache
from lctx.patterns import Causal, LayerPatterns, Window
from lctx.positions import LayerPositions, Rope

LLAMA = {
  'architectures': ['LlamaForCausalLM'],
  'model_type': 'llama',
  'hidden_act': 'silu',
  'initializer_range': 0.02,
  'bos_token_id': 1,
  'eos_token_id': 2,
  'torch_dtype': 'float16',
  'transformers_version': '4.31.0.dev0',
  'use_cache': True,
  'pretraining_tp': 1,
}
PUBLISHED = {
  'gpt2-medium': (
    354_823_168,
    {
      'architectures': ['GPT2LMHeadModel'],
      'activation_function': 'gelu_new',
      'attn_pdrop': 0.1,
      'bos_token_id': 50256,
      'embd_pdrop': 0.1,
      'eos_token_id': 50256,
      'initializer_range': 0.02,
      'layer_norm_epsilon': 1e-05,
      'model_type': 'gpt2',
      'n_ctx': 1024,
      'n_embd': 1024,
      'n_head': 16,
      'n_layer': 24,
      'n_positions': 1024,
      'n_special': 0,
      'predict_special_tokens': True,
      'resid_pdrop': 0.1,
      'summary_activation': None,
      'summary_first_dropout': 0.1,
      'summary_proj_to_labels': True,
      'summary_type': 'cls_index',
      'summary_use_proj': True,
      'task_specific_params': {'text-generation': {'max_length': 50}},
      'vocab_size': 50257,
    },
  ),
  'Llama-2-7b': (
    6_738_415_616,
    {
      **LLAMA,
      'hidden_size': 4096,
      'intermediate_size': 11008,
      'max_position_embeddings': 4096,
      'num_attention_heads': 32,
      'num_hidden_layers': 32,
      'num_key_value_heads': 32,
      'rms_norm_eps': 1e-05,
      'rope_scaling': None,
      'tie_word_embeddings': False,
      'vocab_size': 32000,
    },
  ),
  'Llama-3.1-8B': (
    8_030_261_248,
    {
      **LLAMA,
      'attention_bias': False,
      'attention_dropout': 0.0,
      'mlp_bias': False,
      'hidden_size': 4096,
      'intermediate_size': 14336,
      'max_position_embeddings': 131072,
      'num_attention_heads': 32,
      'num_hidden_layers': 32,
      'num_key_value_heads': 8,
      'rms_norm_eps': 1e-05,
      'rope_scaling': {
        'factor': 8.0,
        'low_freq_factor': 1.0,
        'high_freq_factor': 4.0,
        'original_max_position_embeddings': 8192,
        'rope_type': 'llama3',
      },
      'rope_theta': 500000.0,
      'tie_word_embeddings': False,
      'vocab_size': 128256,
    },
  ),
  'Mistral-7B-v0.1': (
    7_241_732_096,
    {
      **LLAMA,
      'architectures': ['MistralForCausalLM'],
      'model_type': 'mistral',
      'hidden_size': 4096,
      'intermediate_size': 14336,
      'max_position_embeddings': 32768,
      'num_attention_heads': 32,
      'num_hidden_layers': 32,
      'num_key_value_heads': 8,
      'rms_norm_eps': 1e-05,
      'rope_theta': 10000.0,
      'sliding_window': 4096,
      'tie_word_embeddings': False,
      'vocab_size': 32000,
    },
  ),
  'Qwen2.5-0.5B': (
    494_032_768,
    {
      **LLAMA,
      'architectures': ['Qwen2ForCausalLM'],
      'model_type': 'qwen2',
      'attention_dropout': 0.0,
      'hidden_size': 896,
      'intermediate_size': 4864,
      'max_position_embeddings': 32768,
      'max_window_layers': 24,
      'num_attention_heads': 14,
      'num_hidden_layers': 24,
      'num_key_value_heads': 2,
      'rms_norm_eps': 1e-06,
      'rope_theta': 1000000.0,
      'sliding_window': 32768,
      'tie_word_embeddings': True,
      'use_mrope': False,
      'use_sliding_window': False,
      'vocab_size': 151936,
    },
  ),
  'Qwen3-0.6B': (
    596_049_920,
    {
      **LLAMA,
      'architectures': ['Qwen3ForCausalLM'],
      'model_type': 'qwen3',
      'attention_bias': False,
      'attention_dropout': 0.0,
      'head_dim': 128,
      'hidden_size': 1024,
      'intermediate_size': 3072,
      'max_position_embeddings': 40960,
      'max_window_layers': 28,
      'num_attention_heads': 16,
      'num_hidden_layers': 28,
      'num_key_value_heads': 8,
      'rms_norm_eps': 1e-06,
      'rope_scaling': None,
      'rope_theta': 1000000,
      'sliding_window': None,
      'tie_word_embeddings': True,
      'use_sliding_window': False,
      'vocab_size': 151936,
    },
  ),
  'gemma-2b': (
    2_506_172_416,
    {
      **LLAMA,
      'architectures': ['GemmaForCausalLM'],
      'model_type': 'gemma',
      'attention_bias': False,
      'attention_dropout': 0.0,
      'head_dim': 256,
      'hidden_act': 'gelu',
      'hidden_size': 2048,
      'intermediate_size': 16384,
      'max_position_embeddings': 8192,
      'num_attention_heads': 8,
      'num_hidden_layers': 18,
      'num_key_value_heads': 1,
      'rms_norm_eps': 1e-06,
      'rope_scaling': None,
      'rope_theta': 10000.0,
      'vocab_size': 256000,
    },
  ),
  'gemma-2-2b': (
    2_614_341_888,
    {
      **LLAMA,
      'architectures': ['Gemma2ForCausalLM'],
      'model_type': 'gemma2',
      'attention_bias': False,
      'attention_dropout': 0.0,
      'attn_logit_softcapping': 50.0,
      'cache_implementation': 'hybrid',
      'final_logit_softcapping': 30.0,
      'head_dim': 256,
      'hidden_act': 'gelu_pytorch_tanh',
      'hidden_activation': 'gelu_pytorch_tanh',
      'hidden_size': 2304,
      'intermediate_size': 9216,
      'max_position_embeddings': 8192,
      'num_attention_heads': 8,
      'num_hidden_layers': 26,
      'num_key_value_heads': 4,
      'query_pre_attn_scalar': 256,
      'rms_norm_eps': 1e-06,
      'rope_theta': 10000.0,
      'sliding_window': 4096,
      'vocab_size': 256000,
    },
  ),
  'gemma-3-1b': (
    999_885_952,
    {
      'architectures': ['Gemma3ForCausalLM'],
      'attention_bias': False,
      'attention_dropout': 0.0,
      'attn_logit_softcapping': None,
      'bos_token_id': 2,
      'cache_implementation': 'hybrid',
      'eos_token_id': 1,
      'final_logit_softcapping': None,
      'head_dim': 256,
      'hidden_activation': 'gelu_pytorch_tanh',
      'hidden_size': 1152,
      'initializer_range': 0.02,
      'intermediate_size': 6912,
      'max_position_embeddings': 32768,
      'model_type': 'gemma3_text',
      'num_attention_heads': 4,
      'num_hidden_layers': 26,
      'num_key_value_heads': 1,
      'pad_token_id': 0,
      'query_pre_attn_scalar': 256,
      'rms_norm_eps': 1e-06,
      'rope_local_base_freq': 10000,
      'rope_scaling': None,
      'rope_theta': 1000000,
      'sliding_window': 512,
      'sliding_window_pattern': 6,
      'torch_dtype': 'bfloat16',
      'transformers_version': '4.50.0.dev0',
      'use_cache': True,
      'vocab_size': 262144,
    },
  ),
  'bert-base-uncased': (
    109_514_298,
    {
      'architectures': ['BertForMaskedLM'],
      'attention_probs_dropout_prob': 0.1,
      'gradient_checkpointing': False,
      'hidden_act': 'gelu',
      'hidden_dropout_prob': 0.1,
      'hidden_size': 768,
      'initializer_range': 0.02,
      'intermediate_size': 3072,
      'layer_norm_eps': 1e-12,
      'max_position_embeddings': 512,
      'model_type': 'bert',
      'num_attention_heads': 12,
      'num_hidden_layers': 12,
      'pad_token_id': 0,
      'position_embedding_type': 'absolute',
      'transformers_version': '4.6.0.dev0',
      'type_vocab_size': 2,
      'use_cache': True,
      'vocab_size': 30522,
    },
  ),
  'roberta-base': (
    124_697_433,
    {
      'architectures': ['RobertaForMaskedLM'],
      'attention_probs_dropout_prob': 0.1,
      'bos_token_id': 0,
      'eos_token_id': 2,
      'hidden_act': 'gelu',
      'hidden_dropout_prob': 0.1,
      'hidden_size': 768,
      'initializer_range': 0.02,
      'intermediate_size': 3072,
      'layer_norm_eps': 1e-05,
      'max_position_embeddings': 514,
      'model_type': 'roberta',
      'num_attention_heads': 12,
      'num_hidden_layers': 12,
      'pad_token_id': 1,
      'type_vocab_size': 1,
      'vocab_size': 50265,
    },
  ),
  'longformer-base-4096': (
    148_711_257,
    {
      'architectures': ['LongformerForMaskedLM'],
      'attention_mode': 'longformer',
      'attention_probs_dropout_prob': 0.1,
      'attention_window': [512] * 12,
      'bos_token_id': 0,
      'eos_token_id': 2,
      'gradient_checkpointing': False,
      'hidden_act': 'gelu',
      'hidden_dropout_prob': 0.1,
      'hidden_size': 768,
      'ignore_attention_mask': False,
      'initializer_range': 0.02,
      'intermediate_size': 3072,
      'layer_norm_eps': 1e-05,
      'max_position_embeddings': 4098,
      'model_type': 'longformer',
      'num_attention_heads': 12,
      'num_hidden_layers': 12,
      'pad_token_id': 1,
      'sep_token_id': 2,
      'type_vocab_size': 1,
      'vocab_size': 50265,
    },
  ),
  'bigbird-roberta-base': (  # its head of words alone
    127_520_694,
    {
      'architectures': ['BigBirdForPreTraining'],
      'attention_probs_dropout_prob': 0.1,
      'attention_type': 'block_sparse',
      'block_size': 64,
      'bos_token_id': 1,
      'eos_token_id': 2,
      'gradient_checkpointing': False,
      'hidden_act': 'gelu_new',
      'hidden_dropout_prob': 0.1,
      'hidden_size': 768,
      'initializer_range': 0.02,
      'intermediate_size': 3072,
      'layer_norm_eps': 1e-12,
      'max_position_embeddings': 4096,
      'model_type': 'big_bird',
      'num_attention_heads': 12,
      'num_hidden_layers': 12,
      'num_random_blocks': 3,
      'pad_token_id': 0,
      'position_embedding_type': 'absolute',
      'rescale_embeddings': False,
      'sep_token_id': 66,
      'transformers_version': '4.4.0.dev0',
      'type_vocab_size': 2,
      'use_bias': True,
      'use_cache': True,
      'vocab_size': 50358,
    },
  ),
  'pythia-70m': (
    70_426_624,
    {
      'architectures': ['GPTNeoXForCausalLM'],
      'bos_token_id': 0,
      'eos_token_id': 0,
      'hidden_act': 'gelu',
      'hidden_size': 512,
      'initializer_range': 0.02,
      'intermediate_size': 2048,
      'layer_norm_eps': 1e-05,
      'max_position_embeddings': 2048,
      'model_type': 'gpt_neox',
      'num_attention_heads': 8,
      'num_hidden_layers': 6,
      'rotary_emb_base': 10000,
      'rotary_pct': 0.25,
      'tie_word_embeddings': False,
      'torch_dtype': 'float16',
      'transformers_version': '4.24.0',
      'use_cache': True,
      'use_parallel_residual': True,
      'vocab_size': 50304,
    },
  ),
  'bloom-560m': (
    559_214_592,
    {
      'apply_residual_connection_post_layernorm': False,
      'architectures': ['BloomForCausalLM'],
      'attention_dropout': 0.0,
      'attention_softmax_in_fp32': True,
      'bias_dropout_fusion': True,
      'bos_token_id': 1,
      'eos_token_id': 2,
      'hidden_dropout': 0.0,
      'initializer_range': 0.02,
      'layer_norm_epsilon': 1e-05,
      'masked_softmax_fusion': True,
      'model_type': 'bloom',
      'n_embed': 1024,
      'n_inner': None,
      'n_layer': 24,
      'num_attention_heads': 16,
      'offset_alibi': 100,
      'pad_token_id': 3,
      'pretraining_tp': 1,
      'seq_length': 2048,
      'skip_bias_add': True,
      'skip_bias_add_qkv': False,
      'slow_but_exact': False,
      'unk_token_id': 0,
      'use_cache': True,
      'vocab_size': 250880,
    },
  ),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_published_config_is_read_to_its_last_parameter(name):
  count, config = PUBLISHED[name]
  read_as = hugging_face.architecture(config, Path(name))
  family = hugging_face.FAMILIES[read_as]
  model = family.model_for(Options(config, name))
  shapes = jax.eval_shape(model.init_params, jax.random.key(0))
  assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == count
  entries = {(entry.path, entry.layer) for entry in family.entries(model)}
  leaves = jax.tree_util.tree_leaves_with_path(shapes)
  names = {tuple(step.key for step in path) for path, _ in leaves}
  assert {path for path, _ in entries} == names


def test_options_are_what_they_say():
  _, config = PUBLISHED['Llama-3.1-8B']
  llama = hugging_face.FAMILIES['LlamaForCausalLM']
  model = llama.model_for(Options(config, 'here'))
  stretch = model.position.stretch
  assert model.position.base == 500_000
  assert (stretch.factor, stretch.trained, stretch.high) == (8, 8192, 4)
  _, config = PUBLISHED['Mistral-7B-v0.1']
  mistral = hugging_face.FAMILIES['MistralForCausalLM']
  assert mistral.model_for(Options(config, 'here')).pattern.before == 4095
  _, config = PUBLISHED['pythia-70m']
  neox = hugging_face.FAMILIES['GPTNeoXForCausalLM']
  assert neox.model_for(Options(config, 'here')).position.share == 0.25


def gemma_2(**options):
  _, config = PUBLISHED['gemma-2-2b']
  family = hugging_face.FAMILIES['Gemma2ForCausalLM']
  return family.model_for(Options(config | options, 'here'))


def test_windows_are_on_the_layers_that_have_them():
  model = gemma_2()
  assert model.pattern == LayerPatterns((Window(4095), Causal()))
  assert model.memory.of_layers(26)[:2] == (XLCache(4096), XLCache(8192))
  assert (model.heads.cap, model.embed.out_cap) == (50, 30)
  assert len(model.runs) == 2  # of which a scan compiles one each
  assert gemma_2(layer_types=['full_attention'] * 26).pattern == Causal()
  assert gemma_2(attn_logit_softcapping=None).heads.cap is None
  with pytest.raises(ValueError, match='zigzag'):
    gemma_2(layer_types=['zigzag'] * 26)
  _, config = PUBLISHED['gemma-3-1b']
  family = hugging_face.FAMILIES['Gemma3ForCausalLM']
  model = family.model_for(Options(config, 'here'))
  near, far = Rope(1e4), Rope(1e6)
  assert model.position == LayerPositions((near,) * 5 + (far,))
  assert [run.layers for run in model.runs][-2:] == [(5, 11, 17, 23), (24, 25)]


def test_yarn_may_be_added_beside_other_parameters():
  _, config = PUBLISHED['Qwen2.5-0.5B']
  yarn = {
    'rope_type': 'yarn',
    'factor': 4.0,
    'original_max_position_embeddings': 32768,
  }
  plain = {'rope_type': 'default', 'rope_theta': 1e6}
  config = config | {'rope_scaling': yarn, 'rope_parameters': plain}
  config.pop('rope_theta')
  family = hugging_face.FAMILIES['Qwen2ForCausalLM']
  position = family.model_for(Options(config, 'here')).position
  assert (position.base, position.stretch.factor) == (1e6, 4)
