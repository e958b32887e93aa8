"""Memories in float64 NumPy, straight from their equations, and slow.

A document is read by itself, segment by segment and layer by layer, token by
token where an equation speaks of tokens. So nothing has to be reset, masked or
cut in turns. Layers are pre-norm; distances cost what they do in ALiBi where a
memory says how far off its states are, nothing elsewhere; parameters bear the
names they have in lctx, of which nothing is imported.
"""

import numpy as np

WIDTH = 16  # of the model


def hidden(params, memory, segments):
  """States [n, D] behind the last layer of one document's tokens.

  `segments` are arrays of token ids; `memory(layer params)` makes what a layer
  remembers with, and `memory.around` what stands around the text.
  """
  table = np.float64(params['vocabulary']['table_0'])
  layers = _layers(params['layers'])
  held = [memory(layer) for layer in layers]
  around = getattr(memory, 'around', Around)(params.get('around', {}))
  found = []
  for tokens in segments:
    first, last = around.first(), around.last()
    x = np.concatenate([first, table[tokens] * WIDTH**0.5, last])
    for layer, remembered in zip(layers, held):
      x = _layer(layer, remembered, x, len(first), len(last))
    stop = len(x) - len(last)
    around.keep(x[stop:])
    found.append(x[len(first) : stop])
  return np.concatenate(found)


def _layers(stacked):
  """Parameters of each layer, float64, by name."""
  flat = {}

  def walk(tree, path):
    for name, value in tree.items():
      if isinstance(value, dict):
        walk(value, (*path, name))
      else:
        flat['.'.join((*path, name))] = np.asarray(value, np.float64)

  walk(stacked, ())
  depth = len(next(iter(flat.values())))
  return [{n: v[i] for n, v in flat.items()} for i in range(depth)]


def _layer(p, memory, x, before, after):
  x = memory.enter(x)
  h = layer_norm(x, p, 'norm_0')
  q, k, v = (
    np.einsum('td,dnh->tnh', h, p[f'attention.{name}'])
    for name in ('query', 'key', 'value')
  )
  heads = memory.look(h, q, k, v)
  y = x + np.einsum('tnh,nhd->td', heads, p['attention.out'])
  h = layer_norm(y, p, 'norm_1')
  h = np.maximum(h @ p['ffn.in'] + p['ffn.in_bias'], 0)
  y = y + h @ p['ffn.out'] + p['ffn.out_bias']
  text = slice(before, len(x) - after)
  memory.write(x[text], k[text], v[text], y[text], y[len(x) - after :])
  return memory.leave(y, text)


def layer_norm(x, p, name):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
  return x * p[f'{name}.scale'] + p[f'{name}.bias']


def rms_norm(x, scale):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def softmax_mean(logits, values):
  weights = np.exp(logits - logits.max())
  return weights @ values / weights.sum()


def attend(q_H, k_SH, v_SH, cost_S=0.0):
  """One query of one head."""
  return softmax_mean(k_SH @ q_H / np.sqrt(len(q_H)) - cost_S, v_SH)


def slope(head, heads):
  """What a step costs in ALiBi."""
  return 2.0 ** (-8 * (head + 1) / heads)


def each(q_TNH, one):
  """`one(query number, head, query)` for all of them."""
  return np.stack(
    [
      [one(t, n, q_TNH[t, n]) for n in range(q_TNH.shape[1])]
      for t in range(len(q_TNH))
    ]
  )


def sigmoid(x):
  return (1 + np.tanh(x / 2)) / 2


class Around:
  """Nothing stands around the text."""

  def __init__(self, params):
    self.p = params
    tokens = np.float64(params.get('tokens', np.zeros((0, 0))))
    self.tokens = tokens * WIDTH**0.5  # as embedded tokens

  def first(self):
    return np.zeros((0, WIDTH))

  def last(self):
    return np.zeros((0, WIDTH))

  def keep(self, x):
    pass


class Nothing:
  """Attention to the own segment, causal."""

  def __init__(self, p):
    self.p = {
      name.removeprefix('memory_'): value
      for name, value in p.items()
      if name.startswith('memory_')
    }
    self.layer = p
    self.begin()

  def begin(self):
    pass

  def enter(self, x):
    return x

  def look(self, h, q, k, v):
    return each(q, lambda t, n, q: attend(q, k[: t + 1, n], v[: t + 1, n]))

  def write(self, x, k, v, y, after):
    pass

  def leave(self, y, text):
    return y

  def keys_and_values(self, x):
    h = layer_norm(x, self.layer, 'norm_0')
    return (
      np.einsum('td,dnh->tnh', h, self.layer[f'attention.{name}'])
      for name in ('key', 'value')
    )

  def head_gate(self, n, seen, recalled):
    share = sigmoid(self.p['gate_bias'][n])
    return (1 - share) * seen + share * recalled


