"""What the equations of single memories imply."""

import dataclasses
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import tiny
from test_equations import MEMORIES, SEGMENT, model_with

from lctx.errors import UserError
from lctx.generation import decode, reading
from lctx.kernels import choose
from lctx.memory import (
  Associative,
  Compressive,
  Conv,
  DenseRetrieval,
  Dual,
  ElementGate,
  FullGate,
  GatedDelta,
  GatedLinear,
  HeadGate,
  Held,
  Infini,
  LongMemory,
  LstmGate,
  Melodi,
  Memory,
  OnLayers,
  Retrieval,
  Segment,
  SinkCache,
  StateCell,
  Together,
  Tokens,
  XLCache,
  combine,
  retrieval,
)
from lctx.memory.associative import recalled, rewritten
from lctx.memory.base import Layer
from lctx.memory.chunks import Inputs, chunk_of, inverted
from lctx.memory.infini import features
from lctx.memory.infini import recalled as mean_of_past
from lctx.models.heads import Heads
from lctx.models.parts import Compute
from lctx.models.segments import scan_segments, split
from lctx.positions import Alibi, NoPosition, Rope
from lctx.types import segment_coords

N, H, D = 2, 4, 8
EVERY = {n: m for n, (m, _) in MEMORIES.items()} | {'xl': XLCache(SEGMENT)}


def normal(seed, *shape):
  values = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(values, jnp.float32)


class Part:
  """A layer of random projections, for memories that ask one."""

  def __init__(self, memory):
    model = dataclasses.replace(
      tiny.transformer_xl(width=D, num_heads=N, head_width=H), memory=memory
    )
    self.memory, self.sizes = memory, model.sizes(6)
    self.made = {}

  def param(self, name, shape, axes, init=None):
    if name not in self.made:  # no part of any program
      random = np.random.default_rng(len(self.made) + 1)
      scale = shape[0] ** 0.5 if len(shape) > 1 else 1
      self.made[name] = np.float32(random.standard_normal(shape) / scale)
    return jnp.asarray(self.made[name])

  def projected(self, name, x):
    kernel = self.param(name, (D, N, H), ())
    return jnp.einsum('btd,dnh->btnh', x, kernel)

  def read(self, x, document):
    """The tokens of a stretch, and the layer that has read them."""
    k, v = self.projected('k', x), self.projected('v', x)
    tokens = Segment(x, k, v, x, segment_coords(document))
    layer = Layer(
      tokens=tokens,
      near=None,
      x=x,
      norm=lambda x: x,
      project=None,
      queries=lambda x: self.projected('q', x) * H**-0.5,
      kernel=None,
      shared=None,
      sizes=self.sizes,
    )
    return tokens, layer


def test_infini_recalls_the_mean_of_all_values_weighted_by_its_kernel(close):
  part = Part(Infini())
  x, document = normal(0, 2, 12, D), jnp.zeros((2, 12), jnp.int32)
  carry = part.memory.initial(2, part.sizes, jnp.float32)
  for start in range(0, 12, 4):
    now = slice(start, start + 4)
    tokens, layer = part.read(x[:, now], document[:, now])
    carry, _ = part.memory.write(part.param, carry, tokens, layer)
  q = normal(9, 2, 3, N, H)
  got = mean_of_past(*carry.states, features(q))
  k, v = part.projected('k', x), part.projected('v', x)
  weight = jnp.einsum('btnh,bsnh->bnts', features(q), features(k))
  want = jnp.einsum(
    'bnts,bsnh->btnh', weight / weight.sum(axis=-1, keepdims=True), v
  )
  close(got, want)


def test_the_delta_rule_writes_the_same_pair_once(close):
  part = Part(Infini(delta=True))
  carry = part.memory.initial(1, part.sizes, jnp.float32)
  tokens, layer = part.read(normal(0, 1, 1, D), jnp.zeros((1, 1), jnp.int32))
  once, _ = part.memory.write(part.param, carry, tokens, layer)
  twice, _ = part.memory.write(part.param, once, tokens, layer)
  close(twice.states[0], once.states[0])
  assert np.abs(once.states[0]).max() > 0.1
  linear = Part(Infini())
  once, _ = linear.memory.write(linear.param, carry, tokens, layer)
  twice, _ = linear.memory.write(linear.param, once, tokens, layer)
  close(twice.states[0], 2 * once.states[0])


