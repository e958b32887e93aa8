"""Which token reaches which state: by gradient, and by changing the token.

Every position of the text has a token of its own, so that the gradient to a
row of the embedding table is the gradient to one position.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.models.segments import merge, scan_segments, split

LENGTH, SEGMENT = 12, 3


def pair(**fields):
  model = tiny.transformer_xl(vocab=2 * LENGTH, **fields)
  return model, tiny.large_params(model)


def states(model, params, tokens, gradient_segments):
  """Hidden states [B, n, D], scanned over segments."""

  def step(carry, tokens):
    document = jnp.zeros_like(tokens)
    hidden, carry = tiny.segment_of(model, params, tokens, document, carry)
    return carry, hidden

  carry, tokens = model.initial(tokens.shape[0]), split(tokens, SEGMENT)
  return merge(
    scan_segments(step, carry, tokens, gradient_segments=gradient_segments)[1]
  )


@functools.partial(tiny.quick_jit, static_argnums=(0, 2))
def by_gradient(model, params, gradient_segments=LENGTH // SEGMENT - 1):
  """[output, position]: where a gradient is not exactly zero."""
  ids = jnp.arange(LENGTH)[None]
  direction = jax.random.normal(jax.random.key(0), (model.embed.width,))

  def outputs(table):
    vocabulary = params['vocabulary'] | {'table_0': table}
    read = params | {'vocabulary': vocabulary}
    return states(model, read, ids, gradient_segments)[0] @ direction

  jacobian = jax.jacrev(outputs)(params['vocabulary']['table_0'])
  return (jacobian[:, :LENGTH] != 0).any(axis=-1)


@functools.partial(tiny.quick_jit, static_argnums=0)
def by_change(model, params):
  """[output, position]: where a state is not bit for bit what it was."""
  ids = jnp.arange(LENGTH)[None] + jnp.eye(LENGTH + 1, LENGTH, -1, int) * LENGTH
  hidden = states(model, params, ids.astype(jnp.int32), 0)
  return (hidden[1:] != hidden[:1]).any(axis=-1).T


def within(steps):
  """Positions 0 to `steps` behind each output."""
  back = np.arange(LENGTH)[:, None] - np.arange(LENGTH)[None]
  return (back >= 0) & (back <= steps)


def test_with_a_long_memory_all_that_came_before_matters_and_nothing_ahead():
  model, params = pair(memory_length=LENGTH, pre_norm=True, clamp=4)
  want = tiny.picture(within(LENGTH))
  assert tiny.picture(by_gradient(model, params)) == want
  assert tiny.picture(by_change(model, params)) == want


@pytest.mark.parametrize(
  'depth, length, fields',
  [(3, 3, {}), (2, 1, {}), (2, 4, {'pre_norm': True, 'clamp': 2})],
)
def test_same_length_reaches_one_window_less_one_per_layer(
  depth, length, fields
):
  model, params = pair(
    depth=depth, memory_length=length, same_length=True, **fields
  )
  want = tiny.picture(within(depth * (length - 1)))
  assert tiny.picture(by_gradient(model, params)) == want
  assert tiny.picture(by_change(model, params)) == want


def test_one_layer_reaches_its_memory_and_no_further():
  model, params = pair(depth=1, memory_length=4)
  want = [
    '#...........',
    '##..........',
    '###.........',
    '####........',
    '#####.......',
    '######......',
    '..#####.....',
    '..######....',
    '..#######...',
    '.....#####..',
    '.....######.',
    '.....#######',
  ]
  assert tiny.picture(by_gradient(model, params)) == want
  assert tiny.picture(by_change(model, params)) == want


@pytest.mark.parametrize('earlier', [0, 1, 3])
def test_gradients_reach_the_earlier_segments_of_a_run_only(earlier):
  model, params = pair(memory_length=LENGTH)
  run = np.arange(LENGTH) // (SEGMENT * (earlier + 1))
  want = within(LENGTH) & (run[:, None] == run[None])
  assert tiny.picture(by_gradient(model, params, earlier)) == tiny.picture(want)
  everything = tiny.picture(within(LENGTH))
  assert tiny.picture(by_change(model, params)) == everything


def loss_of(hidden):
  weights = jax.random.normal(jax.random.key(1), hidden.shape)
  return (hidden * weights).sum()


def looped(model, params, ids, detached):
  carry, hidden = model.initial(ids.shape[0]), []
  for start in range(0, LENGTH, SEGMENT):
    if start in detached:
      carry = jax.lax.stop_gradient(carry)
    tokens = ids[:, start : start + SEGMENT]
    document = jnp.zeros_like(tokens)
    states, carry = tiny.segment_of(model, params, tokens, document, carry)
    hidden.append(states)
  return loss_of(jnp.concatenate(hidden, axis=1))


@pytest.mark.parametrize('earlier, detached', [(1, (6,)), (3, ())])
def test_a_run_is_differentiated_like_a_loop_cut_at_the_same_borders(
  earlier, detached, close
):
  model, params = pair(memory_length=5)
  ids = tiny.some_ids(2, LENGTH, model.embed.vocab)

  @tiny.quick_jit
  def both(params):
    scan = jax.grad(
      lambda params: loss_of(states(model, params, ids, earlier))
    )(params)
    return scan, jax.grad(lambda p: looped(model, p, ids, detached))(params)

  jax.tree.map(close, *both(params))
