"""The arrays of layers as PyTorch has them, and as we do.

A torch Linear holds [out, in] and its heads side by side; ours is [in, out],
with heads apart. Each function gives the entries of one module of theirs.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from lctx.interop.tables import Entry, same, turned
from lctx.models.body import Body
from lctx.models.text import Decoder

QKV = 'query', 'key', 'value'


def array(name: str, path: Sequence[str], *shape: int) -> Entry:
  """One that is the same in both."""
  return Entry(name, tuple(path), shape)


def norm(
  name: str, path: str | Sequence[str], width: int, *, bias: bool
) -> Iterator[Entry]:
  path = (path,) if isinstance(path, str) else path
  yield array(f'{name}.weight', (*path, 'scale'), width)
  if bias:
    yield array(f'{name}.bias', (*path, 'bias'), width)


def linear(
  name: str,
  leaf: str,
  shape: tuple[int, int],
  *,
  bias: bool,
  conv: bool = False,
  of: tuple[str, ...] = ('ffn',),
) -> Iterator[Entry]:
  """Of a part `of` the model, `shape` [in, out]; `conv`: theirs is so too."""
  path = *of, leaf
  if conv:
    yield Entry(f'{name}.weight', path, shape)
  else:
    yield Entry(f'{name}.weight', path, shape[::-1], turned, turned)
  if bias:
    yield array(f'{name}.bias', (*of, f'{leaf}_bias'), shape[1])


def into_heads(
  name: str,
  leaf: str,
  width: int,
  heads: tuple[int, int],
  *,
  bias: bool,
  of: tuple[str, ...] = ('attention',),
) -> Iterator[Entry]:
  """From `width` to `heads` (number, width)."""
  flat = heads[0] * heads[1]
  yield Entry(
    f'{name}.weight',
    (*of, leaf),
    (flat, width),
    lambda w: w.T.reshape(width, *heads),
    lambda w: w.reshape(width, flat).T,
  )
  if bias:
    yield Entry(
      f'{name}.bias',
      (*of, f'{leaf}_bias'),
      (flat,),
      lambda w: w.reshape(heads),
      lambda w: w.reshape(flat),
    )


def out_of_heads(
  name: str,
  width: int,
  heads: tuple[int, int],
  *,
  bias: bool,
  conv: bool = False,
  of: tuple[str, ...] = ('attention',),
) -> Iterator[Entry]:
  """The way back; `conv`: theirs is [in, out]."""
  flat = heads[0] * heads[1]
  yield Entry(
    f'{name}.weight',
    (*of, 'out'),
    (flat, width) if conv else (width, flat),
    lambda w: (w if conv else w.T).reshape(*heads, width),
    lambda w: w.reshape(flat, width) if conv else w.reshape(flat, width).T,
  )
  if bias:
    yield array(f'{name}.bias', (*of, 'out_bias'), width)


def attention(
  body: Body, names: Sequence[str], leaf: str, *, bias: bool
) -> Iterator[Entry]:
  """Query, key, value and output of the attention `leaf`, by these `names`."""
  sizes = body.sizes()
  shape = sizes.num_heads, sizes.head_width
  *of_qkv, out = names
  for name, own in zip(of_qkv, QKV):
    yield from into_heads(name, own, sizes.width, shape, bias=bias, of=(leaf,))
  yield from out_of_heads(out, sizes.width, shape, bias=bias, of=(leaf,))


def fused(name: str, width: int, heads: tuple[int, int]) -> list[Entry]:
  """Query, key and value of each head, one head after the other, with biases.

  [N x 3 x H, D], as GPT-NeoX and Bloom have them.
  """
  count, size = heads
  flat = 3 * count * size

  def joined(parts):
    whole = np.stack(parts, axis=1)  # [N, 3, H, ...]
    return whole.reshape(flat, *whole.shape[3:])

  def kernel(part):
    def ours(w):
      return w.reshape(count, 3, size, width)[:, part].transpose(2, 0, 1)

    return ours, lambda w: w.transpose(1, 2, 0)

  def bias(part):
    return lambda w: w.reshape(count, 3, size)[:, part], same

  return _of_three(name, (flat, width), (flat,), kernel, bias, joined)


def megatron(model: Decoder, attention: str) -> list[Entry]:
  """One layer of GPT-NeoX or Bloom, whose `attention` is named so."""
  sizes, width = model.sizes(), model.embed.width
  ffn = model.stack.ffn_width_of(width)
  heads = sizes.num_heads, sizes.head_width
  return [
    *norm('input_layernorm', 'norm_0', width, bias=True),
    *norm('post_attention_layernorm', 'norm_1', width, bias=True),
    *fused(f'{attention}.query_key_value', width, heads),
    *out_of_heads(f'{attention}.dense', width, heads, bias=True),
    *linear('mlp.dense_h_to_4h', 'in', (width, ffn), bias=True),
    *linear('mlp.dense_4h_to_h', 'out', (ffn, width), bias=True),
  ]


def side_by_side(name: str, width: int, heads: tuple[int, int]) -> list[Entry]:
  """All queries, then all keys, then all values, with biases.

  [D, 3 x N x H], as GPT-2 has them.
  """
  flat = heads[0] * heads[1]

  def joined(parts):
    return np.concatenate(parts, axis=-1)

  def kernel(part):
    def ours(w):
      return w[:, part * flat : (part + 1) * flat].reshape(width, *heads)

    return ours, lambda w: w.reshape(width, flat)

  def bias(part):
    def ours(w):
      return w[part * flat : (part + 1) * flat].reshape(heads)

    return ours, lambda w: w.reshape(flat)

  return _of_three(name, (width, 3 * flat), (3 * flat,), kernel, bias, joined)


def _of_three(name, of_kernel, of_bias, kernel, bias, joined) -> list[Entry]:
  """Query, key and value, of one array of kernels and one of biases."""
  found = []
  for part, leaf in enumerate(QKV):
    for end, path, shape, ways in (
      ('weight', leaf, of_kernel, kernel(part)),
      ('bias', f'{leaf}_bias', of_bias, bias(part)),
    ):
      path = 'attention', path
      found.append(Entry(f'{name}.{end}', path, shape, *ways, joined=joined))
  return found