@pytest.mark.parametrize('size', [1, 2, 5, 16])
def test_triangles_are_inverted_and_so_are_their_changes(size, close):
  lower, change, given = (normal(i, 3, size, size) / 2 for i in range(3))

  def inverse(x):
    return np.linalg.inv(np.eye(size) + np.tril(x, -1))

  got, moved = jax.jvp(inverted, (lower,), (change,))
  close(got, inverse(np.float64(lower)))
  step = 1e-30 * np.complex128(change * 1j)
  close(moved, inverse(lower + step).imag / 1e-30)
  _, back = jax.vjp(inverted, lower)
  close(np.vdot(back(given)[0], change), np.vdot(given, moved))


@pytest.mark.parametrize('strong', [-50.3, -1e9])
def test_what_follows_a_strong_decay_keeps_its_digits(strong, close):
  """Token by token, where the first half of a chunk forgets all."""
  q, k, v = (np.float64(normal(i, 1, 32, 1, H)) for i in range(3))
  k /= np.linalg.norm(k, axis=-1, keepdims=True)
  decay, strength = np.full((1, 32, 1), -0.6), np.full((1, 32, 1), 0.5)
  decay[:, :16] = strong
  inputs = map(jnp.float32, (q, k, v, decay, strength))
  chunk = chunk_of(
    Inputs(*inputs, jnp.zeros((1, 32), jnp.int32)), GatedDelta().correct
  )
  _, got = chunk.read(jnp.zeros((1, 1, H, H)), jnp.zeros(1, jnp.int32))
  state, want = np.zeros((H, H)), []
  for t in range(32):
    state = np.exp(decay[0, t]) * state
    known = k[0, t, 0] @ state
    state += strength[0, t] * np.outer(k[0, t, 0], v[0, t, 0] - known)
    want.append(q[0, t, 0] @ state)
  close(got[0, :, 0], np.array(want), 1e-6)


def test_an_association_that_is_written_anew_recalls_the_new_value(close):
  k = jnp.abs(normal(0, 1, 1, 6))
  old, new = normal(1, 1, 1, D), normal(2, 1, 1, D)
  strength = jnp.ones((1, 1))
  empty = jnp.zeros((1, 6, D)), jnp.zeros((1, 6))
  first = rewritten(*empty, k, old, strength)
  close(recalled(*first, k), old)
  matrix, z = rewritten(*first, k, new, strength)
  close(recalled(matrix, z, k), new)
  close(z, first[1])  # the key was known


AFFINE = {
  'infini': Infini(),
  'infini, delta': Infini(delta=True),
  'gated delta': GatedDelta(chunk=3),
  'gated linear': GatedLinear(chunk=4),
}


combined = tiny.quick_jit(combine)


@functools.cache
def affine_part(name):
  return Part(AFFINE[name])


@functools.partial(tiny.quick_jit, static_argnums=0)
def stretch(part, carry, x, document):
  """What a stretch does to any state, and the carry after it."""
  memory, (tokens, layer) = part.memory, part.read(x, document)
  update = memory.summarise(part.param, tokens, carry, layer)
  if isinstance(memory, GatedDelta):
    y = jnp.zeros((*document.shape, N, H))
    _, carry = memory.mix(part.param, carry, y, layer)
  return update, memory.write(part.param, carry, tokens, layer)[0]


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('name', AFFINE)
def test_stretches_combine_in_any_order_to_what_one_after_the_other_did(
  name, seed, close
):
  """With documents that begin anywhere, and slots that hold nothing."""
  part, random = affine_part(name), np.random.default_rng(seed)
  memory, sizes, length = part.memory, part.sizes, 24
  x = normal(seed, 2, length, D)
  document = np.sort(random.integers(0, 3, (2, length)), axis=1)
  document[0, : random.integers(0, 9)] = -1
  document[1, length - random.integers(0, 9) :] = -1
  cuts = 0, 1, 6, 7, 12, 21, length  # documents begin on either side of them
  carry = memory.initial(2, sizes, jnp.float32)
  updates, start = [], carry
  for begin, end in itertools.pairwise(cuts):
    now = jnp.asarray(document[:, begin:end], jnp.int32)
    update, carry = stretch(part, carry, x[:, begin:end], now)
    updates.append(update)
  while len(updates) > 1:
    i = random.integers(len(updates) - 1)
    updates[i : i + 2] = [combined(*updates[i : i + 2])]
  held, want = start, carry
  while not isinstance(held, Held):
    held, want = held[0], want[0]
  got = updates[0].of(held.states, held.at.document[:, -1])
  jax.tree.map(close, got, want.states)
  np.testing.assert_array_equal(
    updates[0].last(held.at.document[:, -1]), want.at.document[:, -1]
  )
  assert min(np.abs(x).max() for x in want.states) > 1e-3


