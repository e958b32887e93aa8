"""Norms, feed-forward parts and gates in float64 NumPy, from their papers.

`p` maps the names that lctx gives parameters to arrays; x and y are [..., D].
"""

import math

import numpy as np


def layer_norm(p, x, epsilon):
  """Ba et al. 2016, equation 4."""
  mean = x.mean(-1, keepdims=True)
  deviation = np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + epsilon)
  return p['scale'] * (x - mean) / deviation + p['bias']


def rms_norm(p, x, epsilon):
  """Zhang and Sennrich 2019, equation 4."""
  return p['scale'] * x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)


def zero_centred_rms_norm(p, x, epsilon):
  """Gemma: files hold the scale less one."""
  return rms_norm({'scale': 1 + p['scale']}, x, epsilon)


def relu(h):
  return np.where(h > 0, h, 0.0)


def gelu(h):
  """h times the probability that a normal number is below h."""
  return h * np.vectorize(lambda v: (1 + math.erf(v / math.sqrt(2))) / 2)(h)


def gelu_tanh(h):
  """Hendrycks and Gimpel 2016, section 2, the first approximation."""
  inner = math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)
  return 0.5 * h * (1 + np.tanh(inner))


def swish(h):
  return h / (1 + np.exp(-h))


def sigmoid(h):
  return 1 / (1 + np.exp(-h))


def plain(bend):
  """FFN(x) = bend(x W1 + b1) W2 + b2 (Shazeer 2020, equations 1 to 3)."""
  return lambda p, x: _out(p, bend(_linear(p, 'in', x)))


def gated(bend):
  """FFN(x) = (bend(x W) * x V) W2 (Shazeer 2020, equation 6)."""
  return lambda p, x: _out(p, bend(_linear(p, 'gate', x)) * _linear(p, 'in', x))


def residual(p, x, y):
  return x + y


def input_gate(p, x, y):
  """Parisotto et al. 2019, section 3.2, as are those below."""
  return sigmoid(x @ p['gate']) * x + y


def output_gate(p, x, y):
  return x + sigmoid(x @ p['gate'] - p['bias']) * y


def highway_gate(p, x, y):
  carried = sigmoid(x @ p['gate'] + p['bias'])
  return carried * x + (1 - carried) * y


def sigmoid_tanh_gate(p, x, y):
  return x + sigmoid(y @ p['gate'] - p['bias']) * np.tanh(y @ p['value'])


def gru_gate(p, x, y):
  r = sigmoid(y @ p['reset_y'] + x @ p['reset_x'])
  z = sigmoid(y @ p['update_y'] + x @ p['update_x'] - p['bias'])
  h = np.tanh(y @ p['candidate_y'] + (r * x) @ p['candidate_x'])
  return (1 - z) * x + z * h


def _linear(p, name, x):
  return x @ p[name] + p.get(f'{name}_bias', 0.0)


def _out(p, h):
  return _linear(p, 'out', h)
