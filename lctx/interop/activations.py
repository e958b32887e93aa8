"""Activations as a `config.json` names them."""

from lctx.interop.options import Options
from lctx.layers.ffn import FeedForward, Gelu, Relu, Tanh

_KNOWN = {
  'gelu': Gelu(),
  'gelu_new': Gelu(exact=False),
  'gelu_pytorch_tanh': Gelu(exact=False),
  'gelu_fast': Gelu(exact=False),
  'relu': Relu(),
  'tanh': Tanh(),
}


def activation(options: Options, name: str, usual: str) -> FeedForward:
  """The one that option `name` says. Raises ValueError for others."""
  return _KNOWN[options.expect(name, usual, *_KNOWN)]


def name_of(ffn: FeedForward) -> str:
  """The way back. Raises ValueError for one that has no name there."""
  for name, known in _KNOWN.items():
    if ffn == known:
      return name
  raise ValueError(
    f'model.stack.ffn = {ffn} has no name in a config.json, which knows '
    f'{", ".join(_KNOWN)}. Use one of those, or keep the lctx checkpoint.'
  )
