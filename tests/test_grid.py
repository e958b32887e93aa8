"""Every position, pattern, score and kernel together obeys the same laws.

`attend` is one layer's attention: a kernel gives what the definition gives,
values and gradients; so do the queries of a later segment alone, and a single
query whose coordinates promise nothing, as decoding asks it. `read` is a whole
model of two layers: by segments, with gradients through all of them, it gives
the losses and gradients of one pass, and token by token the same losses.
Patterns that look ahead have one segment and no decoding: a token would see
what is not there yet. Blocks that are summed up end with their segment, so
they have one segment too.
"""

import dataclasses
import functools

import grid
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.generation.reading import begin
from lctx.kernels.dense import Dense
from lctx.kernels.source import Source
from lctx.memory import Layer
from lctx.models.attention import averaged
from lctx.models.parts import Compute
from lctx.models.segments import scan_segments, split
from lctx.types import segment_coords

ROWS = 2
DOCUMENT = np.zeros((ROWS, grid.LENGTH), np.int32)
DOCUMENT[1, 7:] = 1


def model_of(position, pattern, score, kernel):
  model = tiny.transformer_xl(
    num_heads=grid.HEADS, memory_length=grid.LENGTH, vocab=11
  )
  return dataclasses.replace(
    model,
    memory=grid.BESIDE.get(pattern, model.memory),
    position=grid.POSITIONS[position],
    pattern=grid.PATTERNS[pattern],
    heads=grid.SCORES[score],
    compute=Compute(kernel=kernel),
  )


@functools.partial(tiny.quick_jit, static_argnums=(0, 1))
def losses(model, segment, params, ids):
  """Nats of every token, penalties, and the gradient of their sum."""

  def loss(params):
    def one(carry, inputs):
      tokens, targets, document = inputs
      at = segment_coords(document)
      given = {'params': params}
      hidden, carry, penalty = model.apply(given, tokens, at, carry)
      nll = model.apply(given, hidden, targets, method='nll')
      return carry, (nll, penalty)

    cut = split((ids[:, :-1], ids[:, 1:], jnp.asarray(DOCUMENT)), segment)
    _, (nll, penalty) = scan_segments(
      one, model.initial(ROWS), cut, gradient_segments=len(cut[0]) - 1
    )
    return nll.sum() + penalty.mean(), jnp.concatenate(list(nll), axis=1)

  return jax.value_and_grad(loss, has_aux=True)(params)


def read(cell, close):
  *parts, kernel = cell
  model = model_of(*parts, grid.KERNELS[kernel])
  whole = model_of(*parts, Dense())
  params = tiny.large_params(model)
  ids = tiny.some_ids(ROWS, grid.LENGTH + 1, vocab=11)
  ahead, whole_only = grid.looks_ahead(parts[1]), parts[1] in grid.BESIDE
  segment = grid.LENGTH if ahead or whole_only else grid.SEGMENT
  (_, nll), grads = losses(model, segment, params, ids)
  (_, want), wanted = losses(whole, grid.LENGTH, params, ids)
  close(nll, want)
  jax.tree.map(close, grads, wanted)
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads)), 'unused'
  if not ahead:
    begun = begin(model, params, 1, segment)
    close(tiny.decoded(*begun, ids[:1]), nll[:1], 1e-4)


def drawn(params, prefix=''):
  """A `param` that draws what `params` has not yet."""

  def param(name, shape, axes, init=None):
    values = np.random.default_rng(len(params)).standard_normal(shape)
    return params.setdefault(prefix + name, np.float32(values))

  return param


def scores_of(model, sizes, params):
  """One layer's scores."""
  shared = model.position.once(drawn(params), sizes, lambda x: x)
  position = model.position.score(drawn(params), shared, sizes)
  return (position, *model.heads.scores(drawn(params), sizes))


def beside(memory, near, sizes, params):
  """All sources of a layer whose memory carries nothing."""
  param = drawn(params, 'beside_')
  x = param('x', (ROWS, grid.LENGTH, sizes.width), ())
  shape = sizes.width, sizes.key_heads, sizes.head_width
  to_k, to_v = (param(name, shape, ()) / 4 for name in ('key', 'value'))

  def project(x):
    return tuple(jnp.einsum('bsd,dnh->bsnh', x, y) for y in (to_k, to_v))

  shared = memory.once(param, sizes, lambda x: x)
  layer = Layer(
    tokens=None,
    near=near,
    x=x,
    norm=lambda x: x,
    project=project,
    queries=None,
    kernel=None,
    shared=shared,
    sizes=sizes,
  )
  return memory.sources(param, (), near, layer)


