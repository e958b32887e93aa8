"""Laws that every memory obeys, each checked with one compiled segment."""

import dataclasses

import grid
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_equations import MEMORIES, SEGMENT, model_with
from test_flops_of_memory import MEMORIES as OPERATIONS

import lctx
from lctx.checkpoint import Checkpoints, CheckpointStore
from lctx.generation import reading
from lctx.generation.reading import begin
from lctx.memory import (
  Affine,
  Associative,
  Compressive,
  DenseRetrieval,
  GatedDelta,
  GlobalAttention,
  HeadGate,
  Infini,
  Melodi,
  Memory,
  OnLayers,
  Retrieval,
  SinkCache,
  Together,
  Tokens,
  TransientGlobal,
  XLCache,
)
from lctx.memory.held import last_read
from lctx.models.carry import first_layer
from lctx.optimizer.axes import is_names, sides
from lctx.positions import Learned
from lctx.sharding import rules
from lctx.types import EMPTY

ROWS, COUNT = 3, 3
LENGTH = SEGMENT * COUNT
MORE = {
  'xl': XLCache(7),
  'delta and tokens': Together(GatedDelta(3, gate=HeadGate()), Tokens(2)),
  'xl and tokens': Together(XLCache(5), Tokens(2)),
  'on layers': OnLayers((1,), Infini(gate=HeadGate(start=1.0)), XLCache(5)),
}
EVERY = {name: memory for name, (memory, _) in MEMORIES.items()} | MORE
KEPT = [name for name in EVERY if name != 'none']


def kinds(memory):
  """The memory's class, and those of what it is made of."""
  yield type(memory)
  for field in dataclasses.fields(memory):
    if isinstance(value := getattr(memory, field.name), Memory):
      yield from kinds(value)


def begun(name):
  """A model, its parameters, and what it carries of some text."""
  model = model_with(EVERY[name])
  params = tiny.large_params(model)
  ids = tiny.some_ids(ROWS, LENGTH)
  _, carry = tiny.loop(model, params, ids, [SEGMENT] * COUNT)
  return model, params, ids, carry


def read(model, params, ids, carry):
  """One more segment."""
  document = jnp.zeros_like(ids)
  return tiny.jitted_segment(model, params, ids, document, carry)[0]


def test_what_is_carried_is_restored_bit_for_bit(tmp_path):
  carries = {name: begun(name)[-1] for name in KEPT}
  shapes = jax.eval_shape(lambda: carries)
  with CheckpointStore(tmp_path, Checkpoints()) as store:
    store.save(1, carries, {})
    restored = store.restore(shapes).state
  jax.tree.map(np.testing.assert_array_equal, restored, carries)


@pytest.mark.parametrize('name', EVERY)
def test_no_token_changes_what_comes_before_it_and_all_that_comes_after(name):
  """Not through a state either that its own segment writes."""
  model = model_with(EVERY[name])
  params, place = tiny.large_params(model), SEGMENT + 2
  ids = tiny.some_ids(ROWS, LENGTH)
  other = ids.at[:, place].add(1)
  first, then = (
    tiny.loop(model, params, x % 29, [SEGMENT] * COUNT)[0] for x in (ids, other)
  )
  moved = np.abs(first - then).max(axis=(0, 2))
  assert (moved[:place] == 0).all()
  assert (moved[place : 2 * SEGMENT] > 1e-4).all()
  assert (moved[2 * SEGMENT :] > 1e-6).all() == (name != 'none'), moved


@pytest.mark.parametrize('name', KEPT)
def test_forgotten_rows_read_as_new_ones_and_the_rest_as_before(name, close):
  model, params, ids, carry = begun(name)
  forgot = model.forget(carry, jnp.array([True, False, True]))
  now = ids[:, :SEGMENT]
  fresh = read(model, params, now, model.initial(ROWS))
  kept = read(model, params, now, carry)
  got = read(model, params, now, forgot)
  close(got, jnp.stack([fresh[0], kept[1], fresh[2]]), 1e-6)
  assert np.abs(fresh - kept).max(axis=(1, 2)).min() > 1e-4


@pytest.mark.parametrize('name', KEPT)
def test_an_exchanged_row_reads_as_if_it_had_the_others_past(name, close):
  model, params, ids, carry = begun(name)
  rows, now = jnp.array([2, 0, 1]), ids[:, :SEGMENT]
  got = read(model, params, now, model.exchange(carry, rows))
  back = jnp.argsort(rows)
  want = read(model, params, now[back], carry)[rows]
  close(got, want, 1e-6)
  assert np.abs(got - read(model, params, now, carry)).max() > 1e-4