def test_a_retrieved_set_is_the_best_by_any_turns(close):
  batch, slots = 2, 40
  q, k, v = (
    normal(0, 2, 7, N, H),
    normal(1, 2, slots, N, H),
    normal(2, 2, slots, N, H),
  )
  seen = jnp.asarray(np.random.default_rng(0).random((2, 7, slots)) < 0.4)
  got = retrieval.nearest(q, k, v, seen, 5)
  want = np.zeros(q.shape)
  for b, t, n in np.ndindex(batch, 7, N):
    there = np.flatnonzero(seen[b, t])
    logits = np.asarray(k[b, there, n] @ q[b, t, n], np.float64)
    best = np.argsort(-logits)[:5]
    weight = np.exp(logits[best])
    want[b, t, n] = weight @ v[b, there[best], n] / weight.sum()
  close(got, want)
  turns = retrieval._in_turns(
    lambda q, seen: retrieval.nearest(q, k, v, seen, 5), (q, seen), 3
  )
  close(turns, want)


def test_sinks_stay_the_masked_quadratic_reference_long_after_wrap_around(
  close,
):
  model = model_with(SinkCache(7, 2))
  params, count = tiny.large_params(model), 15
  ids = tiny.some_ids(1, count * SEGMENT)
  got, _ = tiny.loop(model, params, ids, [SEGMENT] * count)
  wide = jax.tree.map(np.asarray, params)
  want = oracle.hidden(wide, oracle.Sinks, np.split(np.asarray(ids)[0], count))
  close(got[0], want)


def shallow(memory):
  """Of one layer, where none differs, or sees something through another."""
  model = model_with(memory)
  if isinstance(memory, (OnLayers, Melodi, XLCache, SinkCache)):
    return model
  return dataclasses.replace(
    model, stack=dataclasses.replace(model.stack, depth=1)
  )


def grad_of_tables(name, gradient_segments, count=4):
  """A function of `begins`: the gradient of the last segment's loss.

  By which segment's tokens; a second document begins with segment `begins`.
  """
  model = shallow(EVERY[name])
  embed = dataclasses.replace(model.embed, tie_weights=False)
  model = dataclasses.replace(model, embed=embed)
  params = tiny.large_params(model)
  each = 29 // count
  segment = jnp.arange(count * SEGMENT)[None] // SEGMENT
  tokens = jnp.arange(count * SEGMENT)[None] % SEGMENT % each + each * segment

  @tiny.quick_jit
  def grad(params, document):
    def loss(tables):
      given = {'params': params | {'vocabulary': tables}}

      def one(carry, inputs):
        tokens, document = inputs
        at = segment_coords(document)
        hidden, carry, _ = model.apply(given, tokens, at, carry)
        return carry, jnp.square(hidden).sum()

      parts, start = split((tokens, document), SEGMENT), model.initial(1)
      sums = scan_segments(
        one, start, parts, gradient_segments=gradient_segments
      )[1]
      return sums[-1]

    return jax.grad(loss)(params['vocabulary'])

  def of(begins):
    document = (segment >= begins).astype(jnp.int32)
    table = grad(params, document)['table_0']
    rows = (table[each * s : each * (s + 1)] for s in range(count))
    return [float(np.abs(x).max()) for x in rows]

  return of


FREE = 'none', 'retrieval', 'dense retrieval'  # of gradients from before
CACHES = 'xl', 'sinks'
# They differ from others in what a closed segment becomes, not in its reach.
VARIANTS = 'mean', 'max', 'dilated conv', 'infini, lstm', 'cell, dual'
FLOWS = [x for x in EVERY if x not in (*FREE, *VARIANTS, 'cell, single')]


