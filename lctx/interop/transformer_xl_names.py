"""Names, shapes and layouts of the official Transformer-XL's state dict.

Two spellings are known: that of `MemTransformerLM` (Dai et al. 2019), and
that of the released `transfo-xl-wt103`, whose body is under `transformer.`
and whose biases belong to each layer. A torch Linear holds [out, in]; ours
is [in, out], with heads apart. Their learned distances run from far to near.
"""

import dataclasses
from dataclasses import fields

import numpy as np

from lctx.interop.tables import Entry, of_layers, same, turned
from lctx.models.heads import Heads
from lctx.models.parts import Stack
from lctx.models.text import Decoder
from lctx.models.vocabulary import Embedding
from lctx.positions.xl import LearnedRelative, RelativeXL


@dataclasses.dataclass(frozen=True)
class Spelling:
  """Where a family of files keeps its names."""

  body: str = ''  # what every name of the body begins with
  layer_biases: bool = False  # biases are named per layer
  clusters_forward: bool = False  # cluster i - 1 belongs to bin i, not -i


OFFICIAL = Spelling()
RELEASED = Spelling('transformer.', layer_biases=True, clusters_forward=True)


def entries(model: Decoder, spelling: Spelling) -> list[Entry]:
  """Every array of the file that is not tied to another one.

  Raises:
    ValueError: a part of the model that official files have no names for.
  """
  _check_layers(model)
  found = _vocabulary(model, spelling)
  of_one = *_attention(model), *_feed_forward(model)
  found += of_layers(model, of_one, f'{spelling.body}layers.{{}}.')
  return found + _biases(model, spelling)


def tied(model: Decoder, spelling: Spelling) -> dict[str, str]:
  """Names that repeat another array: alias to the name it repeats."""
  embed, same = model.embed, {}
  if embed.tie_weights:
    for i in range(len(embed.tables)):
      table = f'{spelling.body}word_emb.emb_layers.{i}.weight'
      same[f'crit.out_layers.{i}.weight'] = table
  if embed.projected:
    for i in range(len(embed.bins)):
      if embed.projection_is_tied(i):
        own = 0 if len(embed.tables) == 1 else i
        same[f'crit.out_projs.{i}'] = f'{spelling.body}word_emb.emb_projs.{own}'
  return same


def _vocabulary(model, spelling):
  embed, body, found = model.embed, spelling.body, []
  projections = [(embed.width, e) for _, e in embed.tables]
  for i, (size, vectors) in enumerate(embed.tables):
    name = f'{body}word_emb.emb_layers.{i}.weight'
    found.append(_plain(name, f'table_{i}', (size, vectors)))
    found.append(_plain(f'crit.out_layers.{i}.bias', f'out_bias_{i}', (size,)))
    if not embed.tie_weights:
      name = f'crit.out_layers.{i}.weight'
      found.append(_plain(name, f'out_table_{i}', (size, vectors)))
    if embed.projected:
      name = f'{body}word_emb.emb_projs.{i}'
      found.append(_plain(name, f'projection_{i}', projections[i]))
  for i in range(len(embed.bins) if embed.projected else 0):
    if not embed.projection_is_tied(i):
      shape = projections[0 if len(projections) == 1 else i]
      name = f'crit.out_projs.{i}'
      found.append(_plain(name, f'out_projection_{i}', shape))
  if embed.cutoffs:
    turn = _reversed if spelling.clusters_forward else same
    clusters = len(embed.cutoffs)
    for name, path, shape in (
      ('weight', 'clusters', (clusters, embed.tables[0][1])),
      ('bias', 'cluster_bias', (clusters,)),
    ):
      path = ('vocabulary', path)
      found.append(Entry(f'crit.cluster_{name}', path, shape, turn, turn))
  return found


