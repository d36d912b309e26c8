"""Targets `manifest` and `npy`: a small store whose manifest, or one of whose other files, is damaged or forged."""

import json
from pathlib import Path

import numpy as np

from engine.errors import EngineError
from engine.store.store import Store
from tests.fuzz import small_store
from tests.fuzz.choices import Choices, mutated
from tests.fuzz.documents import bent
from tests.fuzz.small_store import found_damage, looked_at, opened, put, signed, sums_hold

_JSON = (
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"[" * 5000,
    b"1" * 5000,
    b"{}",
    b"[]",
    b"null",
    b"\x00",
    b'{"version": 99}',
    b"",
)


class Manifests:
    """manifest.json with flipped bytes, or bent and signed again as an attacker would."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "store"
        self._files = small_store.make(self._path)
        self._true = self._files["manifest.json"]
        self._document = json.loads(self._true)

    def run(self, choices: Choices) -> str:
        """Open and verify. Flipped: refused. Signed again: only what NumPy reads from the same files, or refused."""
        how = choices.below(8)
        if how < 2:
            data, forged = mutated(choices, self._true), False
        elif how == 2:
            data, forged = choices.pick(_JSON), False
        elif how == 3:
            data, forged = json.dumps(bent(choices, self._document), indent=1, sort_keys=True).encode() + b"\n", False
        else:
            data, forged = signed(bent(choices, self._document)), True
        (self._path / "manifest.json").write_bytes(data)
        store = opened(self._path)
        if not forged:
            assert (store is None) == (data != self._true), "a manifest that is not intact was believed"
        if store is not None:
            looked_at(self._path, store)
        damage = found_damage(self._path)
        assert store is None or damage is not None
        if damage is None:
            return "forged, refused" if forged else "refused"
        assert (damage == []) == sums_hold(self._path), damage
        what = "accepted" if store is not None else "refused, damage named"
        return f"forged, {what}" if forged and data != self._true else what


class Npy:
    """One file of the store with another header, length or content; sometimes forged, with a manifest that says so."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "store"
        self._files = small_store.make(self._path)
        self._document = json.loads(self._files["manifest.json"])
        self._names = [name for name in self._files if name != "manifest.json"]

    def run(self, choices: Choices) -> str:
        """Open and verify: any other byte than the true ones is found, in ids and headers on opening."""
        name = choices.pick(self._names)
        true = self._files[name]
        if choices.one_in(8):
            return self._forged(choices)
        data = self._header(choices, true) if choices.one_in(3) else self._damaged(choices, true)
        file = self._path / name
        if gone := choices.one_in(64):
            file.unlink()
        else:
            file.write_bytes(data)
        try:
            return self._judged(name, None if gone else data, look=choices.below(4) == 0)
        finally:
            file.write_bytes(true)

    def _judged(self, name: str, data: bytes | None, *, look: bool) -> str:
        true = self._files[name]
        same, store = data == true, opened(self._path)
        rows = name in ("a.npy", "b.npy")
        must_open = same or not (rows or name in ("photo_ids.npy", "removed.npy"))
        head_same = data is not None and len(data) == len(true) and data[:4096] == true[:4096]
        assert (store is not None) == (must_open or (rows and head_same)), name
        if store is not None:
            looked_at(self._path, store)
        if store is not None and name in ("queries-a.npy", "neighbors-a.npy") and not same:
            assert self._no_queries(store)
        if look:
            assert set(found_damage(self._path) or ()) == (set() if same else {name})
        return "accepted" if same else "refused" if store is None else "opened, damage elsewhere"

    @staticmethod
    def _no_queries(store: Store) -> bool:
        try:
            store.query_set("a")
        except EngineError:
            return True
        return False

    @staticmethod
    def _damaged(choices: Choices, true: bytes) -> bytes:
        return mutated(choices, true, [(0, 12), (0, 130), (4080, 4100), (max(len(true) - 16, 0), len(true) + 1)])

    @staticmethod
    def _header(choices: Choices, true: bytes) -> bytes:
        """A header that NumPy would take, often for the same array in other words."""
        shape = choices.pick(["(5, 3)", "(5,3)", "(3, 5)", "(15,)", "(5, 2)", "(5,)", "(2, 2)", "(2,)", "(1, 5, 3)"])
        kind = choices.pick(["<f4", "=f4", ">f4", "<i4", "<f8", "<i8", "|O", "f4"])
        words = f"{{'descr': '{kind}', 'fortran_order': {choices.pick([False, True])}, 'shape': {shape}, }}".encode()
        size = choices.pick([4096, 4096, 128, 64])
        version = choices.pick([b"\1\0", b"\1\0", b"\2\0"])
        length = (size - 10).to_bytes(2, "little") if version == b"\1\0" else (size - 12).to_bytes(4, "little")
        head = b"\x93NUMPY" + version + length
        return head + words.ljust(size - len(head) - 1) + b"\n" + true[4096:]

    def _forged(self, choices: Choices) -> str:
        """removed.npy or the ids say anything, and the manifest agrees: an error or what it says, never another."""
        values = [choices.pick([0, 1, 4, 5, 6, -1, -5, -6, 1 << 40, -(1 << 63), (1 << 63) - 1]) for _ in range(2)]
        document = json.loads(self._files["manifest.json"])
        data = np.array(values, "<i8").tobytes()
        document["removed"] = {"count": 2, "xxh3": small_store.xxh3(data)}
        name = "removed.npy"
        (self._path / name).write_bytes(self._files[name][:4096] + data)
        (self._path / "manifest.json").write_bytes(signed(document))
        try:
            store = opened(self._path)
            if store is not None:
                looked_at(self._path, store)
                assert sorted(values) == values and len(set(values)) == 2
            return "forged, refused" if store is None else "forged, accepted"
        finally:
            put(self._path, self._files)
