"""Fused attention for TPUs: its definition, and what a TPU compiler says."""

import functools
import importlib.util
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.experimental import topologies
from jax.experimental.pallas import tpu as pltpu

from lctx.kernels.dropout import Dropout
from lctx.kernels.flash_tiles import Place, Walk
from lctx.kernels.flash_tpu import Flash, Inputs
from lctx.kernels.fused import Fused
from lctx.positions.steps import Cap, Plus, Times
from lctx.types import EMPTY, segment_coords

B, T, S, N, H = 2, 13, 29, 4, 5
BLOCKS = 6  # of a plan
REACHED = 'q', 'k', 'v', 'qr', 'r', 'c', 'steps'  # what gradients reach


def causal(q_at, k_at, head):
  return k_at.index <= q_at.index


def window(q_at, k_at, head):
  return causal(q_at, k_at, head) & (q_at.index - k_at.index <= 6)


def staircase(q_at, k_at, head):
  return causal(q_at, k_at, head) & (q_at.segment - k_at.index <= 9)


def everything(q_at, k_at, head):
  return jnp.bool_(True)


def dilated(q_at, k_at, head):
  """Heads 1 and 3 see every second key; all see the start of a document."""
  apart = (q_at.index - k_at.index) % (head % 2 + 1) == 0
  return causal(q_at, k_at, head) & (apart | (k_at.offset < 2))


def planned(q_at, k_at, head, look_up):
  """By a table for each head."""
  entries = look_up(q_at.index % BLOCKS, k_at.offset % BLOCKS)
  return causal(q_at, k_at, head) & (entries > 0)


def normal(seed, *shape):
  values = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(values, jnp.float32)


def coords(queries, keys, empty):
  """Row 1 has empty slots and two documents, the second of one token."""
  document = jnp.zeros((B, keys), jnp.int32)
  document = document.at[1, :3].set(EMPTY).at[1, -1:].set(1)
  if empty:
    document = jnp.full_like(document, EMPTY)
  k_at = segment_coords(document, queries - keys)
  k_at = k_at.replace(segment=jnp.zeros_like(document))  # starts at query 0
  return k_at.take(keys - queries, keys), k_at


def placed(at):
  return jnp.stack([getattr(at, name) for name in Place._fields], axis=1)


def step(kind, queries, keys):
  rows = queries + keys
  return {
    'plus': lambda: Plus(c=normal(6, rows, N)),
    'plus r': lambda: Plus(normal(7, B, queries, N, H), normal(8, rows, N, H)),
    'times': lambda: Times(
      c=normal(9, rows - 1, N) / 2, by_query=normal(10, B, N, queries) / 2
    ),
    'cap': lambda: Cap(cap=1.5),
  }[kind]()


def some(
  queries=T,
  keys=S,
  group=1,
  relative=True,
  c=False,
  empty=False,
  steps=(),
  tables=0,
):
  """Inputs with everything a case asks for."""
  q_at, k_at = coords(queries, keys, empty)
  rows, shared = queries + keys, N // group
  return Inputs(
    q=normal(0, B, queries, N, H),
    k=normal(1, B, keys, shared, H),
    v=normal(2, B, keys, shared, H + 1),
    q_place=placed(q_at),
    k_place=placed(k_at),
    qr=normal(3, B, queries, N, H) if relative else None,
    r=normal(4, rows, N, H) if relative else None,
    c=normal(5, rows - 1, N) if c else None,
    steps=tuple(step(kind, queries, keys) for kind in steps),
    tables=(normal(11, tables, BLOCKS, BLOCKS) > 0,) if tables else (),
  )


def seeds():
  """The key of each mask, as `Dropout` folds rows and heads into its own."""
  fold, key = jax.random.fold_in, jax.random.key(3)
  keys = [[fold(fold(key, b), n) for n in range(N)] for b in range(B)]
  return jnp.array([[jax.random.key_data(key) for key in row] for row in keys])


def defined(visible, rate, x):
  """Attention with every logit at once, looked up row by row."""
  queries, keys, group = x.q.shape[1], x.k.shape[1], N // x.k.shape[2]
  k_BSNH, v_BSNH = (jnp.repeat(a, group, axis=2) for a in (x.k, x.v))
  s_BNTS = jnp.einsum('btnh,bsnh->bnts', x.q, k_BSNH)
  row_TS = np.arange(keys)[None] - np.arange(queries)[:, None] + queries - 1
  for step in (Plus(x.qr, x.r, x.c), *x.steps):
    term_BNTS = jnp.zeros_like(s_BNTS)
    if step.r is not None:
      term_BNTS += jnp.einsum('btnh,tsnh->bnts', step.qr, step.r[row_TS])
    if step.c is not None:
      term_BNTS += jnp.moveaxis(step.c[row_TS], 2, 0)[None]
    if step.by_query is not None:
      term_BNTS += step.by_query[..., None]
    s_BNTS = step(s_BNTS, term_BNTS)
  q_at = Place(*jnp.moveaxis(x.q_place, 1, 0)[:, :, None, :, None])
  k_at = Place(*jnp.moveaxis(x.k_place, 1, 0)[:, :, None, None, :])
  head_1N11 = jnp.arange(N)[None, :, None, None]
  look_ups = (
    lambda row, column, table=table: table[head_1N11 % len(table), row, column]
    for table in x.tables
  )
  seen = visible(q_at, k_at, head_1N11, *look_ups)
  seen &= (q_at.document == k_at.document) & (k_at.document >= 0)
  p_BNTS = jax.nn.softmax(jnp.where(seen, s_BNTS, -1e30), axis=-1) * seen
  if rate:
    dropout = Dropout(jax.random.key_data(jax.random.key(3)), rate)
    keep_NBTS = dropout.keep(jnp.arange(N), *coords(queries, keys, False))
    p_BNTS *= jnp.moveaxis(keep_NBTS, 0, 1)
  return jnp.einsum('bnts,bsnh->btnh', p_BNTS, v_BSNH)