@pytest.mark.parametrize('name', KEPT)
def test_the_form_for_inference_says_the_same(name, close):
  model, params, ids, _ = begun(name)
  fast = model.for_inference()
  if fast == model:
    pytest.skip('it has one form')
  document = jnp.zeros_like(ids).at[1, 8:].set(1)
  want, got = (
    tiny.loop(m, params, ids, [SEGMENT] * COUNT, document)[0]
    for m in (model, fast)
  )
  close(got, want)


# They differ from others in how a closed segment is written.
VARIANTS = 'mean', 'max', 'conv', 'dilated conv', 'infini, lstm'
VARIANTS = *VARIANTS, 'cell, dual', 'cell, single'
READ_ON = [name for name in EVERY if name not in VARIANTS]


@pytest.mark.parametrize('name', READ_ON)
def test_rows_that_go_on_token_by_token_read_what_segments_do(name, close):
  """Behind prompts of three lengths, so that segments close at other times."""
  model = model_with(EVERY[name])
  params, starts, count = tiny.large_params(model), (5, 2, 4), 4
  ids = tiny.some_ids(ROWS, count * SEGMENT)
  hidden, _ = tiny.loop(model, params, ids, [SEGMENT] * count)
  logp = tiny.log_probs(model, params, hidden)
  prompts = [np.asarray(row)[:n] for row, n in zip(ids, starts)]
  steps = ids.shape[1] - max(starts)
  turns = jnp.stack([row[n : n + steps] for row, n in zip(ids, starts)])
  got = tiny.decoded(*reading.read(model, params, prompts, SEGMENT), turns)
  for row, n in enumerate(starts):
    there = logp[row, n : n + steps - 1]
    want = np.take_along_axis(there, turns[row, 1:, None], axis=-1)[:, 0]
    close(got[row], -want, 1e-4)


@pytest.mark.parametrize(
  'memory',
  [
    MORE['delta and tokens'],
    MORE['xl and tokens'],
    Together(GatedDelta(gate=HeadGate()), Melodi(SEGMENT, 2)),
    OnLayers((1,), Associative(2, 4, 2), GatedDelta()),
  ],
  ids=str,
)
def test_a_document_counts_its_text_and_nothing_around_it(memory, close):
  """So that as many positions as it has tokens are enough."""
  model = model_with(memory)
  model = dataclasses.replace(model, position=Learned(LENGTH))
  params, ids = tiny.large_params(model), tiny.some_ids(1, LENGTH)
  hidden, _ = tiny.loop(model, params, ids, [SEGMENT] * COUNT)
  logp = tiny.log_probs(model, params, hidden)[:, :-1]
  want = -np.take_along_axis(logp, ids[:, 1:, None], axis=-1)[..., 0]
  close(tiny.decoded(*begin(model, params, 1, SEGMENT), ids), want, 1e-4)


# A queue moves on all the same.
IN_A_QUEUE = XLCache, SinkCache, Compressive, Retrieval, DenseRetrieval
WHOLE = [n for n in KEPT if not {*kinds(EVERY[n])} & {*IN_A_QUEUE}]


@pytest.mark.parametrize('name', WHOLE)
def test_a_row_may_pause_in_a_document(name, close):
  """A segment without text changes nothing."""
  model = model_with(EVERY[name])
  params, ids = tiny.large_params(model), tiny.some_ids(ROWS, 4 * SEGMENT)
  document = jnp.zeros_like(ids).at[0, SEGMENT : 2 * SEGMENT].set(EMPTY)
  document = document.at[1, 2 * SEGMENT :].set(EMPTY)
  hidden, _ = tiny.loop(model, params, ids, [SEGMENT] * 4, document)
  turns = np.r_[:SEGMENT, 2 * SEGMENT : 4 * SEGMENT]
  want, _ = tiny.loop(model, params, ids[:, turns], [SEGMENT] * 3)
  close(hidden[0, turns], want[0], 1e-6)