@pytest.mark.parametrize('name', FLOWS)
def test_gradients_reach_as_many_segments_as_are_asked_for(name):
  """And not one more: k2 of Recurrent Memory Transformers truncates.

  Over more borders than there are layers, so through states that are carried
  on. A cache of a segment is seen by a layer from the next segment alone. None
  reaches another document.
  """
  grad = grad_of_tables(name, gradient_segments=3, count=8)
  *before, last = grad(begins=0)
  reach = 2 if name in CACHES else 3
  assert before[:4] == [0] * 4 and min(before[-reach:]) > 1e-9 and last > 1e-3
  *before, last = grad(begins=7)
  assert before == [0] * 7 and last > 1e-3


@pytest.mark.parametrize('name', ['retrieval', 'dense retrieval'])
def test_no_gradient_reaches_what_is_retrieved(name):
  *before, last = grad_of_tables(name, gradient_segments=3)(begins=0)
  assert before == [0, 0, 0] and last > 1e-3


@pytest.mark.parametrize('name', ['conv', 'dilated conv'])
def test_the_reconstruction_loss_is_its_equation_and_trains_its_own(
  name, close
):
  """The compressor alone; and nothing else trains that, but for a loss of 0."""
  memory, equations = MEMORIES[name]
  segments, ids = 5, tiny.some_ids(2, 5 * SEGMENT)

  def trained(memory, of):
    """A sum over segments of `of(hidden, penalty)`, and what has gradients."""
    model = model_with(memory)
    params = tiny.large_params(model)

    @tiny.quick_jit
    def grad(params):
      def loss(params):
        def one(carry, tokens):
          at = segment_coords(jnp.zeros_like(tokens))
          given = {'params': params}
          hidden, carry, penalty = model.apply(given, tokens, at, carry)
          return carry, of(hidden, penalty)

        parts = split(ids, SEGMENT)
        start, deep = model.initial(2), segments - 1
        return scan_segments(one, start, parts, gradient_segments=deep)[1].sum()

      return jax.value_and_grad(loss)(params)

    value, grads = grad(params)
    moved = {
      jax.tree_util.keystr(path): float(np.abs(g).max())
      for path, g in jax.tree_util.tree_leaves_with_path(grads)
    }
    return params, value, {path for path, size in moved.items() if size > 0}

  params, value, moved = trained(memory, lambda hidden, penalty: penalty)
  own = {path for path in moved if 'compressor' in path}
  assert moved == own and own

  told = type('Told', (equations,), {'lost': []})
  wide = jax.tree.map(np.asarray, params)
  for row in np.asarray(ids):
    oracle.hidden(wide, told, np.split(row, segments))
  close(value, np.sum(told.lost) / len(ids))

  def by_text(hidden, penalty):
    return jnp.square(hidden).sum()

  assert not trained(memory, by_text)[2] & own
  free = dataclasses.replace(memory.compressor, loss=0.0)
  free = dataclasses.replace(memory, compressor=free)
  assert trained(free, by_text)[2] > own


TAUGHT = (
  *('tokens', 'associative', 'melodi', 'cell, skip'),
  *('infini', 'conv', 'gated delta', 'free conv'),
)


@pytest.mark.parametrize('name', TAUGHT)
def test_a_memory_that_needs_gradients_through_time_says_so(name):
  """Without them, parameters that write have none at all."""
  free = Compressive(6, 4, 3, Conv(loss=0.0))
  memory = (EVERY | {'free conv': free})[name]
  model, ids = shallow(memory), tiny.some_ids(2, 3 * SEGMENT)
  sizes = moved(model, tiny.large_params(model), ids, gradient_segments=0)
  untaught = {n for n, x in sizes.items() if x == 0} - {'vocabulary/out_bias_0'}
  assert memory.needs_bptt == bool(untaught), untaught
  assert Together(XLCache(4), memory).needs_bptt == memory.needs_bptt


@pytest.mark.parametrize('kind', [ElementGate, HeadGate])
def test_the_larger_a_gates_start_the_more_is_new(kind, close):
  kept, new = normal(0, 2, 3, N, H), normal(1, 2, 3, N, H)

  def param(name, shape, axes, init):
    return init(jax.random.key(0), shape, jnp.float32)

  close(kind(start=15)(param, kept, new), new, 1e-4)
  close(kind(start=-15)(param, kept, new), kept, 1e-4)