@functools.partial(tiny.quick_jit, static_argnums=(0, 1))
def attention(parts, kernel, params, arrays):
  """What comes out for all queries, the gradients, and for some queries."""
  model = model_of(*parts, kernel)
  sizes = dataclasses.replace(
    model.sizes(grid.LENGTH), distances=grid.LENGTH, ahead=model_ahead(model)
  )
  at = segment_coords(jnp.asarray(DOCUMENT))

  def attend(params, arrays, kernel, first, stop, promise=True):
    q, k, v = arrays
    q_at, k_at = at.take(first, stop), at
    if not promise:
      q_at, k_at = q_at.replace(start=None), k_at.replace(start=None)
    average = model.heads.average(sizes)
    if average is not None:
      k = jnp.concatenate([k, q.reshape(*k.shape[:3], -1)], axis=-1)
    scores = scores_of(model, sizes, dict(params))
    some = q[:, first:stop]
    near = Source(some, k, v, q_at, k_at, scores, model.pattern)
    sources = (near,)
    if memory := grid.BESIDE.get(parts[1]):
      sources = beside(memory, near, sizes, dict(params))
    if average is not None:
      sources = averaged(sources, average, sizes.head_width, kernel)
    return kernel(sources, None)

  def weighed(params, arrays):
    y = attend(params, arrays, kernel, 0, grid.LENGTH)
    return (y * jnp.cos(jnp.arange(y.size).reshape(y.shape))).sum(), y

  (_, y), grads = jax.value_and_grad(weighed, argnums=(0, 1), has_aux=True)(
    params, arrays
  )
  last = attend(params, arrays, kernel, 8, grid.LENGTH)
  single = kernel.for_decoding()
  one = attend(params, arrays, single, 10, 11, promise=False)
  return y, grads, last, one


def model_ahead(model):
  after = model.pattern.reach.after
  return grid.LENGTH - 1 if after is None else min(after, grid.LENGTH - 1)


def attend(cell, close):
  *parts, kernel = cell
  model = model_of(*parts, Dense())
  sizes = model.sizes(grid.LENGTH)
  sizes = dataclasses.replace(sizes, distances=grid.LENGTH)
  params, random = {}, np.random.default_rng(1)
  sizes = dataclasses.replace(sizes, ahead=model_ahead(model))
  scores = scores_of(model, sizes, params)
  arrays = [
    random.standard_normal((ROWS, grid.LENGTH, heads, sizes.head_width))
    for heads in (grid.HEADS, sizes.key_heads, sizes.key_heads)
  ]
  arrays = [np.float32(x) for x in arrays]
  if memory := grid.BESIDE.get(parts[1]):
    at = segment_coords(jnp.asarray(DOCUMENT))
    near = Source(*arrays, at, at, scores, model.pattern)
    beside(memory, near, sizes, params)
  kernel = grid.KERNELS[kernel]
  y, grads, last, one = attention(tuple(parts), kernel, params, arrays)
  want, wanted, *_ = attention(tuple(parts), Dense(), params, arrays)
  close(y, want)
  jax.tree.map(close, grads, wanted)
  close(last, want[:, 8:])
  close(one, want[:, 10:11])


def pytest_generate_tests(metafunc):
  """The suite has a cover, `pytest -m grid` has every cell."""
  everything = 'grid' in metafunc.config.option.markexpr.split()
  cells = {
    'test_any_two_parts_attend_together': lambda: grid.pairs(grid.KINDS),
    'test_models_of_all_parts_read_alike': lambda: grid.each(grid.READ),
    'test_every_cell_attends': lambda: grid.full() if everything else [],
    'test_every_model_reads': lambda: grid.models() if everything else [],
  }[metafunc.function.__name__]()
  metafunc.parametrize('cell', cells, ids=' | '.join)


def test_any_two_parts_attend_together(cell, close):
  attend(cell, close)


def test_models_of_all_parts_read_alike(cell, close):
  read(cell, close)


@pytest.mark.grid
def test_every_cell_attends(cell, close):
  attend(cell, close)


@pytest.mark.grid
def test_every_model_reads(cell, close):
  read(cell, close)