class InSteps(Nothing):
  """Each step back costs `slope`, as ALiBi has it."""

  def look(self, h, q, k, v):
    def one(t, n, q_H):
      cost = slope(n, q.shape[1]) * (t - np.arange(t + 1))
      return attend(q_H, k[: t + 1, n], v[: t + 1, n], cost)

    return each(q, one)


class Compressive(Nothing):
  """Rae et al. 2019: evicted states, every `rate` of them as one.

  `lost`, where it is a list, gets how far attention to these is from attention
  to what they stand for, of every segment: algorithm 2.
  """

  recent, compressed, rate = 6, 4, 3
  lost = None

  def begin(self):
    # What is empty at first is no state: None.
    self.mem = [None] * self.recent
    self.old = [None] * self.compressed
    self.usage = [np.zeros(2)] * self.recent  # weights, and how many

  def look(self, h, q, k, v):
    both = self.old + self.mem
    states = [s for s in both if s is not None]
    places = [i - len(both) for i, s in enumerate(both) if s is not None]
    places = np.array([*places, *range(len(q))])
    self.weights = np.zeros((len(states) + len(q), 2))
    if states:
      old_k, old_v = self.keys_and_values(np.stack(states))
      k, v = np.concatenate([old_k, k]), np.concatenate([old_v, v])

    heads = q.shape[1]

    def one(t, n, q):
      stop = len(states) + t + 1
      cost = slope(n, heads) * (t - places[:stop])
      logits = k[:stop, n] @ q / np.sqrt(len(q)) - cost
      weights = np.exp(logits - logits.max())
      self.weights[:stop, 0] += weights / weights.sum()
      self.weights[:stop, 1] += 1
      return attend(q, k[:stop, n], v[:stop, n], cost)

    return each(q, one)

  def write(self, x, k, v, y, after):
    given = list(self.weights[sum(s is not None for s in self.old) :])
    empty = sum(s is None for s in self.mem)
    given = [np.zeros(2)] * empty + given
    usage = [u + g for u, g in zip(self.usage, given)] + given[self.recent :]
    both = [*self.mem, *x]
    lead = self.segment - len(x)  # a first segment may be shorter
    both, usage = both[:], usage[:]
    if lead:
      both = self.mem + [None] * lead + [*x]
      usage = usage[: self.recent] + [np.zeros(2)] * lead + usage[self.recent :]
    out, self.mem = both[: self.segment], both[self.segment :]
    out_usage, self.usage = usage[: self.segment], usage[self.segment :]
    made = self.made(out, out_usage)
    if self.lost is not None and any(s is not None for s in out):
      far = self._content(x, out) - self._content(x, made)
      self.lost.append(np.square(far).mean())
    self.old = (self.old + made)[-self.compressed :]

  segment = 6

  def _content(self, text, states):
    """What a text sees in states, wherever they are."""
    h = layer_norm(text, self.layer, 'norm_0')
    q = np.einsum('td,dnh->tnh', h, self.layer['attention.query'])
    there = np.stack([s for s in states if s is not None])
    k, v = self.keys_and_values(there)
    return each(q, lambda t, n, q: attend(q, k[:, n], v[:, n]))

  def made(self, out, usage):
    groups = [out[i : i + self.rate] for i in range(0, len(out), self.rate)]
    return [
      self.compress(group) if any(s is not None for s in group) else None
      for group in groups
    ]

  def compress(self, group):
    raise AssertionError


class Mean(Compressive):
  def compress(self, group):
    return np.mean([s for s in group if s is not None], axis=0)


class Max(Compressive):
  def compress(self, group):
    return np.max([s for s in group if s is not None], axis=0)


class Conv(Compressive):
  def compress(self, group):
    kernel, bias = self.p['compressor_kernel'], self.p['compressor_bias']
    there = [(s, w) for s, w in zip(group, kernel) if s is not None]
    return sum(s @ w for s, w in there) + bias


