"""Which key paths the documents of a source have, with counts and examples, and which of them the reader understood.

A path is understood when leaving it out of a document changes what is read from it, or when something is read from it
alone. So nothing has to be said twice of what the reader knows, and what it passes over is seen. To try a path is to
read the document again: of one with thousands of keys only so many are tried, and the others are said to be untried.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.progress import Progress, silent
from engine.store.annotations.flickr import parse
from engine.store.annotations.loading import load
from engine.store.annotations.mapping import FieldMap, Steps, path_text
from engine.store.annotations.reading import bytes_of, read_item
from engine.store.annotations.sources import Finder

_TRIES = 12  # documents in which a path is left out before it is called not understood
_MOST_PATHS = 5000
# Work is counted in values of documents that are read again; a million take about a second.
_WORK = 2_000_000  # for one document, or to read it so often as `_LEAST`
_LEAST = 20
_WORK_IN_ALL = 40_000_000
_DEEPEST = 24
_EXAMPLE = 60  # characters


@dataclass(kw_only=True)
class KeyPath:
    """One path. files: documents that have it. values: how often it stands there. kinds: of values, such as `text`.

    example: a value, shortened. fields: of the schema that depend on it; none when it was not understood, or not tried.
    """

    path: str
    files: int = 0
    values: int = 0
    kinds: list[str] = field(default_factory=list)
    example: str = ""
    fields: list[str] = field(default_factory=list)
    tries: int = 0

    @property
    def understood(self) -> bool | None:
        """Whether anything that is read depends on it; None if that was not tried, for want of time."""
        return bool(self.fields) if self.tries else None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found. files: documents looked at. refused: those that are none, with reasons, a few of them.

    paths: in the order of the documents. fields: how many documents had each field. left_out: paths beyond the most
    that are kept. texts: MIRFLICKR's own text files among `files`. absent_paths: those of the user's map that stand in
    none of the documents.
    """

    files: int
    texts: int
    refused: int
    reasons: list[str]
    paths: list[KeyPath]
    fields: dict[str, int]
    left_out: int
    absent_paths: list[str]


def inspect_annotations(
    sources: Sequence[Path], *, files: int = 1000, mapping: Path | None = None, progress: Progress = silent
) -> Inspection:
    """Look at the first documents below the sources, folders and archives; nothing is written.

    files: how many. mapping: file of paths, which then count as understood. InputError when there is no document.
    """
    paths = FieldMap.read(mapping) if mapping else None
    look = _Look(paths)
    finder = Finder(sources=sources)
    for chunk in finder.chunks():
        for item in chunk.items:
            if look.seen >= files:
                break
            data = item.data
            try:
                data = bytes_of(str(Path(chunk.place) / item.name)) if data is None else data
                if item.kind == "json":
                    look.at(load(data))
                else:
                    look.count(read_item(item, data, None))
                    look.texts += 1
            except InputError as error:
                look.refuse(f"{chunk.place}/{item.name}: {error}")
            progress("inspect", look.seen, files, unit="files")
        if look.seen >= files:
            break
    for refused in finder.refused:
        look.refuse(f"{refused.source}: {refused.reason}")
    if not look.seen:
        raise InputError(f"{', '.join(map(str, sources))}: no annotation files found. Expected such as 10/103169.json.")
    absent = [text for text, count in zip(paths.written, look.stands, strict=True) if not count] if paths else []
    return Inspection(
        files=look.seen, texts=look.texts, refused=look.refused, reasons=look.reasons, left_out=len(look.left_out),
        absent_paths=absent,
        paths=_in_order(look.paths), fields=dict(sorted(look.fields.items(), key=lambda one: -one[1])),
    )  # fmt: skip


