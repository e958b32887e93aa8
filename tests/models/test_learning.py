"""Memory is learned: a value named one segment earlier is recalled.

A text is two segments. In the first, among many other values, one is named:
it comes right after NAME. The second ends with ASK, and the named value is
the answer. Without memory the answer can only be guessed.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from lctx.memory import Memory, Tokens, XLCache
from lctx.models.segments import split
from lctx.training.state import State
from lctx.training.step import Training, make_step
from lctx.types import Batch, segment_coords

VALUES, SEGMENT, ROWS = 16, 8, 64
NAME, ASK = VALUES, VALUES + 1
OPTIMISED = {'xla_backend_optimization_level': 1}
CHANCE = 1 / VALUES
CACHE, WRITTEN = XLCache(SEGMENT), Tokens(2)
STEPS = {CACHE: 550, WRITTEN: 250, Memory(): 250}  # a cache learns last


def texts(rows, seed):
  """Tokens [rows, 2 segments] and the named values."""
  random = np.random.default_rng(seed)
  tokens = random.integers(0, VALUES, (rows, 2 * SEGMENT))
  named = random.integers(0, VALUES, rows)
  place = random.integers(0, SEGMENT - 1, rows)
  tokens[np.arange(rows), place] = NAME
  tokens[np.arange(rows), place + 1] = named
  tokens[:, -1] = ASK
  return tokens.astype(np.int32), named.astype(np.int32)


def batch(step):
  """Every batch is a new text in every row; only the answer counts."""
  tokens, named = texts(ROWS, step)
  targets, weight = np.zeros_like(tokens), np.zeros(tokens.shape, np.float32)
  targets[:, -1], weight[:, -1] = named, 1
  return Batch(tokens, targets, np.full_like(tokens, step), weight)


def model_with(memory):
  model = tiny.transformer_xl(
    width=32, num_heads=4, ffn_width=64, vocab=VALUES + 2
  )
  stack = dataclasses.replace(model.stack, initializer_range=None)
  return dataclasses.replace(model, memory=memory, stack=stack)


@functools.cache
def trained(memory):
  """What is written is learned through the segment that reads it."""
  model, steps = model_with(memory), STEPS[memory]
  settings = Training(steps=steps, gradient_segments=int(memory == WRITTEN))
  schedule = optax.warmup_cosine_decay_schedule(0, 5e-3, 50, steps)
  transform = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
  params = jax.jit(model.init_params)(jax.random.key(0))
  # Each its own buffer, because the step takes them over.
  zero = functools.partial(jnp.zeros, (), jnp.int32)
  state = State(
    step=zero(),
    params=params,
    average=None,
    moments=transform.init(params),
    carry=jax.tree.map(jnp.array, model.initial(ROWS)),
    key=jax.random.key(1),
    updates=zero(),
    skipped=zero(),
  )
  step = make_step(model, transform, settings, SEGMENT)
  step = step.lower(state, batch(0)).compile(OPTIMISED)
  for i in range(steps):
    state, _ = step(state, batch(i))
  return model, state.params


@functools.partial(jax.jit, static_argnums=(0, 3))
def answers(model, params, tokens, forget):
  first, second = split(tokens, SEGMENT)
  at = segment_coords(jnp.zeros_like(first))
  variables, rows = {'params': params}, tokens.shape[0]
  _, carry, _ = model.apply(variables, first, at, model.initial(rows))
  carry = model.forget(carry, jnp.full((rows,), forget))
  hidden, _, _ = model.apply(variables, second, at, carry)
  return model.apply(variables, hidden[:, -1:], method='log_probs')[:, 0]


def accuracy(memory, forget=False):
  model, params = trained(memory)
  tokens, named = texts(2000, seed=10**6)
  return (answers(model, params, tokens, forget).argmax(axis=1) == named).mean()


@pytest.mark.slow
@pytest.mark.parametrize('memory', [CACHE, WRITTEN])
def test_a_value_named_one_segment_earlier_is_recalled_from_memory(memory):
  assert accuracy(memory) > 0.9
  assert accuracy(memory, forget=True) < 2 * CHANCE


@pytest.mark.slow
def test_a_twin_trained_without_memory_can_only_guess():
  assert accuracy(Memory()) < 2 * CHANCE