SHORT = Melodi(SEGMENT, 3)
ZERO = {  # and what each is without
  'infini': (Infini(gate=HeadGate(zero_start=True)), Memory()),
  'infini, elements': (
    Infini(delta=True, gate=ElementGate(zero_start=True)),
    Memory(),
  ),
  'infini, full': (Infini(gate=FullGate(zero_start=True)), Memory()),
  'retrieval': (Retrieval(12, 3, HeadGate(zero_start=True)), Memory()),
  'delta': (GatedDelta(gate=LstmGate(zero_start=True)), Memory()),
  'cell': (StateCell(3, gate=ElementGate(zero_start=True)), Memory()),
  'cell, lstm': (StateCell(3, Dual(), LstmGate(zero_start=True)), Memory()),
  'long': (
    Melodi(SEGMENT, 3, LongMemory(8, 2, ElementGate(zero_start=True))),
    SHORT,
  ),
}


def grown(plain, memory):
  """The same model with more memory, and the parameters of both."""
  more = dataclasses.replace(plain, memory=memory)
  params = tiny.large_params(plain)

  def taken(path, new):
    old = params
    for step in path:
      old = old.get(step.key) if isinstance(old, dict) else None
    if old is None or old.shape == new.shape:
      return new if old is None else old
    return new.at[:, : old.shape[1]].set(old)  # of more heads, the first

  begun = tiny.quick_jit(more.init_params)(jax.random.key(0))
  return more, params, jax.tree_util.tree_map_with_path(taken, begun)


def moved(model, params, ids, gradient_segments):
  """The largest gradient of each parameter, with those of auxiliary losses."""

  @tiny.quick_jit
  def grad(params):
    def loss(params):
      def one(carry, tokens):
        at, given = segment_coords(jnp.zeros_like(tokens)), {'params': params}
        hidden, carry, penalty = model.apply(given, tokens, at, carry)
        return carry, jnp.square(hidden).sum() + penalty

      parts, start = split(ids, SEGMENT), model.initial(2)
      deep = {'gradient_segments': gradient_segments}
      return scan_segments(one, start, parts, **deep)[1].sum()

    return jax.grad(loss)(params)

  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.abs(g).max()
    for path, g in jax.tree_util.tree_leaves_with_path(grad(params))
  }


@pytest.mark.parametrize('name', ZERO)
def test_a_memory_that_starts_at_zero_leaves_a_trained_model_as_it_was(name):
  """Bit for bit, after several segments; and it has a gradient at once."""
  memory, without = ZERO[name]
  plain = shallow(without)
  more, params, both = grown(plain, memory)
  ids = tiny.some_ids(2, 3 * SEGMENT)
  want, _ = tiny.loop(plain, params, ids, [SEGMENT] * 3)
  got, _ = tiny.loop(more, both, ids, [SEGMENT] * 3)
  np.testing.assert_array_equal(got, want)
  sizes = moved(more, both, ids, gradient_segments=2)
  scales = 'layers/memory_scale', 'layers/memory_gate_scale'
  assert [n for n in scales if sizes.get(n, 0) > 0]


def test_in_bfloat16_it_leaves_the_model_as_it_was_too():
  plain = shallow(Memory())
  compute = dataclasses.replace(plain.compute, dtype='bfloat16')
  plain = dataclasses.replace(plain, compute=compute)
  more, params, both = grown(plain, ZERO['infini'][0])
  ids = tiny.some_ids(2, 3 * SEGMENT)
  want, _ = tiny.loop(plain, params, ids, [SEGMENT] * 3)
  got, _ = tiny.loop(more, both, ids, [SEGMENT] * 3)
  assert want.dtype == jnp.bfloat16
  np.testing.assert_array_equal(got, want)


def test_associations_start_with_values_of_zero(close):
  """To the last digits: products with more rows round in another order."""
  plain = model_with(Memory())
  more, params, both = grown(plain, Associative(2, 4))
  ids = tiny.some_ids(2, 3 * SEGMENT)
  want, _ = tiny.loop(plain, params, ids, [SEGMENT] * 3)
  got, _ = tiny.loop(more, both, ids, [SEGMENT] * 3)
  close(got, want, 1e-6)
  assert moved(more, both, ids, 2)['layers/memory_value'] > 0


