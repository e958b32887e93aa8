"""How a preset lets one change the parts that it picks."""

import dataclasses
from collections.abc import Mapping
from typing import Any


def with_parts(
  usual: Mapping[str, Any], parts: Mapping[str, Any]
) -> dict[str, Any]:
  """`parts` in place of the `usual` ones; a dict changes fields of one."""
  return {**usual, **{x: _changed(usual.get(x), y) for x, y in parts.items()}}


def _changed(usual: Any, part: Any) -> Any:
  if not isinstance(part, Mapping):
    return part
  if isinstance(usual, Mapping):
    return with_parts(usual, part)
  if not dataclasses.is_dataclass(usual):
    return part  # of a preset that this one refines
  fields = {x: _changed(getattr(usual, x, None), y) for x, y in part.items()}
  return dataclasses.replace(usual, **fields)
