"""Transformer-XL in float64 NumPy, straight from its equations, and slow.

Dai et al. 2019, sections 3.2 and 3.3. Parameters bear the names they have in
the published PyTorch code and configurations its argument names. Every score
A_ij is computed from its own distance i + M - j: nothing is shifted.
"""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Result:
  """What a pass yields: `nll` [B, n] in nats, `hidden` [B, n, D], `mems`.

  `mems` has one [B, M, D] array per layer's input and one for the last output.
  """

  nll: np.ndarray
  hidden: np.ndarray
  mems: list[np.ndarray]


def transformer_xl(
  params, config, ids, segment_lengths=None, documents=None
) -> Result:
  """Reads `ids` [B, n + 1] segment by segment, with a memory that fills up.

  Segments have `tgt_len` tokens, the last one perhaps fewer, unless
  `segment_lengths` names them. `documents` [B, n] numbers the document of each
  input: keys of another document, remembered or not, are invisible.
  """
  inputs, length = ids[:, :-1], ids.shape[1] - 1
  if documents is None:
    documents = np.zeros_like(inputs)
  if segment_lengths is None:
    starts = range(0, length, config['tgt_len'])
    segment_lengths = [min(config['tgt_len'], length - s) for s in starts]
  assert sum(segment_lengths) == length
  params = _float64(params)
  mems, seen = _empty(config, len(ids)), documents[:, :0]
  hidden = []
  for end, size in zip(np.cumsum(segment_lengths), segment_lengths):
    now = documents[:, end - size : end]
    k_documents = np.concatenate([seen, now], 1)
    allowed = published_mask(config, size, seen.shape[1])
    allowed = allowed & (now[:, :, None] == k_documents[:, None, :])
    states = _states(
      params, config, ids=inputs[:, end - size : end], mems=mems, mask=allowed
    )
    hidden.append(states[-1])
    remembered = slice(max(0, k_documents.shape[1] - config['mem_len']), None)
    seen = k_documents[:, remembered]
    mems = [
      np.concatenate([m, h], 1)[:, remembered] for m, h in zip(mems, states)
    ]
  return _result(params, config, np.concatenate(hidden, 1), ids, mems)


def full_pass(params, config, ids, allowed) -> Result:
  """Reads `ids` [B, n + 1] in one pass under any causal mask.

  `allowed` is [n, n] or [B, n, n], true where query i sees key j. `mems` is
  what a memory of unbounded length would hold.
  """
  params = _float64(params)
  allowed = np.broadcast_to(allowed, (len(ids), *allowed.shape[-2:]))
  mems = _empty(config, len(ids))
  states = _states(params, config, ids=ids[:, :-1], mems=mems, mask=allowed)
  return _result(params, config, states[-1], ids, states)


def published_mask(config, num_queries, num_remembered):
  """[q, M + q] booleans: distances 0 and up, below `mem_len` if same_length."""
  steps = distance(num_queries, num_remembered)
  if config['same_length']:
    return (steps >= 0) & (steps < config['mem_len'])
  return steps >= 0


def distance(num_queries, num_remembered):
  """[q, M + q] integers i + M - j: how far key j lies behind query i."""
  i = np.arange(num_queries)[:, None]
  j = np.arange(num_remembered + num_queries)[None, :]
  return i + num_remembered - j