class Dilated(Compressive):
  def made(self, out, usage):
    width = self.p['compressor_near'].shape[-1]
    x = np.stack([np.zeros(width) if s is None else s for s in out])

    def convolved(name, x, gap):
      y = np.zeros_like(x)
      for t in range(len(x)):
        for i, w in enumerate(self.p[f'compressor_{name}']):
          s = t + (i - 1) * gap
          if 0 <= s < len(x):
            y[t] += x[s] @ w
      return y + self.p[f'compressor_{name}_bias']

    near = np.maximum(convolved('near', x, 1), 0)
    near[[s is None for s in out]] = 0
    far = convolved('far', near, self.rate)[self.rate // 2 :: self.rate]
    groups = [out[i : i + self.rate] for i in range(0, len(out), self.rate)]
    return [
      state if any(s is not None for s in group) else None
      for group, state in zip(groups, far)
    ]


class MostUsed(Compressive):
  def made(self, out, usage):
    count = len(out) // self.rate
    usage = [-1 if s is None else u / n for s, (u, n) in zip(out, usage)]
    best = np.argsort(-np.array(usage), kind='stable')[:count]
    return [out[i] for i in sorted(best)]


class Infini(Nothing):
  """Munkhdalai et al. 2024: f(q) M / f(q) z, by the sums they stand for."""

  delta = False

  def begin(self):
    self.past = []  # (f(k), v) of all tokens, [N, H] each
    self.matrix = self.z = None

  def look(self, h, q, k, v):
    near = super().look(h, q, k, v)
    if self.matrix is None:
      return near

    def one(t, n, q):
      f = features(q)
      return f @ self.matrix[n] / (f @ self.z[n])

    return self.joined(near, each(q, one))

  def joined(self, near, recalled):
    share = sigmoid(self.p['gate_bias'])[:, None]
    return (1 - share) * near + share * recalled

  def write(self, x, k, v, y, after):
    _, heads, width = k.shape
    if self.matrix is None:
      self.matrix = np.zeros((heads, width, width))
      self.z = np.zeros((heads, width))
    for n in range(heads):
      f, new = features(k[:, n]), v[:, n]
      if self.delta and self.z[n].any():
        new = new - f @ self.matrix[n] / (f @ self.z[n])[:, None]
      self.matrix[n] += f.T @ new
      self.z[n] += f.sum(0)


class InfiniDelta(Infini):
  delta = True


class InfiniLstm(Infini):
  """Gated by what all heads recall."""

  def joined(self, near, recalled):
    by = recalled.reshape(len(recalled), -1)

    def share(of, more):
      logit = by @ self.p[f'gate_{of}'] + self.p[f'gate_{of}_bias']
      return sigmoid(logit + more).reshape(near.shape)

    return share('forget', 1) * near + share('input', -1) * recalled


def features(x):
  return np.where(x > 0, x + 1, np.exp(x))


class GatedDelta(Nothing):
  """Yang et al. 2024, token by token."""

  delta, gated = True, False

  def begin(self):
    self.past = []
    self.state = None

  def look(self, h, q, k, v):
    seen = super().look(h, q, k, v) if self.gated else None
    heads, width = q.shape[1:]
    if self.state is None:
      self.state = np.zeros((heads, width, width))
    p, y = self.p, np.zeros_like(q)
    for t in range(len(q)):
      self.past = [np.concatenate([q[t], k[t], v[t]]), *self.past][:4]
      mixed = sum(w * x for w, x in zip(p['convolution'], self.past))
      mixed = mixed * sigmoid(mixed)
      asks, key, value = np.split(mixed, 3)
      for n in range(heads):
        decay = h[t] @ p['decay'][:, n] + p['decay_bias'][n]
        kept = np.exp(-np.exp(p['rate'][n]) * np.log1p(np.exp(decay)))
        strength = sigmoid(h[t] @ p['strength'][:, n])
        unit = key[n] / np.sqrt((key[n] ** 2).sum() + 1e-6)
        state = kept * self.state[n]
        known = unit @ state if self.delta else 0
        state = state + strength * np.outer(unit, value[n] - known)
        self.state[n] = state
        asked = asks[n] / np.sqrt((asks[n] ** 2).sum() + 1e-6)
        opened = h[t] @ p['open'][:, n]
        read = rms_norm(asked @ state, p['norm_scale'])
        y[t, n] = read * opened * sigmoid(opened)
        if self.gated:
          y[t, n] = self.head_gate(n, seen[t, n], y[t, n])
    return y


class GatedLinear(GatedDelta):
  delta = False


class DeltaBeside(GatedDelta):
  gated = True


class StateCell(InSteps):
  """Hutchins et al. 2022, section 3."""

  cell = 'skip'

  def begin(self):
    self.states = self.p['start']

  def _heads(self, name, x):
    return np.einsum('md,dnh->mnh', x, self.p[name])

  def _seen(self, states):
    return rms_norm(states, self.p['norm_scale']) + self.p['identity']

  def look(self, h, q, k, v):
    near = super().look(h, q, k, v)
    seen = self._seen(self.states)
    k, v = self._heads('key', seen), self._heads('value', seen)
    asked = self._heads('ask', h)
    far = each(asked, lambda t, n, q: attend(q, k[:, n], v[:, n]))
    return np.concatenate([near, far], axis=1)

  def write(self, x, k, v, y, after):
    seen = self._seen(self.states)
    s_k, s_v = self._heads('key', seen), self._heads('value', seen)
    itself = each(
      self._heads('query', seen),
      lambda m, n, q: attend(q, s_k[:, n], s_v[:, n]),
    )
    told = each(
      self._heads('across', seen), lambda m, n, q: attend(q, k[:, n], v[:, n])
    )
    both = np.concatenate([itself, told], axis=1)
    both = both.reshape(len(both), -1)
    if self.cell == 'single':
      new, hidden = self._feed(both)
      self.states = self.gate('gate', self.states, np.tanh(new), hidden)
      return
    new = both @ self.p['joined'] + self.p['joined_bias']
    self.states = self.gate('gate', self.states, new, both)
    if self.cell == 'dual':
      normed = rms_norm(self.states, self.p['ffn_norm_scale'])
      new, hidden = self._feed(normed)
      self.states = self.gate('ffn_gate', self.states, new, hidden)

  def _feed(self, x):
    h = np.maximum(x @ self.p['ffn_in'] + self.p['ffn_in_bias'], 0)
    return h @ self.p['ffn_out'] + self.p['ffn_out_bias'], h

  def gate(self, name, kept, new, by):
    share = sigmoid(self.p[f'{name}_bias'])
    return share * kept + (1 - share) * new


class DualCell(StateCell):
  cell = 'dual'

  def gate(self, name, kept, new, by):
    def linear(of):
      return by @ self.p[f'{name}_{of}'] + self.p[f'{name}_{of}_bias']

    forget, take = sigmoid(linear('forget') + 1), sigmoid(linear('input') - 1)
    return forget * kept + take * new


class SingleCell(StateCell):
  cell = 'single'

  def gate(self, name, kept, new, by):
    logit = by @ self.p[f'{name}_keep'] + self.p[f'{name}_keep_bias']
    share = sigmoid(logit + 1)
    return share * kept + (1 - share) * new


class Retrieval(Nothing):
  """Wu et al. 2022: sort all keys, take the best."""

  slots, neighbours = 16, 3

  def begin(self):
    self.past = []

  def look(self, h, q, k, v):
    near = super().look(h, q, k, v)
    if not self.past:
      return near
    old_k, old_v = (np.stack(x) for x in zip(*self.past))

    def one(t, n, q):
      best = np.argsort(-(old_k[:, n] @ q))[: self.neighbours]
      recalled = attend(q, old_k[best, n], old_v[best, n])
      return self.head_gate(n, near[t, n], recalled)

    return each(q, one)

  def write(self, x, k, v, y, after):
    self.past = ([*self.past, *zip(k, v)])[-self.slots :]


class DenseRetrieval(Retrieval):
  """The same keys in one softmax with the segment's; these alone have steps."""

  def look(self, h, q, k, v):
    if not self.past:
      return InSteps.look(self, h, q, k, v)
    old_k, old_v = (np.stack(x) for x in zip(*self.past))

    def one(t, n, q):
      both = np.concatenate([old_k[:, n], k[: t + 1, n]])
      cost = np.zeros(len(both))
      cost[len(old_k) :] = slope(n, k.shape[1]) * (t - np.arange(t + 1))
      return attend(q, both, np.concatenate([old_v[:, n], v[: t + 1, n]]), cost)

    return each(q, one)


class Sinks(Nothing):
  """Xiao et al. 2023: of all keys so far, the first and the last ones.

  Every query is a step of its own; distances are between places in the cache
  and cost `slope` a step, as ALiBi has it for its head.
  """

  recent, sinks = 7, 2

  def begin(self):
    self.past = []

  def look(self, h, q, k, v):
    known, self.past = self.past, [*self.past, *zip(k, v)]
    heads = q.shape[1]

    def one(t, n, q):
      cache = self.past[: len(known) + t + 1]
      if len(cache) > self.sinks + self.recent:
        cache = cache[: self.sinks] + cache[-self.recent :]
      k, v = (np.stack([pair[i][n] for pair in cache]) for i in range(2))
      back = len(cache) - 1 - np.arange(len(cache))
      return attend(q, k, v, slope(n, heads) * back)

    return each(q, one)


class ReadWrite(Around):
  """Bulatov et al. 2022: [memory; text; memory]."""

  def __init__(self, params):
    super().__init__(params)
    self.memory = self.tokens

  def first(self):
    return self.memory

  def last(self):
    return self.memory

  def keep(self, x):
    p = {
      f'norm.{n}': np.float64(self.p[f'norm_{n}']) for n in ('scale', 'bias')
    }
    self.memory = layer_norm(x, p, 'norm')


class Tokens(InSteps):
  around = ReadWrite


class Behind(Around):
  """The same tokens behind each segment."""

  def last(self):
    return self.tokens


class Associative(InSteps):
  """Rodkin et al. 2024, memory tokens all write at once."""

  around = Behind
  degree = 3

  def begin(self):
    self.matrix = self.z = None

  def _spread(self, name, x):
    x = x @ self.p[name]
    both = np.maximum(np.concatenate([x, -x]), 0)
    spread = np.concatenate(
      [both * np.roll(both, j + 1) for j in range(self.degree)]
    )
    return spread / np.sqrt(spread @ spread + 1e-10)

  def _recalled(self, f):
    return f @ self.matrix / (f @ self.z + 1e-5)

  def enter(self, x):
    if self.matrix is None:
      return x
    return np.stack([h + self._recalled(self._spread('query', h)) for h in x])

  def write(self, x, k, v, y, after):
    if self.matrix is None:
      spread = len(self._spread('key', after[0]))
      self.matrix, self.z = np.zeros((spread, y.shape[1])), np.zeros(spread)
    matrix, z = self.matrix.copy(), self.z.copy()
    for m in after:
      f = self._spread('key', m)
      strength = sigmoid(m @ self.p['strength'] + self.p['strength_bias'][0])
      new = m @ self.p['value'] - self._recalled(f)
      matrix += strength * np.outer(f, new)
      z += np.clip(1 - self.z @ f / (f @ f + 1e-5), 0, 1) * f
    self.matrix, self.z = matrix, z


class Melodi(Nothing):
  """Chen et al. 2024, section 3; weights by the place in the segment.

  The short memory lies before the segment, the long one nowhere.
  """

  around, segment = Behind, 6
  long = 0

  def begin(self):
    self.short, self.kept = None, []

  def look(self, h, q, k, v):
    if self.short is not None:
      old_k, old_v = self.keys_and_values(self.short)
      k, v = np.concatenate([old_k, k]), np.concatenate([old_v, v])
    before, heads = len(k) - len(q), q.shape[1]
    far = None
    if self.kept:
      far = [*self.keys_and_values(np.stack(self.kept))]

    def one(t, n, q):
      stop = before + t + 1
      cost = slope(n, heads) * (stop - 1 - np.arange(stop))
      seen = attend(q, k[:stop, n], v[:stop, n], cost)
      if far is None:
        return seen
      share = sigmoid(self.p['gate_bias'][n])
      recalled = attend(q, far[0][:, n], far[1][:, n])
      return share * seen + (1 - share) * recalled

    return each(q, one)

  def _mixed(self, name, text, summary):
    plain = name == 'long'
    after = summary
    if not plain:
      text = rms_norm(text, self.p[f'{name}_text_norm_scale'])
      after = rms_norm(summary, self.p[f'{name}_summary_norm_scale'])
    kernel = self.p[f'{name}_kernel']
    skipped = self.segment - len(text)  # a first segment may be shorter
    weights = kernel[skipped:]
    mixed = weights.T @ np.concatenate([text, after])
    mixed = mixed + self.p[f'{name}_bias'][:, None]
    return mixed if plain else mixed + summary

  def write(self, x, k, v, y, after):
    self.short = self._mixed('short', y, after)
    if self.long:
      self.kept += [*self._mixed('long', y, after)]
      self.kept = self.kept[-self.long :]

  def leave(self, y, text):
    summary = self._mixed('summary', y[text], y[text.stop :])
    return np.concatenate([y[text], summary])


class MelodiLong(Melodi):
  long = 8
