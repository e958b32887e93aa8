"""Names, shapes and layouts of the official Transformer-XL's state dict.

Two spellings are known: that of `MemTransformerLM` (Dai et al. 2019), and
that of the released `transfo-xl-wt103`, whose body is under `transformer.`
and whose biases belong to each layer. A torch Linear holds [out, in]; ours
is [in, out], with heads apart. Their learned distances run from far to near.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from lctx.models.decoder import Decoder
from lctx.positions.xl import LearnedRelative


@dataclasses.dataclass(frozen=True)
class Spelling:
  """Where a family of files keeps its names."""

  body: str = ''  # what every name of the body begins with
  layer_biases: bool = False  # biases are named per layer
  clusters_forward: bool = False  # cluster i - 1 belongs to bin i, not -i


OFFICIAL = Spelling()
RELEASED = Spelling('transformer.', layer_biases=True, clusters_forward=True)


@dataclasses.dataclass(frozen=True)
class Entry:
  """One array of theirs, and the place it has in our tree."""

  name: str
  path: tuple[str, ...]
  shape: tuple[int, ...]
  ours: Callable[[np.ndarray], np.ndarray]
  theirs: Callable[[np.ndarray], np.ndarray]
  layer: int | None = None  # of a place that is stacked over layers
  part: int | None = None  # of an array that holds query, key and value


def entries(model: Decoder, spelling: Spelling) -> list[Entry]:
  """Every array of the file that is not tied to another one."""
  found = _vocabulary(model, spelling)
  for layer in range(model.stack.depth):
    found += _layer(model, spelling, layer)
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
    turn = _reversed if spelling.clusters_forward else _same
    clusters = len(embed.cutoffs)
    for name, path, shape in (
      ('weight', 'clusters', (clusters, embed.tables[0][1])),
      ('bias', 'cluster_bias', (clusters,)),
    ):
      path = ('vocabulary', path)
      found.append(Entry(f'crit.cluster_{name}', path, shape, turn, turn))
  return found


def _layer(model, spelling, layer):
  sizes = model.sizes()
  width, heads, flat = sizes.width, sizes[1:3], sizes[1] * sizes[2]
  ffn = model.stack.ffn_width or 4 * width
  at = f'{spelling.body}layers.{layer}.'

  def entry(name, path, shape, ours=_same, theirs=_same, part=None):
    path = ('layers', *path.split('/'))
    return Entry(at + name, path, shape, ours, theirs, layer, part)

  def into_heads(part=0):
    def ours(w):
      return w[part * flat : (part + 1) * flat].T.reshape(width, *heads)

    return ours, lambda w: w.reshape(width, flat).T

  found = [
    entry(
      'dec_attn.qkv_net.weight',
      f'attention/{name}',
      (3 * flat, width),
      *into_heads(part),
      part,
    )
    for part, name in enumerate(('query', 'key', 'value'))
  ]
  if not isinstance(model.position, LearnedRelative):
    shape = (flat, width)
    found.append(
      entry('dec_attn.r_net.weight', 'relative', shape, *into_heads())
    )
  found += [
    entry(
      'dec_attn.o_net.weight',
      'attention/out',
      (width, flat),
      lambda w: w.T.reshape(*heads, width),
      lambda w: w.reshape(flat, width).T,
    ),
    entry('pos_ff.CoreNet.0.weight', 'ffn/in', (ffn, width), _turn, _turn),
    entry('pos_ff.CoreNet.0.bias', 'ffn/in_bias', (ffn,)),
    entry('pos_ff.CoreNet.3.weight', 'ffn/out', (width, ffn), _turn, _turn),
    entry('pos_ff.CoreNet.3.bias', 'ffn/out_bias', (width,)),
  ]
  for part, norm in (('dec_attn', 'norm_0'), ('pos_ff', 'norm_1')):
    for theirs, ours in (('weight', 'scale'), ('bias', 'bias')):
      name = f'{part}.layer_norm.{theirs}'
      found.append(entry(name, f'{norm}/{ours}', (width,)))
  return found


def _biases(model, spelling):
  """u and v, shared or per layer, and the learned table of distances."""
  position, depth, heads = model.position, model.stack.depth, model.sizes()[1:3]
  pair = (('r_w_bias', 'content_bias'), ('r_r_bias', 'distance_bias'))
  if isinstance(position, LearnedRelative):
    table = (depth, position.length, *heads)
    far, near = ('layers', 'relative'), ('layers', 'relative_bias')
    return [
      Entry('r_emb', far, table, _far_first, _far_first),
      Entry('r_bias', near, table[:3], _far_first, _far_first),
      Entry(
        'r_w_bias', ('layers', 'content_bias'), (depth, *heads), _same, _same
      ),
    ]
  if not position.per_layer:
    return [
      Entry(spelling.body + theirs, ('once', ours), heads, _same, _same)
      for theirs, ours in pair
    ]
  return [
    Entry(
      f'{spelling.body}layers.{layer}.dec_attn.{theirs}',
      ('layers', ours),
      heads,
      _same,
      _same,
      layer,
    )
    for layer in range(depth)
    for theirs, ours in pair
  ]


def _plain(name, path, shape):
  return Entry(name, ('vocabulary', path), shape, _same, _same)


def _same(w):
  return w


def _turn(w):
  return w.T


def _reversed(w):
  return w[::-1]


def _far_first(w):
  return w[:, ::-1]
