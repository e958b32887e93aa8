"""The table of published families in the README is what the code makes."""

from pathlib import Path

from lctx import families

README = Path(__file__).parent.parent / 'README.md'


def test_the_readme_has_the_table():
  assert families.table() in README.read_text()


def test_every_architecture_that_is_read_is_in_it():
  shown = [prefix for prefix, _ in families.FAMILIES.values()]
  names = families.hugging_face.FAMILIES
  assert all(any(name.startswith(x) for x in shown) for name in names)
  assert all(any(name.startswith(x) for name in names) for x in shown)
