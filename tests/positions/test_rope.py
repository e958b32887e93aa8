"""Rotation is multiplication by e^(i m theta), and only distances count."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.kernels.dense import Dense
from lctx.kernels.source import Source
from lctx.patterns.causal import Causal
from lctx.positions.base import Sizes
from lctx.positions.rope import (
  DynamicNtk,
  LongRope,
  NtkAware,
  Rope,
  Rotation,
  Yarn,
)
from lctx.types import segment_coords

GOLDEN = Path(__file__).parents[1] / 'golden/rope/rotations.json'
EXACT = 1e-6
B, T, N, K, H = 2, 7, 4, 2, 16
CASES = {
  'half': Rope(),
  'interleaved': Rope(interleaved=True),
  'partial': Rope(share=0.5),
  'partial, interleaved': Rope(share=0.25, interleaved=True),
  'another base': Rope(base=5e5, share=0.75),
  'yarn': Rope(stretch=Yarn(4, 64)),
}


def normal(seed, *shape):
  values = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(values, jnp.float32)


def sizes(head_width=H):
  return Sizes(
    width=N * head_width,
    num_heads=N,
    key_heads=K,
    head_width=head_width,
    distances=64,
    ahead=0,
    dtype=jnp.float32,
    key_width=head_width,
  )


def score_of(rope, head_width=H):
  return rope.score(None, None, sizes(head_width))


def coords(start, length, batch=B):
  return segment_coords(jnp.zeros((batch, length), jnp.int32), start=start)


@tiny.quick_jit
def rotate(score, q, k, q_at, k_at):
  return score.rotate(q, k, q_at, k_at)


def turn(rope, x, start=0):
  """What the score makes of keys that begin at `start`."""
  at = coords(start, x.shape[1], x.shape[0]).replace(start=None)
  return rotate(score_of(rope, x.shape[-1]), x, x, at, at)[1]


def oracle(rope, x, position):
  """Su et al. 2021, equation 12, with complex numbers in float64."""
  x, width = np.asarray(x, np.float64), int(rope.share * x.shape[-1])
  pairs = np.arange(width).reshape(-1, 2)
  if not rope.interleaved:
    pairs = np.arange(width).reshape(2, -1).T
  theta, factor = rope.stretch.frequencies(width, rope.base)
  z = x[..., pairs[:, 0]] + 1j * x[..., pairs[:, 1]]
  z = z * factor * np.exp(1j * position[:, :, None, None] * theta)
  turned = x.copy()
  turned[..., pairs[:, 0]], turned[..., pairs[:, 1]] = z.real, z.imag
  return turned


@pytest.mark.parametrize('case', CASES)
def test_a_rotation_is_a_product_of_complex_numbers(case, close):
  rope, q, k = CASES[case], normal(0, B, T, N, H), normal(1, B, 2 * T, K, H)
  q_at, k_at = coords(0, T), coords(-T, 2 * T)
  q_at = q_at.replace(position=q_at.position.at[1].add(5))  # rows may differ
  got_q, got_k = rotate(score_of(rope), q, k, q_at, k_at)
  close(got_q, oracle(rope, q, np.asarray(q_at.position)), EXACT)
  close(got_k, oracle(rope, k, np.asarray(k_at.position)), EXACT)


def test_llama_and_gpt_j_turn_the_same(close):
  """As computed by transformers, in each way to pair channels."""
  for case in json.loads(GOLDEN.read_text())['cases']:
    rope = Rope(interleaved=case['interleaved'])
    if case['kind'] == 'yarn':
      rope = Rope(stretch=Yarn(4, 64))
    q, k, *wanted = (
      jnp.array(case[name]) for name in ('q', 'k', 'turned_q', 'turned_k')
    )
    at = coords(0, q.shape[1], 1).replace(position=jnp.array(case['position']))
    for got, want in zip(rotate(score_of(rope, 8), q, k, at, at), wanted):
      close(got, want, 3e-6)  # their frequencies are float32 powers


def logits(rope, q, k, start):
  at = coords(start, T)
  at = at.replace(start=None)  # so that one program serves all
  q, k = rotate(score_of(rope), q, k, at, at)
  return jnp.einsum('btkh,bskh->bkts', q, k)


@pytest.mark.parametrize('case', CASES)
def test_logits_depend_on_distances_only(case, close):
  """So positions may be counted from any origin that is near."""
  q, k, rope = normal(0, B, T, K, H), normal(1, B, T, K, H), CASES[case]
  want = logits(rope, q, k, 0)
  for start in (-50, 3, 200):
    close(logits(rope, q, k, start), want, 1e-5)
  one = jnp.broadcast_to(q[:, :1], q.shape), jnp.broadcast_to(k[:, :1], k.shape)
  s = np.asarray(logits(rope, *one, 0))
  close(s[..., 1:, 1:], s[..., :-1, :-1], 1e-5)  # equal along diagonals


@pytest.mark.parametrize('case', ['half', 'partial', 'another base'])
def test_interleaved_is_half_with_channels_in_another_order(case):
  half, x = CASES[case], normal(0, B, T, N, H)
  width = int(half.share * H)
  order = np.arange(H)
  order[:width] = np.arange(width).reshape(2, -1).T.reshape(-1)
  interleaved = Rope(half.base, half.share, True, half.stretch)
  got = turn(interleaved, x[..., order], 3)
  np.testing.assert_array_equal(got, turn(half, x, 3)[..., order])


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_what_does_not_rotate_passes_to_the_last_bit(dtype):
  x = normal(0, B, T, N, H).astype(dtype)
  for rope in (Rope(share=0.25), Rope(share=0.25, stretch=Yarn(8, 64))):
    got = turn(rope, x, 9)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got[..., 4:], x[..., 4:])
    assert not (got[..., :4] == x[..., :4]).all(axis=-1).any()
  np.testing.assert_array_equal(turn(Rope(), x)[:, 0], x[:, 0])  # position 0


def test_angles_are_float32_whatever_the_activations():
  """At 1000 steps a bfloat16 angle would be off by radians."""
  x = normal(0, B, T, N, H).astype(jnp.bfloat16)
  got, want = turn(Rope(), x, 1000), turn(Rope(), x.astype(jnp.float32), 1000)
  np.testing.assert_array_equal(got, want.astype(jnp.bfloat16))


def test_a_factor_of_one_rotates_to_the_same_bits():
  x = normal(0, B, T, N, H)
  ones = (1.0,) * (H // 2)
  want = np.asarray(turn(Rope(), x, 40))
  searched = LongRope(ones, ones, 64, 128, 1)
  for stretch in (Yarn(1, 64), NtkAware(1), searched):
    got = np.asarray(turn(Rope(stretch=stretch), x, 40))
    assert got.tobytes() == want.tobytes()


@functools.partial(tiny.quick_jit, static_argnums=0)
def attended(rope, source):
  return Dense()((source.replace(scores=(score_of(rope),)),), None)


@pytest.mark.parametrize('case', CASES)
def test_segments_with_keys_cached_before_rotation_equal_one_pass(case, close):
  """Each segment counts from its own origin and turns what it remembers."""
  rope, parts = CASES[case], 3
  q, k, v = (normal(i, B, parts * T, n, H) for i, n in enumerate((N, K, K)))
  at = coords(0, parts * T)
  want = attended(rope, Source(q, k, v, at, at, (), Causal()))
  for part in range(parts):
    old, new = slice(0, part * T), slice(part * T, (part + 1) * T)
    at = coords(0, T)
    source = Source(q[:, new], k[:, new], v[:, new], at, at, (), Causal())
    if part:
      source = source.after(k[:, old], v[:, old], coords(-part * T, part * T))
    close(attended(rope, source), want[:, new], 1e-5)


def layers(rope, x, keys):
  """Two layers over new tokens; `keys` are those of older ones, not turned."""
  made, score, scale = [], score_of(rope), H**-0.5
  for layer, (old_k, old_v) in enumerate(keys):
    w = [normal(10 * layer + i, H, H) / 4 for i in range(3)]
    normed = x / jnp.linalg.norm(x, axis=-1, keepdims=True) * H**0.5
    q, k, v = ((normed @ one)[:, :, None] for one in w)
    at = coords(old_k.shape[1], x.shape[1])
    source = Source(q * scale, k, v, at, at, (score,), Causal())
    source = source.after(old_k, old_v, coords(0, old_k.shape[1]))
    made.append((source.k, source.v))
    x = x + Dense()((source,), None)[:, :, 0]
  return x, made


def decoded(ropes, x):
  """By one token at a time, each with a rope of its own."""
  keys, made = nothing(), []
  for t, rope in enumerate(ropes):
    y, keys = layers(rope, x[:, t : t + 1], keys)
    made.append(y)
  return jnp.concatenate(made, axis=1)


def nothing():
  return [(jnp.zeros((B, 0, 1, H)),) * 2] * 2


BY_LENGTH = {
  'dynamic': DynamicNtk(4, 2, 2),
  'longrope': LongRope((1.0,) * 8, (3.0,) * 8, 2, 2, 4),
}


@pytest.mark.parametrize('case', BY_LENGTH)
def test_decoding_with_a_declared_length_equals_one_pass(case, close):
  rope, length = Rope(stretch=BY_LENGTH[case]), 4

  @tiny.quick_jit
  def all_ways(x):
    declared = rope.declared(length)
    growing = [rope.declared(t + 1) for t in range(length)]
    once, _ = layers(declared, x, nothing())
    return once, decoded([declared] * length, x), decoded(growing, x)

  want, got, growing = all_ways(normal(9, B, length, H))
  close(got, want, 1e-5)
  # A new rope for each token: the last has the right one, its cache has not.
  assert np.abs(growing - want)[:, -1].max() > 1e-3


def test_scores_of_all_layers_are_stacked_and_scanned(close):
  rope, depth = Rope(stretch=Yarn(4, 64), interleaved=True), 3
  x, at = normal(0, B, T, N, H), coords(0, T)
  stacked = jax.vmap(lambda _: rope.score(None, None, sizes()))(
    jnp.zeros((depth, 5))
  )
  shapes = [leaf.shape for leaf in jax.tree.leaves(stacked)]
  assert shapes == [(depth, H // 2), (depth,)]

  def layer(x, score):
    return score.rotate(x, x, at, at)[0], None

  got, _ = jax.lax.scan(layer, x, stacked)
  want = x
  for _ in range(depth):
    want = turn(rope, want)
  close(got, want, EXACT)


def test_a_score_holds_constants_only():
  """No parameter is asked for, and equal scores share what is compiled."""
  first, second = score_of(CASES['yarn']), score_of(CASES['yarn'])
  assert jax.tree.structure(first) == jax.tree.structure(second)
  assert isinstance(first, Rotation) and first.theta_R.dtype == jnp.float32
  theta = CASES['yarn'].stretch.frequencies(H, 1e4).theta
  np.testing.assert_array_equal(first.theta_R, theta.astype(np.float32))


def test_what_cannot_rotate_is_refused_by_name():
  for fields, name in (
    ({'base': 1}, 'base = 1'),
    ({'share': 0}, 'share = 0'),
    ({'share': 1.5}, r'share = 1\.5'),
  ):
    with pytest.raises(ValueError, match=rf'^model\.position\.{name}'):
      Rope(**fields)
  for rope, width, count in (
    (Rope(), 5, 5),
    (Rope(share=0.5), 6, 3),
    (Rope(share=0.1), 8, 0),
  ):
    for use in (rope.check, functools.partial(rope.score, None, None)):
      with pytest.raises(ValueError, match=rf'rotates {count} channels'):
        use(sizes(width))
  searched = LongRope((1.0,) * 4, (1.0,) * 4, 64, 64, 2)
  with pytest.raises(ValueError, match='short has 4 factors'):
    Rope(stretch=searched).check(sizes(16))
  Rope(stretch=searched).check(sizes(8))
