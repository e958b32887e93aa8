"""How a preset lets one change the parts that it picks."""

import dataclasses
from collections.abc import Mapping
from typing import Any


def with_parts(
  usual: Mapping[str, Any], parts: Mapping[str, Any]
) -> dict[str, Any]:
  """`parts` in place of the `usual` ones; a dict changes some fields of one."""
  found = dict(usual)
  for name, part in parts.items():
    if isinstance(part, Mapping) and isinstance(found.get(name), Mapping):
      part = {**found[name], **part}
    elif isinstance(part, Mapping) and name in found:
      part = dataclasses.replace(found[name], **part)
    found[name] = part
  return found