@pytest.mark.parametrize(
  'names',
  [
    ('xl',),
    ('tokens',),
    ('cell, skip',),
    ('gated delta',),
    pytest.param(
      ('infini, delta', 'retrieval', 'conv', 'sinks', 'melodi, long'),
      marks=pytest.mark.grid,  # as long as all others together
    ),
  ],
  ids=', '.join,
)
def test_going_back_over_more_segments_costs_their_carries_alone(names):
  """With rematerialisation, in the compiled program; a layer of each."""
  memory, *more = (EVERY[name] for name in names)
  for i, of_layer in enumerate(more):
    memory = OnLayers((i,), of_layer, memory)
  model = tiny.transformer_xl(depth=max(2, len(names)))
  model = dataclasses.replace(model, memory=memory)
  shapes = jax.eval_shape(model.init_params, jax.random.key(0))
  carry = jax.eval_shape(lambda: model.initial(2))
  per_segment = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(carry))

  def bytes_of(count):
    def loss(params, ids):
      def one(carry, tokens):
        at = segment_coords(jnp.zeros_like(tokens))
        hidden, carry, _ = model.apply({'params': params}, tokens, at, carry)
        return carry, jnp.square(hidden).sum()

      _, sums = scan_segments(
        one,
        model.initial(2),
        split(ids, SEGMENT),
        gradient_segments=count - 1,
        remat=True,
      )
      return sums.sum()

    ids = jax.ShapeDtypeStruct((2, count * SEGMENT), jnp.int32)
    program = tiny.quick_jit(jax.grad(loss)).lower(shapes, ids).compile()
    return program.memory_analysis().temp_size_in_bytes

  four, sixteen, more = map(bytes_of, (4, 16, 64))
  ids = 2 * SEGMENT * 4
  slope = (more - sixteen) / 48
  assert (sixteen - four) / 12 == pytest.approx(slope, rel=0.05)
  assert slope <= per_segment + ids, (slope, per_segment)


def test_a_state_that_overflows_is_no_number_and_not_a_large_one():
  part = Part(Infini())
  carry = part.memory.initial(1, part.sizes, jnp.float32)
  tokens, layer = part.read(normal(0, 1, 4, D), jnp.zeros((1, 4), jnp.int32))
  huge = dataclasses.replace(tokens, k=tokens.k * 0 + 2e38, v=tokens.v)
  carry, _ = part.memory.write(part.param, carry, huge, layer)
  got = mean_of_past(*carry.states, features(normal(1, 1, 2, N, H)))
  assert np.isnan(got).all()


@pytest.mark.parametrize(
  'memory', [Infini(delta=True), Associative(2, 4), GatedDelta()]
)
def test_a_text_after_states_that_overflowed_is_refused(memory):
  """Also where only the square of what is recalled does (1e25)."""
  model = model_with(memory)
  params, ids = tiny.large_params(model), np.asarray(tiny.some_ids(1, 9)[0])
  _, state = reading.read(model, params, [ids], SEGMENT)
  reading.check_finite(state)

  def after(size):
    (layer,) = state.carry.layers
    held, *others = jax.tree.leaves(
      layer.memory, is_leaf=lambda x: isinstance(x, Held)
    )
    matrix, *rest = held.states
    held = held.replace(states=(jnp.full_like(matrix, size), *rest))
    memory = (held, *others) if others else held
    carry = state.carry.replace(layers=(layer.replace(memory=memory),))
    return reading.Remembered(state.replace(carry=carry), len(ids), '', {})

  def score(size):
    return decode.score(model, params, ids, SEGMENT, after=after(size))

  assert np.isfinite(score(1e3)).all()
  for size in (1e25, 3e38):
    with pytest.raises(UserError, match='are not finite'):
      score(size)
  with pytest.raises(UserError, match='remembers of this text is not finite'):
    reading.check_finite(after(np.inf).state)


