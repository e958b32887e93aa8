"""Draws docs/pictures/house.png: the data's way through the house.

Run: python docs/pictures/house.py
"""

from pathlib import Path

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK, PALE, SEAM, MEMORY = '#20304a', '#eef2f7', '#fff3d6', '#dff0e4'
GREEN = '#2e7d4f'


def main():
  figure, axes = plt.subplots(figsize=(12, 7.6), dpi=110)
  axes.set(xlim=(0, 120), ylim=(-1, 75))
  axes.axis('off')
  _way(axes)
  _layer(axes)
  figure.savefig(
    Path(__file__).with_suffix('.png'), bbox_inches='tight', pad_inches=0.1
  )


def _way(axes):
  """The row of stages, each with the file it lives in."""
  stages = [
    ('corpus', 'documents', 'data/corpora.py'),
    ('tokenizer', 'bytes to ids', 'data/tokenizers.py'),
    ('store', 'flat file of ids', 'data/store.py'),
    ('lanes', 'step to batch', 'data/lanes.py'),
    ('model', 'scan of segments', 'models/decoder.py'),
    ('loss', 'nats, by chunks', 'losses.py'),
    ('step', 'gradient, update', 'training/step.py'),
    ('loop', 'then hooks', 'training/loop.py'),
  ]
  for i, (name, what, file) in enumerate(stages):
    x = 1 + 15 * i
    _box(axes, x, 56, 12.6, 12, MEMORY if name == 'model' else PALE)
    axes.text(x + 6.3, 64.6, name, ha='center', weight='bold', color=INK)
    axes.text(x + 6.3, 61.3, what, ha='center', fontsize=7, color=INK)
    axes.text(x + 6.3, 58, file, ha='center', fontsize=6.6, color='#607090')
    if i:
      _arrow(axes, (x - 2.4, 62), (x, 62))
  axes.text(
    60, 72.4, 'config: one part for each stage   (configs/*.py, config.py)',
    ha='center', fontsize=9.5, color=INK,
  )  # fmt: skip
  for i in range(8):
    _arrow(axes, (7.3 + 15 * i, 71.4), (7.3 + 15 * i, 68), '#9aa8bd')
  _box(axes, 98, 41.5, 20.6, 8.5, PALE)
  axes.text(108.3, 46.4, 'checkpoint', ha='center', weight='bold', color=INK)
  axes.text(
    108.3, 43.4, 'parameters, optimizer, carry, step', ha='center',
    fontsize=6.8, color=INK,
  )  # fmt: skip
  _arrow(axes, (112.3, 56), (112.3, 50))
  for y, name, file in (
    (31, 'evaluate', 'evaluation/'),
    (21, 'generate', 'generation/'),
  ):
    _box(axes, 101, y, 17.6, 7.4, PALE)
    axes.text(109.8, y + 4.3, name, ha='center', weight='bold', color=INK)
    axes.text(109.8, y + 1.5, file, ha='center', fontsize=6.6, color='#607090')
  _arrow(axes, (108.3, 41.5), (108.3, 38.4))
  axes.plot([99.4, 99.4], [41.5, 24.7], color=INK, lw=1.1)
  _arrow(axes, (99.4, 24.7), (101, 24.7))


def _layer(axes):
  """One layer of the model, and the three seams it is asked through."""
  _box(axes, 1, 1, 94, 47, '#fbfcfe')
  axes.plot([62, 4], [56, 48], color='#9aa8bd', lw=0.8, ls=':')
  axes.plot([73, 94], [56, 48], color='#9aa8bd', lw=0.8, ls=':')
  axes.text(3, 44.6, 'one layer reads one segment', weight='bold', color=INK)
  _stage(axes, 4, 20, 'segment', 'x, its q, k, v, and Coords')
  _stage(axes, 42, 18, 'sources', 'q, k, v, scores, pattern')
  _stage(axes, 63, 11, 'kernel', 'one softmax')
  _stage(axes, 77, 16, 'feed-forward', 'x for the next layer')
  for start, end in ((24, 42), (60, 63), (74, 77)):
    _arrow(axes, (start, 33.5), (end, 33.5))
  _seam(axes, 20, 'Position', 'score(): rotate, block', 'how far apart')
  _seam(axes, 42, 'Memory', 'sources(carry, near)', 'what is remembered')
  _seam(axes, 64, 'Pattern', 'allowed(q_at, k_at)', 'who may be seen')
  for start, end in ((34, 45), (51, 51), (68, 57)):
    _arrow(axes, (start, 23.6), (end, 29), '#b8860b')
  for x, says in (
    (4, 'write(carry, x, k, v, at)'),
    (53, 'carry: what each row remembers'),
  ):
    _box(axes, x, 3.4, 40, 6.4, MEMORY)
    axes.text(x + 20, 5.8, says, ha='center', fontsize=8, color=INK)
  _arrow(axes, (12, 29), (12, 9.8), GREEN)
  _arrow(axes, (44, 6.6), (53, 6.6), GREEN)
  _arrow(axes, (56, 9.8), (56, 16), GREEN)
  axes.text(58, 12, 'read by the next segment', fontsize=7, color=GREEN)


def _stage(axes, x, width, name, says):
  _box(axes, x, 29, width, 9, PALE)
  middle = x + width / 2
  axes.text(middle, 34.4, name, ha='center', weight='bold', color=INK)
  axes.text(middle, 31, says, ha='center', fontsize=7, color=INK)


def _seam(axes, x, name, method, says):
  y = 16
  _box(axes, x, y, 18, 7.6, SEAM)
  axes.text(x + 9, y + 4.9, name, ha='center', weight='bold', color=INK)
  axes.text(x + 9, y + 2.7, method, ha='center', fontsize=6.8, color=INK)
  axes.text(
    x + 9, y + 0.9, says, ha='center', fontsize=6.8, style='italic', color=INK
  )


def _box(axes, x, y, width, height, color):
  axes.add_patch(
    FancyBboxPatch(
      (x, y),
      width,
      height,
      boxstyle='round,pad=0,rounding_size=0.9',
      facecolor=color,
      edgecolor=INK,
      linewidth=0.9,
    )
  )


def _arrow(axes, start, end, color=INK):
  axes.add_patch(
    FancyArrowPatch(
      start, end, arrowstyle='-|>', mutation_scale=9, color=color, lw=1.1
    )
  )


if __name__ == '__main__':
  main()