@functools.partial(tiny.quick_jit, static_argnums=0)
def attended(attend, inputs):
  """What comes out, and the gradient of all that it reaches."""

  def dy(y):
    return jnp.cos(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype)

  def weighted(reached):
    y = attend(inputs._replace(**reached))
    return (y * dy(y)).sum(), y

  given = {name: getattr(inputs, name) for name in REACHED}
  grads, y = jax.grad(weighted, has_aux=True)(given)
  return y, grads


# Of 13 queries against 29 keys, those of the first block see keys 10 to 23.
WALK = {'first': (1, 2), 'end': (3, 4)}
CASES = {
  'plain': (causal, (8, 16), {'relative': False}, {}),
  'window': (window, (8, 8), {}, WALK),
  'staircase': (staircase, (16, 8), {'c': True, 'group': 2}, {}),
  'everything': (everything, (8, 16), {'group': 4}, {}),
  'by head': (dilated, (16, 16), {'relative': False, 'c': True}, {}),
  'one query': (causal, (8, 16), {'queries': 1, 'c': True}, {}),
  'capped': (
    window,
    (8, 8),
    {'queries': 16, 'keys': 16, 'steps': ['cap']},
    {},
  ),
  'dropped': (causal, (8, 16), {'group': 2, 'steps': ['cap']}, {'rate': 0.3}),
  'added after the cap': (causal, (8, 16), {'steps': ['cap', 'plus']}, {}),
  'reweighted': (
    causal,
    (8, 16),
    {'group': 2, 'c': True, 'steps': ['times']},
    {},
  ),
  'all steps, dropped': (
    window,
    (8, 8),
    {'relative': False, 'steps': ['times', 'plus r', 'cap', 'plus']},
    {'rate': 0.3, **WALK},
  ),
  'looked up for each head': (planned, (8, 16), {'tables': N}, {}),
  'looked up for all heads': (planned, (16, 8), {'tables': 1}, {}),
}


@pytest.mark.parametrize('case', CASES)
def test_attention_and_all_its_gradients_are_as_defined(case, close):
  visible, sides, given, fields = CASES[case]
  flash = Flash(visible, *sides, **fields, interpret=True)
  inputs = some(**given)
  definition = functools.partial(defined, visible, flash.rate)
  want = attended(definition, inputs)
  if flash.rate:
    inputs = inputs._replace(seeds=seeds())
  jax.tree.map(close, attended(flash, inputs), want)


def test_blocks_of_keys_out_of_bounds_are_not_met(close):
  flash = Flash(everything, 8, 16, first=(1, 0), end=(2, 0), interpret=True)
  y = tiny.quick_jit(flash)(some())
  second = some()._replace(
    **{name: getattr(some(), name)[:, 16:] for name in 'kv'}
  )
  second = second._replace(k_place=some().k_place[..., 16:], r=some().r[16:])
  want = defined(everything, 0, second)
  close(y[:, :8], want[:, :8])
  assert not y[:, 8:].any()


def test_keys_meet_the_queries_that_meet_them():
  walk = Walk(np.array([1, 2, 0]), np.array([3, 4, 0])).turned(5)
  assert walk.first.tolist() == [0, 0, 0, 1, 0]
  assert walk.end.tolist() == [0, 1, 2, 2, 0]


@pytest.mark.slow
def test_copies_of_sums_do_not_race(close, capsys):
  """On a simulated chip whose copies take time and whose memory starts bad."""
  chip = pltpu.InterpretParams(detect_races=True, uninitialized_memory='nan')
  flash = Flash(causal, 8, 16, interpret=chip)
  inputs = some(c=True, steps=['times', 'cap', 'plus'])
  want = attended(functools.partial(defined, causal, 0), inputs)
  jax.tree.map(close, attended(flash, inputs), want)
  assert 'RACE' not in capsys.readouterr().out


