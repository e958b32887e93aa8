"""What fused attention is tried on, and its definition."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from lctx.kernels.dropout import Dropout
from lctx.kernels.flash_inputs import Inputs
from lctx.kernels.flash_tiles import Place
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


def array_sizes(flash, inputs):
  """Of the arrays of a step forward and backward, inside its kernels too."""
  step = functools.partial(attended.__wrapped__, flash)
  program = str(jax.make_jaxpr(step)(inputs))
  shapes = re.findall(r'[fi]32\[([\d,]+)\]', program)
  return [int(np.prod([int(n) for n in shape.split(',')])) for shape in shapes]


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