@pytest.mark.parametrize('position', [Rope(), Alibi()])
@pytest.mark.parametrize(
  'memory', [Infini(), Infini(delta=True), Retrieval(18, 3)], ids=str
)
def test_what_is_recalled_has_no_position(memory, position, close):
  """With the gate open to nothing else, one layer behind the first segment."""
  model = dataclasses.replace(
    tiny.transformer_xl(depth=1, position=position), memory=memory
  )
  params, ids = tiny.large_params(model), tiny.some_ids(2, 3 * SEGMENT)
  gate = {'memory_gate_bias': jnp.full((1, 2), 20.0)}
  params = {**params, 'layers': {**params['layers'], **gate}}
  placed, _ = tiny.loop(model, params, ids, [SEGMENT] * 3)
  model = dataclasses.replace(model, position=NoPosition())
  free, _ = tiny.loop(model, params, ids, [SEGMENT] * 3)
  close(placed[:, SEGMENT:], free[:, SEGMENT:], 1e-4)
  assert np.abs(placed - free)[:, :SEGMENT].max() > 0.01


@pytest.mark.parametrize('memory', [Infini(), GatedDelta(gate=HeadGate())])
def test_what_is_recalled_has_no_scale_of_logits(memory, close):
  """With the gate open to nothing else; queries are as they were before it."""
  model = dataclasses.replace(tiny.transformer_xl(depth=1), memory=memory)
  params, ids = tiny.large_params(model), tiny.some_ids(2, 3 * SEGMENT)
  gate = {'memory_gate_bias': jnp.full((1, 2), 20.0)}
  params = {**params, 'layers': {**params['layers'], **gate}}
  other = dataclasses.replace(model, heads=Heads(scale=1.5))
  one, two = (
    tiny.loop(x, params, ids, [SEGMENT] * 3)[0] for x in (model, other)
  )
  close(one[:, SEGMENT:], two[:, SEGMENT:], 1e-4)


@pytest.mark.parametrize(
  'memory',
  [
    Retrieval(12, 12),
    DenseRetrieval(12),
    StateCell(3),
    Melodi(6, 2, LongMemory(8, 2)),
  ],
  ids=lambda memory: type(memory).__name__,
)
def test_a_cap_bounds_the_logits_of_what_is_recalled(memory, close):
  """A low one makes them all equal, as queries of zero do."""
  model = dataclasses.replace(model_with(memory), position=NoPosition())
  params, ids = tiny.large_params(model), tiny.some_ids(2, 3 * SEGMENT)
  capped = dataclasses.replace(model, heads=Heads(cap=1e-6))
  got, _ = tiny.loop(capped, params, ids, [SEGMENT] * 3)
  looks = re.compile('query|memory_(ask|query|across)')

  def still(path, x):
    return x * 0 if looks.fullmatch(path[-1].key) else x

  blind = jax.tree_util.tree_map_with_path(still, params)
  want, _ = tiny.loop(model, blind, ids, [SEGMENT] * 3)
  close(got, want, 1e-4)
  free, _ = tiny.loop(model, params, ids, [SEGMENT] * 3)
  assert np.abs(free - want).max() > 0.1


@pytest.mark.parametrize('name', ['cell, dual', 'melodi, long', 'conv'])
def test_what_a_memory_looks_at_itself_is_in_tiles_where_it_is_large(
  name, monkeypatch, close
):
  model = model_with(EVERY[name])
  params, ids = tiny.large_params(model), tiny.some_ids(2, 4 * SEGMENT)

  def read():
    @tiny.quick_jit
    def segment(carry, tokens):
      at = segment_coords(jnp.zeros_like(tokens))
      return model.apply({'params': params}, tokens, at, carry)

    carry, found = model.initial(2), []
    for tokens in split(ids, SEGMENT):
      hidden, carry, penalty = segment(carry, tokens)
      found.append((hidden, penalty))
    return found

  want = read()
  monkeypatch.setattr(choose, 'AT_ONCE', 0)  # MiB
  monkeypatch.setattr(choose, 'Dense', None)
  jax.tree.map(close, read(), want)


