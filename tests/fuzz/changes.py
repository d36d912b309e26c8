"""Targets `commit` and `journal`: a change, and an ingest, that was interrupted; what it left damaged or forged."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from engine.errors import EngineError
from engine.store import commit
from engine.store.change import remove
from engine.store.hold import held, write_manifest
from engine.store.manifest import row_state
from engine.store.stage import Stage
from engine.store.writer import StoreWriter
from tests.fuzz import small_store
from tests.fuzz.choices import Choices, changed, mutated
from tests.fuzz.documents import bent
from tests.fuzz.small_store import DIMS, ROWS, Files, files_of, found_damage, looked_at, opened, put, signed, sums_hold

_BLOCKS = ((5, 7), (7, 9), (9, 10))
_RESUMED = 4  # rows of two blocks


class _DiedError(Exception):
    """The process, at the moment when a change has become certain."""


@contextmanager
def dying() -> Iterator[None]:
    """Ends a change just after its commit record was written."""

    def die(store: Path) -> None:
        raise _DiedError(store)

    apply = commit._apply
    commit._apply = die
    try:
        with suppress(_DiedError):
            yield
    finally:
        commit._apply = apply


def grow(path: Path) -> None:
    """Add rows, or go on adding them."""
    ingest(path, append=True)


def ingest(path: Path, *, append: bool, blocks: int = len(_BLOCKS), finish: bool = True) -> int:
    """Write rows block by block, taking over what an interrupted run left; how many rows that were."""
    with StoreWriter(path, DIMS, append=append) as writer:
        for start, stop in _BLOCKS[:blocks]:
            written = writer.found.get(f"block {start}")
            if written and written.start == writer.rows:
                writer.keep(written)
            else:
                small_store.write_block(writer, start, stop, f"block {start}")
        if finish:
            writer.finish(["more"])
        return writer.resumed


def rewrite(path: Path) -> None:
    """Replace two rows by others."""
    with held(path) as manifest, Stage(path, manifest) as stage:
        stage.add(np.array([3, 0]), {name: small_store.rows_of(name, 3, 5, version=9) for name in DIMS})
        writes, clean = stage.steps()
        layers = stage.layers()
        state = row_state(manifest.photo_ids_xxh3, manifest.block_rows, layers)
        new = write_manifest(path, manifest.model_copy(update={"layers": layers, "state": state}))
        commit.commit(path, [*writes, new, *clean])


_CHANGES: tuple[Callable[[Path], object], ...] = (lambda path: remove(path, [27]), grow, rewrite)


class Commit:
    """A store whose change was certain when its process died; opening it finishes the change, or refuses it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "store"
        base = small_store.make(self._path)
        self._states: list[tuple[Files, Files]] = []
        for change in _CHANGES:
            put(self._path, base)
            with dying():
                change(self._path)
            pending = files_of(self._path)
            assert opened(self._path) is not None
            self._states.append((pending, files_of(self._path)))
            assert found_damage(self._path) == []

    def run(self, choices: Choices) -> str:
        """Damage the record, forge it, or damage what it speaks of; open, twice."""
        pending, finished = choices.pick(self._states)
        files, how = dict(pending), choices.below(8)
        if how < 2:
            files[commit.NAME] = mutated(choices, pending[commit.NAME])
        elif how < 5:
            document = json.loads(pending[commit.NAME])
            files[commit.NAME] = signed(bent(choices, document))
        elif how < 7:
            name = choices.pick([name for name in files if name != commit.NAME])
            if choices.below(4):
                files[name] = mutated(choices, files[name], [(0, 128), (4090, 4200)])
            else:
                del files[name]
        put(self._path, files)
        store = opened(self._path)
        record_damaged = how < 2 and files[commit.NAME] != pending[commit.NAME]
        if record_damaged:
            assert store is None
            assert files_of(self._path) == files, "a damaged commit record changed something"
            return "refused"
        assert (opened(self._path) is None) == (store is None)
        if files == pending:
            assert store is not None
            assert files_of(self._path) == finished
        what = "forged" if 2 <= how < 5 else "damaged beside it" if files != pending else "intact"
        if store is None:
            return f"{what}, refused"
        looked_at(self._path, store)
        damage = found_damage(self._path)
        assert damage is not None
        assert (damage == []) == sums_hold(self._path)
        if what == "damaged beside it" and not damage:
            assert files_of(self._path).items() >= finished.items(), "verify finds nothing, and it is another store"
        return f"{what}, accepted" if not damage else f"{what}, damage named"


class Journal:
    """An ingest that was interrupted after two of three blocks, and goes on over a damaged journal or damaged parts."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "store"
        base = small_store.make(self._path)
        self._states: list[tuple[Files, Files]] = []
        for start in ({}, base):
            put(self._path, start)
            ingest(self._path, append=bool(start))
            finished = files_of(self._path)
            put(self._path, start)
            ingest(self._path, append=bool(start), blocks=2, finish=False)
            self._states.append((files_of(self._path), finished))
            assert "ingest.journal" in self._states[-1][0]

    def run(self, choices: Choices) -> str:
        """Go on: without forgery the store must be, byte for byte, what no interruption would have made."""
        which, how = choices.below(2), choices.below(8)
        pending, finished = self._states[which]
        files, forged = dict(pending), False
        if how < 3:
            files["ingest.journal"] = mutated(choices, files["ingest.journal"])
        elif how < 5:
            files["ingest.journal"], forged = self._forged(choices, files["ingest.journal"]), True
        elif how < 7:
            self._damage_parts(choices, files)
        put(self._path, files)
        if which and (store := opened(self._path)) is not None:
            assert len(store) == ROWS
        try:
            resumed = ingest(self._path, append=bool(which))
        except EngineError as error:
            assert "\n" not in str(error)
            assert files != pending
            return "forged, refused" if forged else "refused"
        if forged:
            damage = found_damage(self._path)
            assert damage is not None
            assert (damage == []) == sums_hold(self._path)
            return "forged, finished"
        assert files_of(self._path) == finished
        assert files != pending or resumed == _RESUMED
        return "all taken over" if resumed == _RESUMED else "some taken over" if resumed else "written anew"

    @staticmethod
    def _forged(choices: Choices, journal: bytes) -> bytes:
        """Lines that are bent, with checksums that hold."""
        lines = [json.loads(line.partition(b" ")[2]) for line in journal.splitlines()]
        first = lines[:1] if choices.below(4) else []
        texts = [json.dumps(line).encode() for line in [*first, *bent(choices, lines[len(first) :])]]
        return b"".join(small_store.xxh3(text).encode() + b" " + text + b"\n" for text in texts)

    @staticmethod
    def _damage_parts(choices: Choices, files: Files) -> None:
        """Of what an interrupted ingest has written: parts, or the end of files that grow."""
        growing = ["a.npy", "b.npy"] if "a.npy" in files else []
        names = [name for name in files if name.endswith(".part")] + growing
        if not names:
            return
        name = choices.pick(names)
        kept = 4096 + ROWS * 4 * DIMS.get(name[0], 2) if name in growing else 0
        if name not in growing and choices.one_in(4):
            del files[name]
        else:
            files[name] = files[name][:kept] + changed(choices, files[name][kept:])