def sinusoid(distance, d):
  """[..., d] features: d/2 sines, then the d/2 cosines (not interleaved)."""
  frequency = 10000.0 ** (-2 * np.arange(d // 2) / d)
  angle = np.asarray(distance, np.float64)[..., None] * frequency
  return np.concatenate([np.sin(angle), np.cos(angle)], -1)


def softmax(x):
  """Probabilities over the last axis; scores of -inf get exactly none."""
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def log_softmax(x):
  """Log-probabilities over the last axis."""
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def layer_norm(x, weight, bias):
  """Normalises the last axis by its biased variance plus 1e-5."""
  centred = x - x.mean(-1, keepdims=True)
  variance = (centred**2).mean(-1, keepdims=True)
  return centred / np.sqrt(variance + 1e-5) * weight + bias


def embed(params, config, ids):
  """[B, T, D] vectors of the tokens, times the square root of D."""
  vectors = np.zeros((*ids.shape, config['d_model']))
  for i, (start, end) in enumerate(_tables(config)):
    chosen = (start <= ids) & (ids < end)
    rows = params[f'word_emb.emb_layers.{i}.weight'][ids[chosen] - start]
    if f'word_emb.emb_projs.{i}' in params:
      rows = rows @ params[f'word_emb.emb_projs.{i}'].T
    vectors[chosen] = rows
  return vectors * math.sqrt(config['d_model'])


def adaptive_log_probs(params, config, h):
  """[..., n_token] log-probabilities after states `h` [..., D]; they sum to 1.

  The first softmax is over the shortlist and the clusters; a token of tail bin
  i has its cluster's probability (column -i: the last column is bin 1) times
  its probability within the bin. Without cutoffs this is the plain softmax.
  """
  params = _float64(params)
  log_probs = []
  for i, (start, end) in enumerate(_bins(config)):
    if config['div_val'] == 1:
      weight = params['crit.out_layers.0.weight'][start:end]
      bias = params['crit.out_layers.0.bias'][start:end]
    else:
      weight = params[f'crit.out_layers.{i}.weight']
      bias = params[f'crit.out_layers.{i}.bias']
    if i == 0 and config['cutoffs']:
      weight = np.concatenate([weight, params['crit.cluster_weight']])
      bias = np.concatenate([bias, params['crit.cluster_bias']])
    proj = params.get(f'crit.out_projs.{i}')
    logits = (h if proj is None else h @ proj) @ weight.T + bias
    if i == 0:
      head = log_softmax(logits)
      log_probs.append(head[..., :end])
    else:
      log_probs.append(head[..., -i, None] + log_softmax(logits))
  return np.concatenate(log_probs, -1)


def random_config(rng) -> dict:
  """Draws a small, odd configuration among all that are valid."""

  def pick(*options):
    return options[rng.integers(len(options))]

  attn_type = pick(0, 0, 1)  # sinusoids, of type 0, take an even width
  d_model = pick(5, 9, 10, 17) if attn_type else pick(6, 10, 16, 18)
  div_val = pick(1, 2, 4)
  d_embed = pick(None, d_model, 5, 8, 17)
  sizes = [pick(3, 4, 7) for _ in range(pick(0, 0, 1, 2, 3))]
  while (d_embed or d_model) < div_val ** len(sizes):
    sizes.pop()
  same_length = pick(False, True)
  return {
    'n_token': sum(sizes) + pick(5, 9),
    'n_layer': pick(1, 2, 3),
    'n_head': pick(1, 2, 3),
    'd_model': d_model,
    'd_head': pick(2, 3, 5),
    'd_inner': pick(5, 12),
    'dropout': 0.0,
    'dropatt': 0.0,
    'tie_weight': pick(True, False),
    'd_embed': d_embed,
    'div_val': div_val,
    'tie_projs': [pick(False, True) for _ in range(len(sizes) + 1)],
    'pre_lnorm': pick(False, True),
    'cutoffs': [int(end) for end in np.cumsum(sizes)],
    'attn_type': attn_type,
    'tgt_len': pick(1, 3, 5),
    'mem_len': pick(1, 2, 4, 7, 11) if same_length else pick(0, 1, 3, 7, 11),
    'train_tgt_len': pick(3, 4),
    'train_mem_len': pick(0, 3, 5),
    'same_length': same_length,
    'clamp_len': pick(-1, -1, 1, 3, 5),
    'segments': pick(2, 3, 4),
  }


def random_params(config, rng, scale=1.0) -> dict[str, np.ndarray]:
  """Draws every tensor far from its initial value; tied names share values."""
  params = {}
  for name, shape in shapes(config).items():
    if name in ties(config):
      params[name] = params[ties(config)[name]]
    elif name == 'pos_emb.inv_freq':
      params[name] = 10000.0 ** (-2 * np.arange(shape[0]) / config['d_model'])
    elif name.endswith('layer_norm.weight'):
      params[name] = 1 + scale / 2 * rng.standard_normal(shape)
    elif name.startswith(('word_emb', 'layers', 'crit')) and len(shape) == 2:
      fan_in = shape[0] if 'projs' in name else shape[1]
      params[name] = scale / math.sqrt(fan_in) * rng.standard_normal(shape)
    else:
      params[name] = scale * rng.standard_normal(shape)
  return params


def shapes(config) -> dict[str, tuple[int, ...]]:
  """The shape of every tensor of the published state dict, by its name.

  `pos_emb.inv_freq` is a constant there, not a parameter.
  """
  found = _position_shapes(config)
  for layer in range(config['n_layer']):
    for name, shape in _layer_shapes(config).items():
      found[f'layers.{layer}.{name}'] = shape
  d_model, d_embed = config['d_model'], _d_embed(config)
  for i, (start, end) in enumerate(_tables(config)):
    d_bin = d_embed // config['div_val'] ** i
    found[f'word_emb.emb_layers.{i}.weight'] = (end - start, d_bin)
    found[f'crit.out_layers.{i}.weight'] = (end - start, d_bin)
    found[f'crit.out_layers.{i}.bias'] = (end - start,)
    if _projected(config):
      found[f'word_emb.emb_projs.{i}'] = (d_model, d_bin)
  for i in range(len(_bins(config)) if _projected(config) else 0):
    found[f'crit.out_projs.{i}'] = (d_model, d_embed // config['div_val'] ** i)
  if config['cutoffs']:
    found['crit.cluster_weight'] = (len(config['cutoffs']), d_embed)
    found['crit.cluster_bias'] = (len(config['cutoffs']),)
  return found


def ties(config) -> dict[str, str]:
  """For each tied output tensor of the state dict, the input tensor it is."""
  pairs = {}
  if config['tie_weight']:
    for i in range(len(_tables(config))):
      source = f'word_emb.emb_layers.{i}.weight'
      pairs[f'crit.out_layers.{i}.weight'] = source
  if _projected(config):
    for i, tied in enumerate(config['tie_projs']):
      if tied:
        source = 0 if config['div_val'] == 1 else i
        pairs[f'crit.out_projs.{i}'] = f'word_emb.emb_projs.{source}'
  return pairs


def _position_shapes(config):
  heads = (config['n_head'], config['d_head'])
  if config['attn_type'] == 0:
    found = {'r_w_bias': heads, 'r_r_bias': heads}
    return found | {'pos_emb.inv_freq': (config['d_model'] // 2,)}
  n_layer = config['n_layer']
  max_klen = config['train_tgt_len'] + config['train_mem_len']
  return {
    'r_emb': (n_layer, max_klen, *heads),
    'r_w_bias': (n_layer, *heads),
    'r_bias': (n_layer, max_klen, config['n_head']),
  }


def _layer_shapes(config):
  d_model, d_inner = config['d_model'], config['d_inner']
  d_heads = config['n_head'] * config['d_head']
  found = {
    'dec_attn.qkv_net.weight': (3 * d_heads, d_model),
    'dec_attn.o_net.weight': (d_model, d_heads),
    'dec_attn.layer_norm.weight': (d_model,),
    'dec_attn.layer_norm.bias': (d_model,),
    'pos_ff.CoreNet.0.weight': (d_inner, d_model),
    'pos_ff.CoreNet.0.bias': (d_inner,),
    'pos_ff.CoreNet.3.weight': (d_model, d_inner),
    'pos_ff.CoreNet.3.bias': (d_model,),
    'pos_ff.layer_norm.weight': (d_model,),
    'pos_ff.layer_norm.bias': (d_model,),
  }
  if config['attn_type'] == 0:
    found['dec_attn.r_net.weight'] = (d_heads, d_model)
  return found


def _states(params, config, *, ids, mems, mask):
  h_BTD = embed(params, config, ids)
  states = [h_BTD]
  for layer, mem_BMD in zip(range(config['n_layer']), mems):
    h_BTD = _layer(
      params, config, layer=layer, h_BTD=h_BTD, mem_BMD=mem_BMD, mask_BTS=mask
    )
    states.append(h_BTD)
  return states


def _layer(params, config, *, layer, h_BTD, mem_BMD, mask_BTS):
  attention, ff = f'layers.{layer}.dec_attn.', f'layers.{layer}.pos_ff.'

  def attend(c_BSD):
    return _attention(
      params, config, layer=layer, c_BSD=c_BSD, mask_BTS=mask_BTS
    )

  c_BSD = np.concatenate([mem_BMD, h_BTD], 1)
  if config['pre_lnorm']:
    h_BTD = h_BTD + attend(_norm(params, attention, c_BSD))
    return h_BTD + _feed_forward(params, ff, _norm(params, ff, h_BTD))
  h_BTD = _norm(params, attention, h_BTD + attend(c_BSD))
  return _norm(params, ff, h_BTD + _feed_forward(params, ff, h_BTD))


def _attention(params, config, *, layer, c_BSD, mask_BTS):
  name = f'layers.{layer}.dec_attn.'
  B, S, _ = c_BSD.shape
  T, N, H = mask_BTS.shape[1], config['n_head'], config['d_head']
  steps_TS = distance(T, S - T)
  assert mask_BTS.any(-1).all() and not mask_BTS[:, steps_TS < 0].any()
  qkv = (c_BSD @ params[name + 'qkv_net.weight'].T).reshape(B, S, 3, N, H)
  q_BTNH, k_BSNH, v_BSNH = qkv[:, S - T :, 0], qkv[:, :, 1], qkv[:, :, 2]
  if config['attn_type'] == 0:
    u_NH, position = params['r_w_bias'], _sinusoidal
  else:
    u_NH, position = params['r_w_bias'][layer], _learned
  score_BNTS = np.einsum('btnh,bsnh->bnts', q_BTNH + u_NH, k_BSNH)
  score_BNTS = score_BNTS + position(
    params, config, layer=layer, q_BTNH=q_BTNH, steps_TS=np.maximum(steps_TS, 0)
  )
  score_BNTS = np.where(mask_BTS[:, None], score_BNTS, -np.inf)
  weight_BNTS = softmax(score_BNTS / math.sqrt(H))
  y_BTNH = np.einsum('bnts,bsnh->btnh', weight_BNTS, v_BSNH)
  return y_BTNH.reshape(B, T, N * H) @ params[name + 'o_net.weight'].T


def _sinusoidal(params, config, *, layer, q_BTNH, steps_TS):
  # (q_i + v) . W_r R[i + M - j]; distances beyond clamp_len count as clamp_len.
  if config['clamp_len'] > 0:
    steps_TS = np.minimum(steps_TS, config['clamp_len'])
  r_net = params[f'layers.{layer}.dec_attn.r_net.weight']
  r_TSD = sinusoid(steps_TS, config['d_model'])
  r_TSNH = (r_TSD @ r_net.T).reshape(*steps_TS.shape, *q_BTNH.shape[2:])
  return np.einsum('btnh,tsnh->bnts', q_BTNH + params['r_r_bias'], r_TSNH)


def _learned(params, config, *, layer, q_BTNH, steps_TS):
  # q_i . e[i + M - j] + b[i + M - j]. The tables' last row is distance 0 and
  # their first, or the clamp_len-th from the end, serves all that is farther.
  rows = params['r_emb'].shape[1]
  reach = min(rows, config['clamp_len']) if config['clamp_len'] > 0 else rows
  row_TS = rows - 1 - np.minimum(steps_TS, reach - 1)
  e_TSNH = params['r_emb'][layer][row_TS]
  b_TSN = params['r_bias'][layer][row_TS]
  return np.einsum('btnh,tsnh->bnts', q_BTNH, e_TSNH) + b_TSN.transpose(2, 0, 1)


def _feed_forward(params, name, h):
  h = h @ params[name + 'CoreNet.0.weight'].T + params[name + 'CoreNet.0.bias']
  h = np.maximum(h, 0)
  return (
    h @ params[name + 'CoreNet.3.weight'].T + params[name + 'CoreNet.3.bias']
  )


def _norm(params, name, h):
  name += 'layer_norm.'
  return layer_norm(h, params[name + 'weight'], params[name + 'bias'])


def _result(params, config, hidden, ids, mems):
  log_probs = adaptive_log_probs(params, config, hidden)
  nll = -np.take_along_axis(log_probs, ids[:, 1:, None], -1)[..., 0]
  return Result(nll, hidden, mems)


def _empty(config, rows):
  nothing = np.zeros((rows, 0, config['d_model']))
  return [nothing] * (config['n_layer'] + 1)


def _bins(config):
  ends = [*config['cutoffs'], config['n_token']]
  return list(zip([0, *ends], ends))


def _tables(config):
  return _bins(config) if config['div_val'] > 1 else [(0, config['n_token'])]


def _projected(config):
  return config['div_val'] > 1 or _d_embed(config) != config['d_model']


def _d_embed(config):
  return config['d_embed'] or config['d_model']


def _float64(params):
  return {name: np.asarray(x, np.float64) for name, x in params.items()}