def _check_layers(model):
  """Official files hold one kind of norm and feed-forward part, no gates."""
  stack, position = model.stack, model.position
  if not isinstance(position, RelativeXL | LearnedRelative):
    raise ValueError(
      f'model.position = {position} is not in official Transformer-XL files. '
      'Use relativexl or learnedrelative, or keep the lctx checkpoint.'
    )
  published = Stack(stack.depth, stack.num_heads)
  sizes = 'depth', 'num_heads', 'head_width', 'ffn_width'
  free = *sizes, 'pre_norm', 'initializer_range'
  names = [f'stack.{x.name}' for x in fields(stack) if x.name not in free]
  names += [f'embed.{x}' for x in ('scaled', 'norm', 'out_bias', 'out_cap')]
  known = {'stack': published, 'embed': Embedding(1)}
  parts = []
  for name in names:
    part, _, field = name.partition('.')
    got = getattr(getattr(model, part), field)
    parts.append((name, got, getattr(known[part], field)))
  for name, got, want in (*parts, ('heads', model.heads, Heads())):
    if got != want:
      raise ValueError(
        f'model.{name} = {got} is not in official Transformer-XL files, '
        f'which know {want} only. Use that, or keep the lctx checkpoint.'
      )


def _attention(model):
  """Of one layer, under the names it has there."""
  width, heads = model.sizes().width, _heads(model)
  flat = heads[0] * heads[1]

  def into_heads(part=0):
    def ours(w):
      return w[part * flat : (part + 1) * flat].T.reshape(width, *heads)

    return ours, lambda w: w.reshape(width, flat).T

  name, shape = 'dec_attn.qkv_net.weight', (3 * flat, width)
  for part, ours in enumerate(('query', 'key', 'value')):
    turns = into_heads(part)
    path = 'attention', ours
    yield Entry(name, path, shape, *turns, joined=np.concatenate)
  if not isinstance(model.position, LearnedRelative):
    name, shape = 'dec_attn.r_net.weight', (flat, width)
    yield Entry(name, ('relative',), shape, *into_heads())
  yield Entry(
    'dec_attn.o_net.weight',
    ('attention', 'out'),
    (width, flat),
    lambda w: w.T.reshape(*heads, width),
    lambda w: w.reshape(flat, width).T,
  )
  yield from _norm('dec_attn', 'norm_0', width)


def _feed_forward(model):
  width = model.sizes().width
  ffn = model.stack.ffn_width_of(width)
  for name, ours, shape in (
    ('CoreNet.0', 'in', (ffn, width)),
    ('CoreNet.3', 'out', (width, ffn)),
  ):
    name = f'pos_ff.{name}'
    yield Entry(f'{name}.weight', ('ffn', ours), shape, turned, turned)
    bias = ('ffn', f'{ours}_bias')
    yield Entry(f'{name}.bias', bias, shape[:1], same, same)
  yield from _norm('pos_ff', 'norm_1', width)


def _norm(part, ours, width):
  for name, leaf in (('weight', 'scale'), ('bias', 'bias')):
    name = f'{part}.layer_norm.{name}'
    yield Entry(name, (ours, leaf), (width,), same, same)


def _biases(model, spelling):
  """u and v, shared or per layer, and the learned table of distances."""
  position, depth, heads = model.position, model.stack.depth, _heads(model)
  pair = (('r_w_bias', 'content_bias'), ('r_r_bias', 'distance_bias'))
  if isinstance(position, LearnedRelative):
    table = (depth, position.length, *heads)
    far, near = ('layers', 'relative'), ('layers', 'relative_bias')
    return [
      Entry('r_emb', far, table, _far_first, _far_first),
      Entry('r_bias', near, table[:3], _far_first, _far_first),
      Entry(
        'r_w_bias', ('layers', 'content_bias'), (depth, *heads), same, same
      ),
    ]
  if not position.per_layer:
    return [
      Entry(spelling.body + theirs, ('once', ours), heads, same, same)
      for theirs, ours in pair
    ]
  return [
    Entry(
      f'{spelling.body}layers.{layer}.dec_attn.{theirs}',
      ('layers', ours),
      heads,
      same,
      same,
      layer,
    )
    for layer in range(depth)
    for theirs, ours in pair
  ]


def _heads(model):
  sizes = model.sizes()
  return sizes.num_heads, sizes.head_width


def _plain(name, path, shape):
  return Entry(name, ('vocabulary', path), shape, same, same)


def _reversed(w):
  return w[::-1]


def _far_first(w):
  return w[:, ::-1]
