"""From files to a store: damage is named and set aside, the rest is there, and the same input gives the same bytes."""

import hashlib
import json
import os
import re
import resource
import stat
import struct
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.errors import EngineError, InputError, StoreError
from engine.store import copy as copy_module
from engine.store.dat import examine
from engine.store.ingest import ingest
from engine.store.reader import RecordReader, open_reader
from engine.store.sources import find_sources
from engine.store.store import Store
from kernels import load
from tests.builders import CPU, dat_bytes, files_below, photo_bytes, photo_layers, write_photo, write_photos

NAN, QUIET, SIGNALLING = np.float32("nan"), 0x7FC00000, 0x7F800001


def quarantine_of(store: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (store / "quarantine.jsonl").read_text().splitlines()]


def with_word(layer: str, at: int, word: int) -> bytes:
    """A good file with one float replaced by a bit pattern."""
    content = bytearray(photo_bytes(1))
    struct.pack_into("<I", content, (8 if layer == "fc8" else 4016) + 4 * at, word)
    return bytes(content)


def swapped_layers() -> bytes:
    fc7, fc8 = photo_layers(1)
    return struct.pack("=q", 4096) + fc7.tobytes() + struct.pack("=q", 1000) + fc8.tobytes()


GOOD = photo_bytes(1)
INF, MINUS_INF = 0x7F800000, 0xFF800000
DAMAGED_CONTENT = {
    "empty": (b"", r"^empty, expected 20,400 bytes$"),
    "one byte": (GOOD[:1], r"^1 bytes, expected 20,400: the file is cut short$"),
    "short by one": (GOOD[:-1], r"^20,399 bytes, .* cut short$"),
    "one too long": (GOOD + b"\0", r"^20,401 bytes, .* too long$"),
    "half": (GOOD[:10_200], r"^10,200 bytes, .* cut short$"),
    "double": (GOOD * 2, r"^40,800 bytes, .* too long$"),
    "fc8 header": (dat_bytes(*photo_layers(1), dims=(999, 4096)), r"^the fc8 header says 999, expected 1000$"),
    "fc7 header": (dat_bytes(*photo_layers(1), dims=(1000, 4097)), r"^the fc7 header says 4097, expected 4096$"),
    "headers swapped": (dat_bytes(*photo_layers(1), dims=(4096, 1000)), r"^the fc8 header says 4096, expected 1000$"),
    "negative header": (dat_bytes(*photo_layers(1), dims=(-1000, 4096)), r"^the fc8 header says -1000, "),
    "high half of a header": (dat_bytes(*photo_layers(1), dims=(1000 + (1 << 32), 4096)), r"^the fc8 header says "),
    "big-endian": (struct.pack(">q", 1000) + GOOD[8:4008] + struct.pack(">q", 4096) + GOOD[4016:], r"^the fc8 header"),
    "layers swapped": (swapped_layers(), r"^the fc8 header says 4096, expected 1000$"),
    "text": (b"a" * 20_400, r"^the fc8 header says "),
    "NaN in fc7": (with_word("fc7", 0, QUIET), r"^fc7\[0\] is nan, expected finite values \(1 are not\)$"),
    "NaN at the end of fc7": (with_word("fc7", 4095, QUIET), r"^fc7\[4095\] is nan, "),
    "signalling NaN in fc7": (with_word("fc7", 77, SIGNALLING), r"^fc7\[77\] is nan, "),
    "minus NaN in fc7": (with_word("fc7", 78, 0xFFFFFFFF), r"^fc7\[78\] is nan, "),
    "inf in fc7": (with_word("fc7", 5, INF), r"^fc7\[5\] is inf, "),
    "-inf in fc7": (with_word("fc7", 4095, MINUS_INF), r"^fc7\[4095\] is -inf, "),
    "NaN in fc8": (with_word("fc8", 0, QUIET), r"^fc8\[0\] is nan, "),
    "NaN at the end of fc8": (with_word("fc8", 999, QUIET), r"^fc8\[999\] is nan, "),
    "signalling NaN in fc8": (with_word("fc8", 31, SIGNALLING), r"^fc8\[31\] is nan, "),
    "inf in fc8": (with_word("fc8", 999, INF), r"^fc8\[999\] is inf, "),
    "-inf in fc8": (with_word("fc8", 0, MINUS_INF), r"^fc8\[0\] is -inf, "),
    "all NaN": (dat_bytes([NAN] * 4096, [NAN] * 1000), r"^fc8\[0\] is nan, .* \(1000 are not\)$"),
}  # fmt: skip
NO_ID = [
    "abc.dat", "12a.dat", "-5.dat", "+5.dat", " 5.dat", "5 .dat", "5.0.dat", "1_000.dat", "1e3.dat", ".dat", "0x10.dat",
    "٣.dat", "5\n.dat", "5.dat.dat", f"{'9' * 30}.dat", f"{1 << 63}.dat", "５.dat",
]  # fmt: skip
ODD_KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "dangling link": (lambda path: path.symlink_to("nowhere"), r"^cannot be opened \(No such file or directory\)$"),
    "link to itself": (lambda path: path.symlink_to(path.name), r"^cannot be opened \(Too many levels"),
    "folder": (lambda path: path.mkdir(), r"^not a regular file but a folder$"),
    "pipe": (os.mkfifo, r"^not a regular file but a pipe$"),
    "socket": (lambda path: os.mknod(path, stat.S_IFSOCK | 0o600), r"^not a regular file but a socket$"),
    "link to a pipe": (lambda path: path.symlink_to("303.dat"), r"^not a regular file but a pipe$"),
}  # fmt: skip


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A folder of good files among more than fifty damaged ones; what each must be refused for, by path."""
    root = tmp_path_factory.mktemp("damaged") / "in"
    expected: dict[str, tuple[int | None, str]] = {}
    for i, (content, reason) in enumerate(DAMAGED_CONTENT.values()):
        expected[str(write_photo(root, 100 + i, content))] = (100 + i, reason)
    names = root / "names"
    names.mkdir()
    for name in NO_ID:
        (names / name).write_bytes(GOOD)
        expected[str(names / name)] = (None, r"^the file name is not a photo id ")
    not_text = names / os.fsdecode(b"\xff\xfe5.dat")
    not_text.write_bytes(GOOD)
    expected[str(not_text)] = (None, r"^the file name is not a photo id ")
    odd = root / "odd"
    odd.mkdir()
    for i, (make, reason) in enumerate(ODD_KINDS.values()):
        make(odd / f"{300 + i}.dat")
        expected[str(odd / f"{300 + i}.dat")] = (300 + i, reason)
    (odd / "self").symlink_to("self")  # neither a folder nor a file of ours
    (odd / "up").symlink_to("..")
    # The same photo twice: other content is refused, equal content counted, a damaged first leaves the second.
    write_photo(root, 400)
    again = root / "again"
    again.mkdir()
    (again / "400.dat").write_bytes(photo_bytes(400, version=1))
    write_photo(root, 401)
    (again / "401.dat").write_bytes(photo_bytes(401))
    expected[str(write_photo(root, 402, photo_bytes(402)[:-4]))] = (402, r"^20,396 bytes")
    (again / "402.dat").write_bytes(photo_bytes(402))
    expected[str(again / "400.dat")] = (400, rf"^photo 400 again, with other content than {root}/0/400\.dat$")
    # Good ones in odd places.
    (root / "0" / "500.DAT").write_bytes(photo_bytes(500))
    odd_folder = root / os.fsdecode(b"a\nfolder \xff")
    odd_folder.mkdir()
    (odd_folder / "501.dat").write_bytes(photo_bytes(501))
    (odd / "300.dat.d").mkdir()
    (odd / "300.dat.d" / "502.dat").write_bytes(photo_bytes(502))
    (odd / "302.dat" / "503.dat").write_bytes(photo_bytes(503))  # inside the folder that is called 302.dat
    (odd / "504.dat").symlink_to(write_photo(root / "elsewhere", 505))
    (odd / "0000506.dat").write_bytes(photo_bytes(506))
    write_photos(root, [0, 1, 9999, 10_000, 103_169, 999_999])
    for other in ("504", "505.txt", "dat", "506.dat.jpg"):
        (odd / other).write_bytes(GOOD)
    return root, expected


ALL_GOOD = {
    0: 0, 1: 1, 400: 400, 401: 401, 402: 402, 500: 500, 501: 501, 502: 502, 503: 503, 504: 505, 505: 505, 506: 506,
    9999: 9999, 10_000: 10_000, 103_169: 103_169, 999_999: 999_999,
}  # fmt: skip


def test_every_kind_of_damage_is_named_and_everything_good_is_there(damaged, tmp_path):
    root, expected = damaged
    assert len(expected) >= 50
    report = ingest([root], tmp_path / "store", device=CPU)
    entries = quarantine_of(tmp_path / "store")
    assert sorted(entry["source"] for entry in entries) == sorted(expected)
    for entry in entries:
        photo_id, reason = expected[entry["source"]]
        assert entry["photo_id"] == photo_id, entry
        assert re.search(reason, entry["reason"]), entry
        assert set(entry) == {"source", "photo_id", "reason"}
    store = Store.open(tmp_path / "store")
    assert store.photo_ids.tolist() == sorted(ALL_GOOD)
    for row, photo_id in enumerate(store.photo_ids.tolist()):
        fc7, fc8 = photo_layers(ALL_GOOD[photo_id])
        assert store.fc7[row].tobytes() == fc7.tobytes(), photo_id
        assert store.fc8[row].tobytes() == fc8.tobytes(), photo_id
    assert report.photos == len(ALL_GOOD) == store.manifest.rows
    assert report.refused == len(expected) == store.manifest.quarantined
    assert report.repeated == 1
    assert report.ignored == 4 + 1  # the link that leads to itself is no .dat file either
    assert report.bytes_read == len(ALL_GOOD) * 20_400
    assert (tmp_path / "store" / "quarantine.jsonl").read_bytes().isascii()


def test_reading_the_damage_by_other_kernels_gives_the_same_store(damaged, tmp_path, monkeypatch):
    """The way to a GPU reads whole records; it must refuse and keep exactly what the bulk reader does."""
    root, _ = damaged
    ingest([root], tmp_path / "direct", device=CPU)
    monkeypatch.setattr(copy_module, "open_reader", lambda device, files: RecordReader(load("reference"), files))
    ingest([root], tmp_path / "records", device=CPU)
    assert files_below(tmp_path / "direct") == files_below(tmp_path / "records")


def test_strict_stops_at_damage_and_leaves_nothing(damaged, tmp_path):
    root, _ = damaged
    with pytest.raises(InputError, match=r"Nothing was written \(--strict\)"):
        ingest([root], tmp_path / "store", device=CPU, strict=True)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("cold", [True, False])
def test_reading_past_the_page_cache_gives_the_same_store(damaged, tmp_path, monkeypatch, cold):
    root, expected = damaged
    monkeypatch.setattr("engine.store.direct._is_cold", lambda records: cold)
    report = ingest([root], tmp_path / "store", device=CPU)
    assert (report.photos, report.refused) == (len(ALL_GOOD), len(expected))
    store = Store.open(tmp_path / "store")
    for row, photo_id in enumerate(store.photo_ids.tolist()):
        fc7, fc8 = photo_layers(ALL_GOOD[photo_id])
        assert store.fc7[row].tobytes() == fc7.tobytes(), photo_id
        assert store.fc8[row].tobytes() == fc8.tobytes(), photo_id


def test_files_that_nobody_read_lately_are_taken_for_cold(tmp_path):
    from engine.store import direct
    from engine.store.sources import find_sources

    write_photos(tmp_path / "in", range(20))
    records = find_sources([tmp_path / "in"]).listing
    for i in range(20):
        Path(os.fsdecode(records.path(i))).read_bytes()
    assert not direct._is_cold(records)
    assert not direct._is_cold(records.take(slice(0, 0)))
    for i in range(20):
        handle = os.open(records.path(i), os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    if not direct._is_absent(records.path(0)):
        pytest.skip("this file system keeps its pages, or cannot say so")
    assert direct._is_cold(records)


@pytest.mark.parametrize("case", DAMAGED_CONTENT)
def test_strict_stops_at_damage_that_only_reading_shows(tmp_path, case, monkeypatch):
    monkeypatch.setattr(copy_module, "BLOCK_FILES", 4)
    content, reason = DAMAGED_CONTENT[case]
    write_photos(tmp_path / "in", range(20))
    bad = write_photo(tmp_path / "in", 13, content)
    with pytest.raises(InputError) as caught:
        ingest([tmp_path / "in"], tmp_path / "store", device=CPU, strict=True)
    assert str(caught.value).startswith(f"{bad}: ")
    assert re.search(reason.strip("^$"), str(caught.value))
    assert not (tmp_path / "store").exists()


def test_strict_stops_at_a_photo_that_comes_twice(tmp_path):
    write_photo(tmp_path / "a", 7)
    write_photo(tmp_path / "b", 7, photo_bytes(7, version=1))
    with pytest.raises(InputError, match="photo 7 again"):
        ingest([tmp_path], tmp_path / "store", device=CPU, strict=True)
    assert not (tmp_path / "store").exists()


def test_strict_passes_what_is_whole(tmp_path):
    write_photos(tmp_path / "in", range(5))
    assert ingest([tmp_path / "in"], tmp_path / "store", device=CPU, strict=True).refused == 0


def test_the_first_good_of_equal_ids_wins_by_path(tmp_path):
    """1: both good; 2: first damaged; 3: both damaged; 4: three, the last differs; 5: three, first damaged, equal."""
    contents = {
        1: [photo_bytes(1), photo_bytes(1, 1)],
        2: [b"cut", photo_bytes(2)],
        3: [b"cut", b""],
        4: [photo_bytes(4), photo_bytes(4), photo_bytes(4, 1)],
        5: [GOOD + b"1", photo_bytes(5, 2), photo_bytes(5, 2)],
    }
    for photo_id, files in contents.items():
        for folder, content in zip("abc", files, strict=False):
            write_photo(tmp_path / folder, photo_id, content)
    for sources in (["a", "b", "c"], ["c", "b", "a"]):
        store_path = tmp_path / f"store-{sources[0]}"
        report = ingest([tmp_path / source for source in sources], store_path, device=CPU)
        store = Store.open(store_path)
        assert store.photo_ids.tolist() == [1, 2, 4, 5]
        for row, (photo_id, version) in enumerate([(1, 0), (2, 0), (4, 0), (5, 2)]):
            assert store.fc7[row].tobytes() == photo_layers(photo_id, version)[0].tobytes()
        assert (report.refused, report.repeated) == (6, 2)
        found = [(entry["photo_id"], entry["source"].split("/")[-3]) for entry in quarantine_of(store_path)]
        assert found == [(1, "b"), (2, "a"), (3, "a"), (3, "b"), (4, "c"), (5, "a")]


def test_names_of_one_id_in_one_folder_are_ordered_by_name_not_by_the_disk(tmp_path):
    names = ["5.dat", "05.dat", "005.dat", "5.DAT", "5.Dat"]
    results = set()
    for turn, order in enumerate((names, names[::-1], names[2:] + names[:2])):
        root = tmp_path / str(turn) / "in"
        root.mkdir(parents=True)
        for name in order:
            (root / name).write_bytes(photo_bytes(5, names.index(name)))
        listing = find_sources([root]).listing
        assert [listing.name(i) for i in range(5)] == [b"005.dat", b"05.dat", b"5.DAT", b"5.Dat", b"5.dat"]
        given_one_by_one = find_sources([root / name for name in order]).listing
        assert [given_one_by_one.name(i) for i in range(5)] == [listing.name(i) for i in range(5)]
        ingest([root], tmp_path / f"store-{turn}", device=CPU)
        results.add(files_below(tmp_path / f"store-{turn}")["fc7.npy"])
        assert Store.open(tmp_path / f"store-{turn}").fc7[0].tobytes() == photo_layers(5, 2)[0].tobytes()
    assert len(results) == 1


@pytest.mark.parametrize("kind", ["nothing", "other files", "no usable file", "only names", "a file that is none"])
def test_nothing_usable_is_an_error_and_no_store(tmp_path, kind):
    source = tmp_path / "in"
    source.mkdir()
    text = "no .dat files found"
    if kind == "other files":
        (source / "1.jpg").write_bytes(b"x")
        text = r"no .dat files found \(1 other file\)"
    elif kind == "no usable file":
        write_photo(source, 3, b"")
        write_photo(source, 4, b"")
        text = "None of 2 files is usable"
    elif kind == "only names":
        (source / "x.dat").write_bytes(GOOD)
        text = "It is the only file"
    elif kind == "a file that is none":
        source = source / "notes.txt"
        source.write_bytes(GOOD)
        text = "neither a .dat file nor a tar or zip archive"
    with pytest.raises(InputError, match=text):
        ingest([source], tmp_path / "store", device=CPU)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", ["absent", "x" * 300, "absent/10/103169.dat"])
def test_a_source_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(InputError, match=name):
        ingest([tmp_path / name], tmp_path / "store", device=CPU)
    assert not (tmp_path / "store").exists()


def test_single_files_relative_paths_and_overlapping_sources(tmp_path, monkeypatch):
    write_photos(tmp_path / "in", [3, 10_003])
    monkeypatch.chdir(tmp_path / "in" / "0")
    report = ingest([Path("3.dat"), Path("../1/10003.dat"), Path("..")], Path("../../store"), device=CPU)
    assert (report.photos, report.refused, report.repeated) == (2, 0, 2)
    assert Store.open(tmp_path / "store").photo_ids.tolist() == [3, 10_003]


def test_a_folder_name_that_is_no_text_can_be_a_source(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff\xfe")
    folder.mkdir()
    (folder / "7.dat").write_bytes(photo_bytes(7))
    ingest([folder], tmp_path / "store", device=CPU)
    assert Store.open(tmp_path / "store").photo_ids.tolist() == [7]


# The same input, the same bytes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_order_on_the_disk_and_the_threads_do_not_matter(tmp_path, threads, monkeypatch):
    """Written forwards by one thread, backwards by `threads`, in blocks small enough that threads overtake."""
    monkeypatch.setattr(copy_module, "BLOCK_FILES", 8)
    ids = [*range(0, 90, 3), *range(9_990, 10_020), 103_169]
    for turn, order in enumerate((ids, ids[::-1])):
        monkeypatch.chdir(tmp_path)
        Path(str(turn)).mkdir()
        monkeypatch.chdir(str(turn))
        for photo_id in order:
            write_photo(Path("in"), photo_id, b"cut short" if photo_id % 5 == 0 else None)
            if photo_id % 4 == 0:  # again, now the same and now another
                write_photo(Path("in/more"), photo_id, photo_bytes(photo_id, version=photo_id // 4 % 2))
        report = ingest([Path("in")], Path("store"), device=CPU, threads=threads if turn else 1)
        assert report.refused > 8 and report.repeated > 3
    assert files_below(tmp_path / "0" / "store") == files_below(tmp_path / "1" / "store")
    ids_found = Store.open(tmp_path / "1" / "store").photo_ids
    assert ids_found.tolist() == sorted(ids_found.tolist())


def test_other_folders_give_the_same_arrays(tmp_path):
    ids = list(range(40))
    for photo_id in ids:
        write_photo(tmp_path / "a", photo_id)
        (tmp_path / "b" / f"{photo_id % 7}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "b" / f"{photo_id % 7}" / f"{photo_id}.dat").write_bytes(photo_bytes(photo_id))
    reports = [ingest([tmp_path / name], tmp_path / f"store-{name}", device=CPU) for name in "ab"]
    assert [report.photos for report in reports] == [40, 40]
    sums = [files_below(tmp_path / f"store-{name}") for name in "ab"]
    for file in ("fc7.npy", "fc8.npy", "photo_ids.npy"):
        assert sums[0][file] == sums[1][file]
    manifests = [json.loads((tmp_path / f"store-{name}" / "manifest.json").read_text()) for name in "ab"]
    assert bare(manifests[0]) == bare(manifests[1])


def bare(manifest: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key not in ("engine_version", "sources", "digest")}


GOLDEN = {
    "fc7.npy": "279a46513e69c88550475dca9c67417a4f5495a8a520deee1adcc0e1843844b7",
    "fc8.npy": "3160b2ec27b828b7e58f10261b44a36a5b5fc19bfe682151af4b17f00a573556",
    "photo_ids.npy": "e2023e383ad7c7e989af86d6e9ea2f8490559f7253e11e1d3738398bb1cb3669",
    "quarantine.jsonl": "4fb23e991729108fecc5195ef9ec6d23ff1df0f2ba2664a33d974260ae2029c5",
    "manifest.json": "dafb6cea7d4f3bc0d0053118b7d2d84aebb8432e85ee514a6a2bdf8e8ad72962",
}


def test_golden_bytes(tmp_path, monkeypatch):
    """Stores of format 2 stay what they are: a change here is a new format, not a new hash."""
    monkeypatch.chdir(tmp_path)
    for photo_id in range(0, 1500, 5):
        write_photo(Path("in"), photo_id)
    write_photo(Path("in"), 103_169)
    write_photo(Path("in"), 55, photo_bytes(55)[:-4])
    write_photo(Path("in"), 700, with_word("fc7", 9, INF))
    (tmp_path / "in" / "cover.dat").write_bytes(b"no photo")
    ingest([Path("in")], Path("store"), device=CPU)
    found = files_below(tmp_path / "store")
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    found["manifest.json"] = hashlib.sha256(json.dumps(bare(manifest), sort_keys=True).encode()).hexdigest()
    assert {name: found[name] for name in GOLDEN} == GOLDEN
    assert set(found) - {".lock"} == set(GOLDEN)
    assert manifest["block_rows"] == [254, 45]
    assert manifest["rows"] == 299


# Threads, interrupts, full disks ----------------------------------------------------------------------------------


def in_time(work: Callable[[], object], seconds: float = 60) -> BaseException | None:
    """Run `work` in a thread; what it raised, or None. A deadlock fails the test instead of hanging the suite."""
    raised: list[BaseException | None] = [None]

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised[0] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "deadlock"
    return raised[0]


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("failing", [0, 1, 4, 9])
def test_a_failing_worker_ends_the_ingest_with_its_own_error(tmp_path, monkeypatch, threads, failing):
    """The failing block fails at once; the one before it is slow, so others already wait for their turn."""
    monkeypatch.setattr(copy_module, "BLOCK_FILES", 4)
    write_photos(tmp_path / "in", range(40))

    class Failing:
        def __init__(self, device, files):
            self.reader = open_reader(device, files)

        def read(self, files, block):
            number = int(files.photo_ids[0]) // 4
            if number == failing:
                raise MemoryError("planted")
            if number == failing - 1:
                time.sleep(0.1)
            self.reader.read(files, block)

    monkeypatch.setattr(copy_module, "open_reader", Failing)
    error = in_time(lambda: ingest([tmp_path / "in"], tmp_path / "store", device=CPU, threads=threads))
    assert repr(error) == "MemoryError('planted')"
    with pytest.raises(StoreError):
        Store.open(tmp_path / "store")


@pytest.mark.parametrize("threads", [1, 3])
def test_a_reader_that_cannot_be_opened_ends_the_ingest(tmp_path, monkeypatch, threads):
    monkeypatch.setattr(copy_module, "BLOCK_FILES", 4)
    write_photos(tmp_path / "in", range(40))

    def closed(device, files):
        raise MemoryError("no buffers")

    monkeypatch.setattr(copy_module, "open_reader", closed)
    error = in_time(lambda: ingest([tmp_path / "in"], tmp_path / "store", device=CPU, threads=threads))
    assert repr(error) == "MemoryError('no buffers')"
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("at", [1, 3, 10])
@pytest.mark.parametrize("error_type", [RuntimeError, KeyboardInterrupt])
def test_an_error_of_the_listener_ends_the_ingest(tmp_path, monkeypatch, at, error_type):
    monkeypatch.setattr(copy_module, "BLOCK_FILES", 4)
    write_photos(tmp_path / "in", range(40))
    calls = []

    def listener(phase, done, total, *, unit="rows", detail=""):
        calls.append(done)
        if phase == "ingest" and sum(1 for _ in calls) > at:
            raise error_type("planted")

    error = in_time(lambda: ingest([tmp_path / "in"], tmp_path / "store", device=CPU, threads=2, progress=listener))
    assert type(error) is error_type
    with pytest.raises(StoreError):
        Store.open(tmp_path / "store")
    report = ingest([tmp_path / "in"], tmp_path / "store", device=CPU, threads=2)
    assert (report.photos, report.total) == (40, 40)
    assert report.resumed >= 4  # the listener heard of the first block when that was written
    ingest([tmp_path / "in"], tmp_path / "fresh", device=CPU)
    assert files_below(tmp_path / "store") == files_below(tmp_path / "fresh")


def test_progress_counts_every_file_once(tmp_path, monkeypatch):
    monkeypatch.setattr(copy_module, "BLOCK_FILES", 4)
    write_photos(tmp_path / "in", range(30))
    seen = []

    def listener(phase, done, total, *, unit="rows", detail=""):
        seen.append((phase, done, total))

    ingest([tmp_path / "in"], tmp_path / "store", device=CPU, threads=3, progress=listener)
    counted = [(done, total) for phase, done, total in seen if phase == "ingest"]
    assert counted == [(min(4 * (i + 1), 30), 30) for i in range(8)]


@contextmanager
def open_files_limit(files):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + files, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_many_small_folders_need_no_open_file_each(tmp_path, monkeypatch):
    """A folder for each photo: no good file may be refused because others are open."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(copy_module, "BLOCK_FILES", 40)
    for photo_id in range(400):
        folder = tmp_path / "in" / f"{photo_id % 13}" / f"{photo_id}"
        folder.mkdir(parents=True)
        (folder / f"{photo_id}.dat").write_bytes(photo_bytes(photo_id) if photo_id != 200 else b"")
    with open_files_limit(30):
        report = ingest([Path("in")], Path("store"), device=CPU, threads=4)
    assert (report.photos, report.refused) == (399, 1)
    store = Store.open("store")
    for row, photo_id in enumerate(store.photo_ids.tolist()):
        assert store.fc8[row].tobytes() == photo_layers(photo_id)[1].tobytes()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_no_free_file_handle_is_an_error_not_a_damaged_file(tmp_path):
    path = write_photo(tmp_path, 5)
    assert examine(path)[0] is None
    with open_files_limit(5):
        taken = []
        try:
            with suppress(OSError):
                while True:
                    taken.append(os.open("/", os.O_RDONLY))
            with pytest.raises(EngineError, match="Too many open files"):
                examine(path)
        finally:
            for handle in taken:
                os.close(handle)
    assert examine(path)[0] is None


