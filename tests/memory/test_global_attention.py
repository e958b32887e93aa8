"""Global attention: the definition by loops, and its operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_flops_of_memory import multiplied

from lctx import presets
from lctx.layers.ffn import Relu
from lctx.memory import GlobalAttention
from lctx.models.heads import Heads
from lctx.patterns import Causal, Everything, Window
from lctx.positions import NoPosition
from lctx.training.flops import count, keys_seen
from lctx.types import EMPTY, GLOBAL, segment_coords

LENGTH, WIDTH, HEADS = 9, 16, 2


def model_of(**parts):
  usual = {
    'embed': {'vocab': 29, 'types': 0, 'norm': None},
    'position': NoPosition(),
    'pattern': Window(1, 2),
    'memory': GlobalAttention(4),
    'stack': {'ffn': Relu()},
  }
  return presets.bert(1, WIDTH, HEADS, LENGTH, **(usual | parts))


def softmax(logits):
  weights = np.exp(logits - logits.max())
  return weights / weights.sum()


def attended(x, params, document, is_global):
  """One row: what the heads of a layer give, before the output projection."""
  own = {x: np.float64(y) for x, y in params['attention'].items()}
  far = {x: np.float64(y) for x, y in params.items() if x.startswith('memory_')}

  def made(leaf, of):
    return np.einsum('td,dnh->tnh', x, of[leaf]) + of[f'{leaf}_bias']

  q, k, v = (made(name, own) for name in ('query', 'key', 'value'))
  gq, gk, gv = (made(f'memory_{x}', far) for x in ('query', 'key', 'value'))
  out = np.zeros_like(q)
  for t in range(LENGTH):
    same = [s for s in range(LENGTH) if document[s] == document[t] >= 0]
    near = [s for s in same if -2 <= t - s <= 1 or is_global[s]]
    for n in range(HEADS):
      seen, of = (same, (gq, gk, gv)) if is_global[t] else (near, (q, k, v))
      queries, keys, values = of
      if not seen:
        continue
      logits = [queries[t, n] @ keys[s, n] / np.sqrt(8) for s in seen]
      out[t, n] = softmax(np.array(logits)) @ values[seen, n]
  return out


def test_it_is_the_definition_by_loops(close):
  """Documents, padding, and one, several and no global tokens."""
  model = model_of()
  params = tiny.large_params(model)
  ids = tiny.some_ids(3, LENGTH)
  document = np.zeros((3, LENGTH), np.int32)
  document[1, 4:] = 1
  document[1, 7:] = EMPTY
  role = np.zeros((3, LENGTH), np.int32)
  role[0, [0, 3, 8]] = role[1, [1, 5, 8]] = GLOBAL
  at = segment_coords(jnp.asarray(document)).replace(role=jnp.asarray(role))
  empty = model.initial(3)
  hidden, _, _ = model.apply({'params': params}, ids, at, empty)
  layer = jax.tree.map(lambda x: np.float64(x[0]), params['layers'])
  x = np.float64(params['vocabulary']['table_0'])[ids]
  for row in range(3):
    heads = attended(x[row], layer, document[row], role[row] > 0)
    y = np.einsum('tnh,nhd->td', heads, layer['attention']['out'])
    y = normed(x[row] + y + layer['attention']['out_bias'], layer['norm_0'])
    ffn = layer['ffn']
    wide = np.maximum(y @ ffn['in'] + ffn['in_bias'], 0)
    want = normed(y + wide @ ffn['out'] + ffn['out_bias'], layer['norm_1'])
    held = document[row] >= 0
    close(np.asarray(hidden)[row][held], want[held])


def normed(x, params):
  """Layer norm by NumPy."""
  centred = x - x.mean(axis=-1, keepdims=True)
  size = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
  return centred / size * params['scale'] + params['bias']


def test_operations_are_those_of_the_program():
  model = model_of(pattern=Everything()).for_inference()
  params = jax.eval_shape(model.init_params, jax.random.key(0))
  ids = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)

  def read(params, ids):
    at = segment_coords(jnp.zeros_like(ids))
    return model.apply({'params': params}, ids, at, model.initial(1))[0]

  found = multiplied(jax.make_jaxpr(read)(params, ids).jaxpr)
  flops = count(model, LENGTH)
  wanted = flops.forward - flops.vocabulary
  near, _ = model.memory.patterns(model.pattern)
  assert keys_seen(near, HEADS, LENGTH, 0) == LENGTH  # no token has a role
  assert found / LENGTH == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize(
  'parts, words',
  [
    ({'pattern': Causal()}, 'never looks ahead'),
    ({'heads': {'norm': presets.bert(1, 16, 2, 8).stack.norm}}, 'have no norm'),
  ],
)
def test_what_it_cannot_serve_is_told(parts, words):
  with pytest.raises(ValueError, match=words):
    model_of(**parts)
  with pytest.raises(ValueError, match='at least 1'):
    GlobalAttention(0)
  assert isinstance(model_of().heads, Heads)