class _Look:
    def __init__(self, mapping: FieldMap | None) -> None:
        self.mapping = mapping
        self.seen = self.texts = self.refused = 0
        self.reasons: list[str] = []
        self.paths: dict[Steps, KeyPath] = {}
        self.left_out: set[Steps] = set()
        self.fields: dict[str, int] = {}
        self.stands = [0] * len(mapping.written) if mapping else []
        self.work = 0

    def refuse(self, reason: str) -> None:
        self.seen += 1
        self.refused += 1
        if len(self.reasons) < 5:
            self.reasons.append(reason)

    def count(self, annotation: Mapping[str, Any]) -> None:
        self.seen += 1
        for name, value in annotation.items():
            if value not in ([], {}):
                self.fields[name] = self.fields.get(name, 0) + 1

    def at(self, document: dict[str, Any]) -> None:
        """Count the paths of one document, and try those that are not known to be understood."""
        whole = self._read(document, self.stands)
        self.count(whole)
        here: dict[Steps, None] = {}
        size = 0
        for steps, value in _walk(document, (), 0):
            size += 1
            if not steps:  # of a document in which nothing stands
                continue
            known = self.paths.get(steps)
            if known is None:
                if len(self.paths) >= _MOST_PATHS:
                    if len(self.left_out) < 100_000:
                        self.left_out.add(steps)
                    continue
                known = self.paths[steps] = KeyPath(path=path_text(steps))
            known.values += 1
            known.files += steps not in here
            here[steps] = None
            _note(known, value)
        self._try(document, whole, here, size)

    def _try(self, document: dict[str, Any], whole: Mapping[str, Any], here: Iterable[Steps], size: int) -> None:
        """Try paths of a document of so many values that are not known to be understood, those tried least first."""
        open_ = [steps for steps in here if not self.paths[steps].fields and self.paths[steps].tries < _TRIES]
        most = self.work + max(_WORK, _LEAST * size)
        for steps in sorted(open_, key=lambda steps: self.paths[steps].tries):
            if self.work + size > min(most, _WORK_IN_ALL):
                break
            self.work += size
            known = self.paths[steps]
            known.tries += 1
            known.fields = self._depending(document, whole, steps)

    def _depending(self, document: dict[str, Any], whole: Mapping[str, Any], steps: Steps) -> list[str]:
        """The fields that a path has a part in."""
        without = self._read(_without(document, steps))
        changed = {name for name in whole.keys() | without.keys() if whole.get(name) != without.get(name)}
        if not changed:  # a second place of the same, such as the two of the time of posting
            alone = _only(document, steps)
            changed = {name for name, value in self._read(alone).items() if value} if alone else set()
        return sorted(changed)

    def _read(self, document: dict[str, Any], stands: list[int] | None = None) -> dict[str, Any]:
        return parse(document, self.mapping.part(document, stands) if self.mapping else None)


def _walk(value: Any, steps: Steps, depth: int) -> Iterator[tuple[Steps, Any]]:
    """Every value that is no object or list, and those that are empty or too deep, with its path."""
    if depth < _DEEPEST and isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _walk(item, (*steps, name), depth + 1)
    elif depth < _DEEPEST and isinstance(value, list) and value:
        for item in value:
            yield from _walk(item, (*steps, None), depth + 1)
    else:
        yield steps, value


_KINDS = {str: "text", int: "number", float: "number", bool: "true or false", dict: "object", list: "list"}


def _note(known: KeyPath, value: Any) -> None:
    kind = "null" if value is None else _KINDS[type(value)]
    if kind not in known.kinds:
        known.kinds.append(kind)
    if not known.example and value not in (None, "", [], {}):
        text = " ".join(str(value)[: _EXAMPLE * 2].split())
        known.example = text if len(text) <= _EXAMPLE else text[: _EXAMPLE - 1] + "…"


def _without(value: Any, steps: Steps) -> Any:
    """A document that lacks a path, in every item of the lists it goes through; what is beside the path is shared."""
    first, rest = steps[0], steps[1:]
    if first is None:
        if not isinstance(value, list):
            return value
        return [_without(item, rest) for item in value] if rest else [item for item in value if _is_part(item)]
    if not isinstance(value, dict) or first not in value:
        return value
    if rest:
        return value | {first: _without(value[first], rest)}
    return {name: item for name, item in value.items() if name != first}


def _is_part(value: Any) -> bool:
    return isinstance(value, dict | list)


def _only(value: Any, steps: Steps) -> Any:
    """What of a document lies on a path, the rest left out; None when nothing does."""
    if not steps:
        return value
    if steps[0] is None:
        items = [_only(item, steps[1:]) for item in value] if isinstance(value, list) else []
        return [item for item in items if item is not None] or None
    below = _only(value[steps[0]], steps[1:]) if isinstance(value, dict) and steps[0] in value else None
    return None if below is None else {steps[0]: below}


def _in_order(paths: Mapping[Steps, KeyPath]) -> list[KeyPath]:
    """Paths with the same beginning together, as they came first."""
    rank: dict[Steps, int] = {}
    for steps in paths:
        for end in range(1, len(steps) + 1):
            rank.setdefault(steps[:end], len(rank))
    return [paths[steps] for steps in sorted(paths, key=lambda s: [rank[s[:end]] for end in range(1, len(s) + 1)])]