def test_short_numbers_give_nearly_the_same_and_stay_short(close):
  flash, inputs = Flash(causal, 8, 16, interpret=True), some(group=2)
  short = {name: getattr(inputs, name) for name in REACHED[:5]}
  short = {name: a.astype(jnp.bfloat16) for name, a in short.items()}
  y, grads = attended(flash, inputs._replace(**short))
  want = attended(functools.partial(defined, causal, 0), inputs)
  for a, b in zip(*map(jax.tree.leaves, ((y, grads), want)), strict=True):
    assert a.dtype == jnp.bfloat16
    close(np.float32(a), b, 0.05)  # eight bits of mantissa


def test_a_query_that_sees_nothing_gets_zeros():
  flash = Flash(causal, 8, 16, interpret=True)
  inputs = some(c=True, empty=True, steps=['times', 'cap', 'plus'])
  assert not any(a.any() for a in jax.tree.leaves(attended(flash, inputs)))


def test_no_array_of_all_queries_and_keys_is_made():
  """Neither forward nor backward, relative terms included."""
  flash, inputs = Flash(causal, 32, 64, interpret=True), some(512, 1024, c=True)
  step = functools.partial(attended.__wrapped__, flash)
  program = str(jax.make_jaxpr(step)(inputs))
  shapes = re.findall(r'[fi]32\[([\d,]+)\]', program)
  sizes = [math.prod(map(int, shape.split(','))) for shape in shapes]
  assert 32 * (32 + 64) in sizes  # inside the kernels too
  assert max(sizes) <= 2 * B * N * (H + 1) * 1024


def test_sides_that_a_chip_cannot_hold_are_refused():
  with pytest.raises(ValueError, match=r'queries = 100 .* multiple of 128'):
    Fused(100)
  with pytest.raises(ValueError, match=r'keys = 12 .* multiple of 8'):
    Fused(128, 12, interpret=True)


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'qr': None}, 'qr and r meet each other'),
    ({'r': normal(4, T, N, H)}, r'r has 13 rows, but 13 queries and 29 keys'),
    ({'seeds': jnp.zeros((B, N, 2), jnp.uint32)}, 'dropout together'),
  ],
)
def test_inputs_that_do_not_go_together_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    Flash(causal, 8, 16, interpret=True)(some()._replace(**fields))


ENVIRONMENT = {
  'TPU_SKIP_MDS_QUERY': '1',  # ask no machine which chip it has
  'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}


def compiled(topology, flash, inputs):
  """The program of a step forward and backward, for a chip that is not here."""
  found = topologies.get_topology_desc(platform='tpu', topology_name=topology)
  chip = jax.sharding.SingleDeviceSharding(found.devices[0])
  inputs = jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=chip), inputs
  )
  step = jax.jit(functools.partial(attended.__wrapped__, flash))
  return step.trace(inputs).lower(lowering_platforms=('tpu',)).compile()


def shapes_of(length, width, full):
  """Shapes and types of a long text's inputs; `full`: with all there is."""
  heads, queries = 8, length - 48 * full
  shapes = {
    'q': (1, queries, heads, width),
    'k': (1, length, heads // (1 + full), width),
    'r': (queries + length, heads, width),
  }
  q, k, r = (jax.ShapeDtypeStruct(a, jnp.bfloat16) for a in shapes.values())
  places = (
    jax.ShapeDtypeStruct((1, 5, size), jnp.int32) for size in (queries, length)
  )
  inputs = Inputs(q, k, k, *places, qr=q, r=r)
  if not full:
    return inputs
  return inputs._replace(
    r=r.update(dtype=jnp.float32),
    c=jax.ShapeDtypeStruct((queries + length, heads), jnp.float32),
    seeds=jax.ShapeDtypeStruct((1, heads, 2), jnp.uint32),
    steps=(
      Times(
        c=jax.ShapeDtypeStruct((queries + length, heads), jnp.float32),
        by_query=jax.ShapeDtypeStruct((1, heads, queries), jnp.float32),
      ),
      Cap(cap=30.0),
      Plus(c=jax.ShapeDtypeStruct((queries + length, heads), jnp.float32)),
    ),
  )


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason='needs libtpu, which compiles for TPUs: pip install lctx[tpu]',
)
@pytest.mark.parametrize(
  'topology, length, width, full',
  [
    ('v5e:2x2', 2048, 64, False),
    ('v5e:2x2', 2048, 128, True),
    ('v5p:2x2x1', 2048, 64, True),
    ('v5p:2x2x1', 2048, 128, False),
    ('v5p:2x2x1', 16_384, 64, False),
  ],
)
def test_a_tpu_compiler_takes_it(topology, length, width, full, monkeypatch):
  """And finds room that grows with the length, not with its square."""
  for name, value in ENVIRONMENT.items():
    monkeypatch.setenv(name, value)
  flash = Flash(dilated, rate=0.1 * full)
  program = compiled(topology, flash, shapes_of(length, width, full))
  lines = program.as_text().split('\n')
  calls = [line for line in lines if 'tpu_custom_call"' in line]
  for name in ('forward', 'of_queries', 'of_keys'):
    assert sum(f'lctx_flash_{name}' in call for call in calls) == 1
  memory = program.memory_analysis()
  held = memory.argument_size_in_bytes + memory.output_size_in_bytes
  assert memory.temp_size_in_bytes <= 3 * held