@pytest.mark.parametrize('name', ['infini', 'gated delta', 'xl', 'sinks'])
def test_a_document_is_counted_over_empty_slots(name):
  model = model_with(EVERY[name])
  params, ids = tiny.large_params(model), tiny.some_ids(ROWS, SEGMENT)
  document = jnp.zeros_like(ids).at[:, SEGMENT - 2 :].set(EMPTY)
  _, carry = tiny.loop(model, params, ids, [SEGMENT], document)
  last = last_read(first_layer(carry.layers[0].memory))
  assert [x.tolist() for x in last] == [[0] * ROWS, [SEGMENT - 3] * ROWS]


def test_a_carry_that_does_not_fit_is_refused_by_name():
  model, params, ids, carry = begun('infini')
  with pytest.raises(ValueError, match=r'carry\.layers\.0\.memory\.states\.0'):
    read(model, params, ids[:2, :SEGMENT], carry)
  with pytest.raises(ValueError, match=r'another kind .* model\.memory = XL'):
    read(model_with(XLCache(4)), params, ids[:, :SEGMENT], carry)
  more = dataclasses.replace(
    model, stack=dataclasses.replace(model.stack, depth=3)
  )
  with pytest.raises(ValueError, match='3, 3, 2, 8, 8'):
    read(more, params, ids[:, :SEGMENT], carry)


def test_a_segment_that_a_memory_cannot_read_is_refused_by_its_fields():
  model = model_with(SinkCache(SEGMENT, 2))
  params = jax.eval_shape(model.init_params, jax.random.key(0))
  ids = tiny.some_ids(2, 2 * SEGMENT)
  with pytest.raises(ValueError, match=r'segment = 12 is longer than .*recent'):
    jax.eval_shape(lambda p: tiny.loop(model, p, ids, [12]), params)
  with pytest.raises(ValueError, match=r'segment = 12 is longer than .*recent'):
    jax.eval_shape(lambda p: model.open(p, 2, 12), params)


def test_layers_that_remember_alike_are_one_scan():
  model = dataclasses.replace(
    tiny.transformer_xl(depth=5), memory=OnLayers((1, -1), Infini(), XLCache(4))
  )
  assert [(run.path, run.layers) for run in model.runs] == [
    (('layers_0',), (0,)),
    (('layers_1',), (1,)),
    (('layers_2',), (2, 3)),
    (('layers_3',), (4,)),
  ]
  shapes = jax.eval_shape(model.init_params, jax.random.key(0))
  assert shapes['layers_2']['attention']['query'].shape[0] == 2
  assert 'memory_gate_bias' in shapes['layers_3']


@pytest.mark.parametrize('name', KEPT)
def test_every_optimizer_and_mesh_knows_its_parameters(name):
  axes = model_with(EVERY[name]).axes()
  for names in jax.tree.leaves(axes, is_leaf=is_names):
    assert len(sides(names)) <= 2 and set(names) <= set(rules.TABLE)


@pytest.mark.parametrize('name', ['most used', 'dilated conv', 'conv', 'mean'])
def test_what_is_compressed_is_of_one_document(name, close):
  """Where one document ends among the states that leave the cache at once."""
  model = model_with(EVERY[name])
  params, count = tiny.large_params(model), 7
  ids = tiny.some_ids(ROWS, count * SEGMENT)
  document = jnp.zeros_like(ids).at[0, 8:].set(1).at[1, 10:].set(1)
  other = jnp.where(document == 0, (ids + 1) % 29, ids)
  first, then = (
    tiny.loop(model, params, x, [SEGMENT] * count, document)[0]
    for x in (ids, other)
  )
  close(first[0, 8:], then[0, 8:], 1e-6)
  close(first[1, 10:], then[1, 10:], 1e-6)


@pytest.mark.parametrize(
  'table, elsewhere',
  [
    ({**grid.MEMORIES, **grid.BESIDE}, set()),
    (EVERY, {GlobalAttention, TransientGlobal}),
    (OPERATIONS, {GlobalAttention, TransientGlobal, Together, OnLayers}),
  ],
  ids=['grid', 'equations and laws', 'operations'],
)
def test_every_memory_there_is_stands_in_every_table(table, elsewhere):
  known = {kind for memory in table.values() for kind in kinds(memory)}
  exported = {
    kind
    for name in lctx.memory.__all__
    if isinstance(kind := getattr(lctx.memory, name), type)
    and issubclass(kind, Memory)
  }
  assert exported - {Memory, Affine} == (known - {Memory}) | elsewhere