@pytest.mark.parametrize(
  'name',
  ['infini, delta', 'gated delta', 'retrieval', 'melodi, long', 'cell, skip'],
)
def test_shared_keys_are_the_same_keys_for_every_head(name, close):
  model = model_with(EVERY[name])
  shared = dataclasses.replace(model, heads=Heads(keys=1))
  params, ids = tiny.large_params(shared), tiny.some_ids(2, 3 * SEGMENT)
  wanted = jax.eval_shape(model.init_params, jax.random.key(0))
  heads = model.stack.num_heads

  def of_each(x, like):
    """Once more wherever there is one head in place of several."""
    for axis, (one, many) in enumerate(zip(x.shape, like.shape)):
      if one == many:
        continue
      if one == 1:
        x = jnp.repeat(x, many, axis=axis)
      else:  # of what is convolved: queries, then keys, then values
        x = jnp.repeat(x, np.repeat([1, many // 3], [heads, 2]), axis=axis)
    return x

  apart = jax.tree.map(of_each, params, wanted)
  got, _ = tiny.loop(shared, params, ids, [SEGMENT] * 3)
  want, _ = tiny.loop(model, apart, ids, [SEGMENT] * 3)
  close(got, want)


FLOAT32 = 'infini', 'infini, delta', 'gated delta', 'associative'


@pytest.mark.parametrize('name', [*FLOAT32, 'cell, skip', 'melodi, long'])
def test_in_bfloat16_sums_stay_in_float32(name):
  model = model_with(EVERY[name])
  half = dataclasses.replace(model, compute=Compute('bfloat16'))
  params, ids = tiny.large_params(model), tiny.some_ids(2, 3 * SEGMENT)
  got, carry = tiny.loop(half, params, ids, [SEGMENT] * 3)
  want, _ = tiny.loop(model, params, ids, [SEGMENT] * 3)
  assert got.dtype == jnp.bfloat16
  assert np.abs(got - want).max() < 0.1 * np.abs(want).max()
  kinds = {str(x.dtype) for x in jax.tree.leaves(carry)}
  assert ('float32' in kinds) == (name in FLOAT32), kinds


def test_states_are_multiplied_as_the_float32_numbers_they_are():
  """TPUs and GPUs multiply them as shorter ones where nothing asks."""
  memory = Memory()
  for i, name in enumerate(FLOAT32):
    memory = OnLayers((i,), EVERY[name], memory)
  model = dataclasses.replace(
    tiny.transformer_xl(depth=len(FLOAT32)),
    memory=memory,
    compute=Compute('bfloat16'),
  )

  def read(params, tokens):
    at = segment_coords(jnp.zeros_like(tokens))
    return model.apply({'params': params}, tokens, at, model.initial(1))

  shapes = jax.eval_shape(model.init_params, jax.random.key(0))
  with jax.default_matmul_precision(None):
    text = jax.jit(read).lower(shapes, jnp.zeros((1, SEGMENT), int)).as_text()
  words = r'dot_general.* : \(tensor<[\dx]*xf32>, tensor<[\dx]*xf32>\)'
  products = re.findall(words, text)
  assert len(products) > 4 * len(FLOAT32)
  assert all('precision = [HIGHEST, HIGHEST]' in x for x in products)


def test_what_retrieval_compares_is_not_rounded_before():
  """Float32 queries and keys: the best are the best by all their digits."""
  q, k = normal(0, 1, 2, N, H), normal(1, 1, 6, N, H)
  seen = jnp.ones((1, 2, 6), bool)
  search = functools.partial(retrieval.nearest, count=3)
  with jax.default_matmul_precision(None):
    text = jax.jit(search).lower(q, k, k, seen).as_text()
  first = next(line for line in text.splitlines() if 'dot_general' in line)
  assert 'precision = [HIGHEST, HIGHEST]' in first


def test_memories_that_cannot_be_together_say_so():
  with pytest.raises(ValueError, match='two memories that put tokens around'):
    Together(Tokens(2), Associative(2))
  assert Together(XLCache(3), DenseRetrieval(4)).length == 3
  assert Together(XLCache(3), Infini()).in_order
  assert not Together(XLCache(3), XLCache(5)).in_order


@pytest.mark.parametrize(
  'memory, message',
  [
    (
      Together(OnLayers((0,), GatedDelta(), XLCache(4)), Infini()),
      'lets the layer attend to nothing',
    ),
    (
      Together(OnLayers((0,), XLCache(4, same_length=True)), Tokens(2)),
      'hides some of a segment',
    ),
  ],
)
def test_what_cannot_be_on_one_layer_is_refused_with_the_model(memory, message):
  with pytest.raises(ValueError, match=message):
    model_with(memory)


def test_a_cell_refuses_a_gate_of_heads():
  with pytest.raises(ValueError, match='headgate has a number for each head'):
    StateCell(gate=HeadGate())