def test_too_little_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    write_photos(tmp_path / "in", range(3))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=3 * 20_400 - 1))
    with pytest.raises(EngineError, match=r"3 photos needs 61\.2 KB more, 61\.2 KB are free"):
        ingest([tmp_path / "in"], tmp_path / "store", device=CPU)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300])
def test_a_place_that_cannot_be_a_folder_is_an_error_of_ours(tmp_path, place):
    write_photo(tmp_path / "in", 1)
    (tmp_path / "file").write_text("here already")
    with pytest.raises(EngineError, match="Choose another one"):
        ingest([tmp_path / "in"], tmp_path / place, device=CPU)
    assert (tmp_path / "file").read_text() == "here already"


def test_files_of_others_are_left_alone(tmp_path):
    write_photo(tmp_path / "in", 1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "fc7.npy").write_text("a month of work")
    with pytest.raises(StoreError, match=r"holds fc7\.npy, which no ingest began"):
        ingest([tmp_path / "in"], tmp_path / "mine", device=CPU)
    assert files_below(tmp_path / "mine") == {"fc7.npy": hashlib.sha256(b"a month of work").hexdigest()}


def test_archives_in_folders_are_read_beside_the_files(tmp_path):
    import tarfile

    write_photos(tmp_path / "in", range(5))
    write_photos(tmp_path / "members", range(5, 12))
    with tarfile.open(tmp_path / "in" / "more.tar", "w") as archive:
        archive.add(tmp_path / "members", "features")
    (tmp_path / "in" / "notes.txt").write_text("none of ours")
    report = ingest([tmp_path / "in"], tmp_path / "store", device=CPU)
    assert (report.photos, report.refused, report.ignored) == (12, 0, 1)
    assert Store.open(tmp_path / "store").photo_ids.tolist() == list(range(12))


def test_an_archive_of_nothing_is_an_error_of_ours(tmp_path):
    import zipfile

    zipfile.ZipFile(tmp_path / "e.zip", "w").close()
    with pytest.raises(InputError, match=r"e\.zip: holds no \.dat file"):
        ingest([tmp_path / "e.zip"], tmp_path / "store", device=CPU)
    assert not (tmp_path / "store").exists()
