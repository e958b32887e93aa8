"""Different memories in one model: side by side, or on some layers."""

import dataclasses
import math

import jax.numpy as jnp

from lctx.layers.parameters import within
from lctx.memory.base import Memory


@dataclasses.dataclass(frozen=True)
class Together(Memory):
  """Two memories of each layer: queries see the sources of both.

  Each is as it would be alone, but that the second recalls beside what the
  first has recalled already. At most one has tokens around the text.
  """

  first: Memory
  second: Memory

  def __post_init__(self):
    if all(any(m.around.counts) for m in self._both):
      raise ValueError(
        'model.memory = together has two memories that put tokens around the '
        f'text: {self.first} and {self.second}. Use one of them.'
      )

  @property
  def _both(self):
    return self.first, self.second

  @property
  def attends(self):
    return self.first.attends or self.second.attends

  @property
  def in_order(self):
    both_behind = self.first.length and self.second.length  # not end to end
    return all(m.in_order for m in self._both) and not both_behind

  @property
  def needs_bptt(self):
    return self.first.needs_bptt or self.second.needs_bptt

  @property
  def length(self):
    return max(self.first.length, self.second.length)

  @property
  def multiple(self):
    return math.lcm(self.first.multiple, self.second.multiple)

  @property
  def around(self):
    has_none = not any(self.first.around.counts)
    return (self.second if has_none else self.first).around

  def of_layers(self, depth):
    layers = zip(*(memory.of_layers(depth) for memory in self._both))
    return tuple(Together(*pair) for pair in layers)

  def heads(self, num_heads):
    more = self.first.heads(num_heads) - num_heads
    return self.second.heads(num_heads) + more

  def patterns(self, pattern):
    near, *far = self.first.patterns(pattern)
    near, *farther = self.second.patterns(near)
    return near, *far, *farther

  def flops(self, sizes, segment):
    return sum(memory.flops(sizes, segment) for memory in self._both)

  def check_segment(self, segment, field):
    for memory in self._both:
      memory.check_segment(segment, field)

  def check(self, sizes, pattern, heads):
    for memory, other in (self._both, self._both[::-1]):
      if not memory.attends:
        raise ValueError(
          f'model.memory = together has {memory}, which lets the layer attend '
          'to nothing, and so to nothing of the other memory. Give it a gate, '
          'or use the two on different layers, by onlayers.'
        )
      near, *_ = other.patterns(pattern)
      memory.check(sizes, near, heads)

  def initial(self, batch, sizes, dtype):
    return tuple(memory.initial(batch, sizes, dtype) for memory in self._both)

  def once(self, param, sizes, drop):
    return tuple(
      memory.once(own, sizes, drop)
      for memory, own in zip(self._both, _params(param))
    )

  def enter(self, param, carry, x, at):
    for memory, own, held in zip(self._both, _params(param), carry):
      x = memory.enter(own, held, x, at)
    return x

  def sources(self, param, carry, near, layer):
    far = ()
    parts = zip(self._both, _params(param), carry, _layers(layer))
    for memory, own, held, of_layer in parts:
      near, *more = memory.sources(own, held, near, of_layer)
      far = *far, *more
    return near, *far

  def mix(self, param, carry, y, layer):
    num_heads, added, carries = y.shape[2], [], []
    parts = zip(self._both, _params(param), carry, _layers(layer))
    for memory, own, held, of_layer in parts:
      y, held = memory.mix(own, held, y, of_layer)
      added.append(y[:, :, num_heads:])
      y = y[:, :, :num_heads]
      carries.append(held)
    return jnp.concatenate([y, *added], axis=2), tuple(carries)

  def leave(self, param, segment):
    turn = int(not any(self.first.around.counts))
    return self._both[turn].leave(_params(param)[turn], segment)

  def write(self, param, carry, segment, layer):
    parts = zip(self._both, _params(param), carry, _layers(layer))
    written = [
      memory.write(own, held, segment, of_layer)
      for memory, own, held, of_layer in parts
    ]
    carries, penalties = zip(*written)
    return tuple(carries), sum(penalties)

  def for_inference(self):
    return Together(*(memory.for_inference() for memory in self._both))


@dataclasses.dataclass(frozen=True)
class OnLayers(Memory):
  """One memory on some layers, another one on the rest.

  `layers` are numbers from 0; negative ones count from the last. Of published
  models with 12 layers, Memorizing Transformers have theirs on layer 8, counted
  so, and Block-Recurrent ones on layer 9.
  """

  layers: tuple[int, ...]
  memory: Memory
  others: Memory = dataclasses.field(default_factory=Memory)

  def __post_init__(self):
    same = self.others.around == self.memory.around
    if any(self.others.around.counts) and not same:
      raise ValueError(
        f'model.memory.others = {self.others} puts tokens around the text, '
        'which all layers read. Use it on all layers, or as '
        'model.memory.memory if that can do without the other layers.'
      )
    if self.memory.around.before:
      raise ValueError(
        f'model.memory.memory = {self.memory} puts tokens before the text, and '
        'each layer has to know of them. Use it on all layers.'
      )

  @property
  def needs_bptt(self):
    return self.memory.needs_bptt or self.others.needs_bptt

  @property
  def length(self):
    return max(self.memory.length, self.others.length)

  @property
  def multiple(self):
    return math.lcm(self.memory.multiple, self.others.multiple)

  @property
  def around(self):
    return self.memory.around

  def of_layers(self, depth):
    chosen = {layer + depth * (layer < 0) for layer in self.layers}
    found = len(chosen & set(range(depth)))
    if not self.layers or found < len(self.layers):
      raise ValueError(
        f'model.memory.layers = {self.layers} of model.stack.depth = {depth} '
        'names no layer, one that is not there, or one twice. Use each at most '
        f'once, of {-depth} to {depth - 1}.'
      )
    if chosen == set(range(depth)) and self.others != Memory():
      raise ValueError(
        f'model.memory.layers = {self.layers} are all layers of '
        f'model.stack.depth = {depth}, so model.memory.others = {self.others} '
        'is on none. Leave it out, or leave it some layers.'
      )
    pairs = zip(self.memory.of_layers(depth), self.others.of_layers(depth))
    return tuple(pair[i not in chosen] for i, pair in enumerate(pairs))

  def check_segment(self, segment, field):
    for memory in (self.memory, self.others):
      memory.check_segment(segment, field)

  def for_inference(self):
    return dataclasses.replace(
      self,
      memory=self.memory.for_inference(),
      others=self.others.for_inference(),
    )


def _params(param):
  return within(param, 'first'), within(param, 'second')


def _layers(layer):
  return (layer._replace(shared=shared) for shared in layer.shared)
