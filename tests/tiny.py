"""Tiny models whose every parameter matters, and the ways to read with them."""

import functools
import math
import os
import re

import jax
import jax.numpy as jnp
import numpy as np

from lctx import presets
from lctx.generation.decode import append
from lctx.positions.xl import LearnedRelative
from lctx.types import EMPTY, segment_coords

# XLA_FLAGS of the suite, for programs of their own, on one device.
QUICK = re.sub(r'\S+device_count=\d+', '', os.environ['XLA_FLAGS'])

# The programs are tiny and run a few times: optimising them costs more.
quick_jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


def transformer_xl(depth=2, width=16, num_heads=2, memory_length=6, **fields):
  """The preset in a size that compiles in a second."""
  fields = {'vocab': 29, 'ffn_width': 20} | fields
  return presets.transformer_xl(
    depth, width, num_heads, memory_length, **fields
  )


@functools.cache
def large_params(model, seed=0):
  """Parameters drawn far from their start, yet activations stay near one."""
  random = np.random.default_rng(seed)
  learned = isinstance(getattr(model, 'position', None), LearnedRelative)

  def draw(path, leaf):
    name, values = path[-1].key, random.standard_normal(leaf.shape)
    if name == 'scale':
      values = 1 + values / 2
    elif name == 'span':
      values = 0.2 + 0.1 * values  # where heads' ramps meet distances
    elif name.startswith(('table', 'out_table', 'clusters')):
      values /= math.sqrt(leaf.shape[-1])
    elif 'projection' in name:
      values /= math.sqrt(leaf.shape[0])
    elif 'bias' not in name and not (learned and name == 'relative'):
      summed = leaf.shape[1:-1] if name == 'out' else leaf.shape[1:2]
      values /= math.sqrt(math.prod(summed))
    return jnp.asarray(values, jnp.float32)

  shapes = jax.eval_shape(model.init_params, jax.random.key(0))
  return jax.tree_util.tree_map_with_path(draw, shapes)


def some_ids(rows, length, vocab=29, seed=0):
  """Random token ids [rows, length]."""
  random = np.random.default_rng(seed)
  return jnp.asarray(random.integers(0, vocab, (rows, length)), jnp.int32)


def segment_of(model, params, tokens, document, carry):
  """Hidden states of one segment and the carry after it."""
  at = segment_coords(document)
  hidden, carry, _ = model.apply({'params': params}, tokens, at, carry)
  return hidden, carry


jitted_segment = quick_jit(segment_of, static_argnums=0)


def loop(model, params, tokens, lengths, document=None):
  """Hidden states [B, n, D] and the last carry, by segments, in Python."""
  document = jnp.zeros_like(tokens) if document is None else document
  carry, hidden, start = model.initial(tokens.shape[0]), [], 0
  for length in lengths:
    stop = start + length
    x, carry = jitted_segment(
      model, params, tokens[:, start:stop], document[:, start:stop], carry
    )
    hidden.append(x)
    start = stop
  assert start == tokens.shape[1]
  return jnp.concatenate(hidden, axis=1), carry


def with_memory(carry, memory):
  """A carry of equal layers with another memory."""
  return carry.replace(layers=(carry.layers[0].replace(memory=memory),))


@functools.partial(quick_jit, static_argnums=0)
def log_probs(model, params, hidden):
  return model.apply({'params': params}, hidden, method='log_probs')


def picture(seen):
  """A boolean matrix as rows of '#' and '.'."""
  return [''.join('#' if cell else '.' for cell in row) for row in seen]


@quick_jit
def decoded(reader, state, ids):
  """Nats of every token, read one at a time as generation does."""

  def one(state, tokens):
    token_B, target_B = tokens
    state = append(reader, state, token_B, EMPTY)
    return state, reader.model.apply(
      {'params': reader.params},
      state.hidden_BD[:, None],
      target_B[:, None],
      method='nll',
    )[:, 0]

  turns = ids.T[:-1], ids.T[1:]
  return jax.lax.scan(one, state, turns)[1].T
