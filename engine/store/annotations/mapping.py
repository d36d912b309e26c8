"""A user's file that says where in the documents the fields stand, for nestings that the reader does not know.

A JSON object of field names of the schema and paths, or lists of paths of which the first that is there counts:
{"title": "meta.headline", "tags": "keywords[].name", "latitude": ["geo.lat", "place.lat"]}. `[]` goes through a list;
a name with a dot or bracket is written ["so.and.so"]. Paths are those that `mirsearch annotations inspect` prints.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from engine.errors import InputError
from engine.store.annotations.schema import schema
from engine.store.manifest import digest

_STEP = re.compile(r'\.?(?:([^.\[\]"]+)|(\[\])|\[("(?:[^"\\]|\\.)*")\])')
Steps = tuple[str | None, ...]  # names, and None for every item of a list


@dataclass(frozen=True, kw_only=True)
class FieldMap:
    """Paths by field."""

    paths: Mapping[str, tuple[Steps, ...]]
    digest: str

    @classmethod
    def read(cls, path: Path) -> Self:
        """The mapping in a file; InputError names what is wrong with it."""
        try:
            data = path.read_bytes()
            said = json.loads(data)
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: not readable as JSON ({error}). {_EXPECTED}") from error
        if not isinstance(said, dict) or not said:
            raise InputError(f"{path}: holds no fields. {_EXPECTED}")
        return cls(paths={name: _paths(path, name, value) for name, value in said.items()}, digest=digest(data))

    @property
    def written(self) -> list[str]:
        """All paths as they are written, each after its field."""
        return [f"{name}: {path_text(path)}" for name, paths in self.paths.items() for path in paths]

    def part(self, document: Mapping[str, Any], stands: list[int] | None = None) -> dict[str, Any]:
        """What the paths lead to, by field: a part that is read before all others.

        stands: for each of `written` how many documents have it; grows by what this one has.
        """
        found: dict[str, Any] = {}
        number = 0
        for name, paths in self.paths.items():
            for path in paths:
                value = _follow(document, path)
                if value is not None and value != []:
                    found.setdefault(name, value)
                    if stands is not None:
                        stands[number] += 1
                number += 1
        return found


_EXPECTED = 'Expected an object such as {"title": "meta.headline", "tags": "keywords[].name"}.'


def _paths(file: Path, name: str, value: Any) -> tuple[Steps, ...]:
    if name not in (fields := schema().names[2:]):
        raise InputError(f"{file}: field {name!r} is not of the annotations. They have {', '.join(fields)}.")
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise InputError(f"{file}: field {name!r}: expected a path, or a list of paths")
    return tuple(parse_path(text, f"{file}: field {name!r}") for text in texts)


def parse_path(text: str, where: str = "path") -> Steps:
    """The steps of a path; InputError when it is none."""
    steps: list[str | None] = []
    at = 0
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None or (at == 0 and text[0] == "."):
            raise InputError(f'{where}: {text!r} is no path at character {at + 1}. Expected such as a.b[]["c.d"].')
        steps.append(match[1] if match[1] else None if match[2] else json.loads(match[3]))
        at = match.end()
    return tuple(steps)


def path_text(steps: Steps) -> str:
    """A path as it is written."""
    text = ""
    for step in steps:
        if step is None:
            text += "[]"
        elif re.fullmatch(r'[^.\[\]"]+', step):
            text += f".{step}" if text else step
        else:
            text += f"[{json.dumps(step, ensure_ascii=False)}]"
    return text


def _follow(value: Any, steps: Steps) -> Any:
    for number, step in enumerate(steps):
        if step is None:
            if not isinstance(value, list):
                return None
            below = [_follow(item, steps[number + 1 :]) for item in value]
            return [item for item in below if item is not None]
        value = value.get(step) if isinstance(value, dict) else None
        if value is None:
            return None
    return value
