"""Measurements that anyone can run: how fast, at what cost, how good.

Each is `python -m benchmarks.NAME`, and says in its first lines what it asks:

- speed: `train_step` (steps and evaluations, and what options cost), `memory`
  (each memory), `attention` (each kernel), `portable_memory` (a memory file
  against reading again);
- quality: `learning` (how far each memory recalls), `books` (does it help on
  text), `lengths` (longer Transformer-XL memories), `evaluation` (memory
  against windows read anew, by quality and speed), `twins` (two models);
- others: `huggingface` (in PyTorch, in the same run), `gpu_attention` and
  `gpu_enwik8` (on a GPU).

The rest is what these share: `memories` and `cases` are what is compared,
`recall` the task of `learning`, `timing` how things are timed, shown and saved.
"""
