"""Interrupted, killed, out of room: an ingest continues, and the store is the one that nothing had interrupted."""

import json
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from engine.errors import EngineError, StoreError
from engine.store import copy as copy_module
from engine.store.ingest import ingest
from engine.store.reader import open_reader
from engine.store.store import Store
from engine.store.verify import verify_store
from tests.builders import CPU, files_below, photo_bytes, photo_layers, write_photo, write_photos

ROOT = Path(__file__).parent.parent.parent
KILLS = 60


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=ROOT,
    )  # fmt: skip


# For every line it reads, forks a process that ingests, and stops itself by SIGKILL at the N-th system call that
# changes something on the disk: every moment that can matter, as a process that dies between two of them leaves what
# one leaves that dies after the first. Answers with the exit status and the number of calls.
DIES = """
import json, os, signal, sys, traceback
from pathlib import Path
from engine.store import archives, arrivals, copy, ingest as module
from kernels import Device, load
copy.BLOCK_FILES = arrivals.BLOCK_FILES = 8
arrivals.WINDOW = 24
load(Device(kind="cpu"))
calls = 0
def dying(name, kill_at):
    call = getattr(os, name)
    def counted(*arguments, **options):
        global calls
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    setattr(os, name, counted)
for line in sys.stdin:
    store, kill_at, *sources = json.loads(line)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            for name in ("pwrite", "fsync", "replace", "rename", "unlink", "ftruncate", "mkdir", "open"):
                dying(name, kill_at)
            module.ingest([Path(source) for source in sources], Path(store), device=Device(kind="cpu"), threads=2)
            os.write(write, str(calls).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    os.close(write)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([status, int(os.read(read, 99) or 0)]), flush=True)
    os.close(read)
"""


class Mortals:
    """Ingests in processes that die when they are told to."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", DIES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def ingest(self, store: Path, kill_at: int, *given: Path) -> tuple[int, int]:
        """The exit status, negative for a signal, and the calls that were made if it came to its end."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([str(store), kill_at, *map(str, given)]) + "\n")
        self._process.stdin.flush()
        status, calls = json.loads(self._process.stdout.readline())
        return status, calls

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Folders, a tar and a compressed tar whose members are in no order; damage in each; a second collection."""
    root = tmp_path_factory.mktemp("resume")
    write_photos(root / "tree", range(0, 300, 3))
    write_photo(root / "tree", 30, b"cut short")
    members = root / "members"
    write_photos(members, [*range(1, 300, 3), *range(2, 300, 3)])
    write_photo(members, 31, b"cut short too")
    order = random.Random(5)
    for name, mode, start in (("plain.tar", "w", 1), ("packed.tar.bz2", "w:bz2", 2)):
        files = [members / f"0/{photo_id}.dat" for photo_id in range(start, 300, 3)]
        order.shuffle(files)
        with tarfile.open(root / name, mode) as archive:  # type: ignore[call-overload]
            for file in files:
                archive.add(file, file.relative_to(members))
    write_photos(root / "more", range(290, 420))
    return root


def test_killed_at_any_moment_and_run_again_it_is_the_same_store(sources, tmp_path):
    """Kills at random moments of a first ingest and of an append, some of them in a row on the same store."""
    first = [sources / "tree", sources / "plain.tar", sources / "packed.tar.bz2"]
    mortals = Mortals()
    status, calls_first = mortals.ingest(tmp_path / "whole", 0, *first)
    assert status == 0
    whole = files_below(tmp_path / "whole")
    assert Store.open(tmp_path / "whole").photo_ids.tolist() == [i for i in range(300) if i not in (30, 31)]
    status, calls_more = mortals.ingest(tmp_path / "whole", 0, sources / "more")
    assert status == 0
    grown = files_below(tmp_path / "whole")
    choose, kills, turn = random.Random(), 0, 0
    while kills < KILLS:
        store, turn = tmp_path / f"store-{turn}", turn + 1
        for given, calls, expected, before in (
            (first, calls_first, whole, None), ([sources / "more"], calls_more, grown, whole),
        ):  # fmt: skip
            for _ in range(choose.randint(1, 4)):
                status, _ = mortals.ingest(store, choose.randint(1, calls), *given)
                kills += status == -signal.SIGKILL
                assert status in (0, -signal.SIGKILL)
                check_between(store, before)
            assert mortals.ingest(store, 0, *given)[0] == 0
            assert files_below(store) == expected
    mortals.close()
    assert kills >= KILLS


def test_killed_at_every_call_of_the_end(sources, tmp_path):
    """The last calls are those that make the store valid: each of them in turn, on a copy of the same state."""
    mortals = Mortals()
    status, calls = mortals.ingest(tmp_path / "whole", 0, sources / "tree")
    assert status == 0
    whole = files_below(tmp_path / "whole")
    for back in range(40):
        store = tmp_path / f"store-{back}"
        assert mortals.ingest(store, calls - back, sources / "tree")[0] in (0, -signal.SIGKILL)
        with suppress(StoreError):
            assert len(Store.open(store)) == 99
        assert mortals.ingest(store, 0, sources / "tree")[0] == 0
        assert files_below(store) == whole, back
    mortals.close()


def check_between(store: Path, before: dict[str, str] | None) -> None:
    """After a kill the store is the old one, the new one, or says that it is unfinished; never anything else."""
    try:
        opened = Store.open(store)
    except StoreError as error:
        assert before is None, error
        assert "interrupted" in str(error) or "absent" in str(error)
        return
    for row in (0, len(opened) // 2, len(opened) - 1):
        photo_id = int(opened.photo_ids[row])
        assert opened.fc7[row].tobytes() == photo_layers(photo_id)[0].tobytes()
    assert verify_store(store).damage == []
    rows = json.loads((store / "manifest.json").read_text())["rows"]
    assert rows == 298 or (before is not None and rows == 298 + 120)


def test_what_an_interrupted_run_wrote_is_not_read_again(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(copy_module, "BLOCK_FILES", 8)
    calls = 0

    def stop(phase, done, total, *, unit="rows", detail=""):
        nonlocal calls
        calls += phase == "ingest"
        if calls == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest([sources / "tree"], tmp_path / "store", device=CPU, progress=stop)
    read: list[int] = []
    reader = open_reader

    class Counting:
        def __init__(self, device, files):
            self.reader = reader(device, files)

        def read(self, records, block):
            read.extend(records.photo_ids.tolist())
            self.reader.read(records, block)

    monkeypatch.setattr(copy_module, "open_reader", Counting)
    report = ingest([sources / "tree"], tmp_path / "store", device=CPU)
    assert report.resumed >= 40
    assert len(read) == len(set(read)) == 100 - (report.resumed + report.refused)
    monkeypatch.setattr(copy_module, "open_reader", reader)
    ingest([sources / "tree"], tmp_path / "fresh", device=CPU)
    assert files_below(tmp_path / "store") == files_below(tmp_path / "fresh")


@pytest.mark.parametrize("change", ["rows", "journal", "cut", "other files"])
def test_what_was_damaged_or_changed_meanwhile_is_read_again(sources, tmp_path, monkeypatch, change):
    monkeypatch.setattr(copy_module, "BLOCK_FILES", 8)

    def stop(phase, done, total, *, unit="rows", detail=""):
        if phase == "flush to disk":
            raise KeyboardInterrupt

    write_photos(tmp_path / "in", range(100))
    with pytest.raises(KeyboardInterrupt):
        ingest([tmp_path / "in"], tmp_path / "store", device=CPU, progress=stop)
    part, journal = tmp_path / "store" / "fc7.npy.part", tmp_path / "store" / "ingest.journal"
    if change == "rows":
        data = bytearray(part.read_bytes())
        data[4096 + 16_384 * 20 + 5] ^= 1
        part.write_bytes(data)
    elif change == "journal":
        data = bytearray(journal.read_bytes())
        data[len(data) // 2] ^= 1
        journal.write_bytes(data)
    elif change == "cut":
        part.write_bytes(part.read_bytes()[: 16_384 * 50])
    else:
        write_photo(tmp_path / "in", 103_000)
        (tmp_path / "in" / "0" / "7.dat").unlink()
    report = ingest([tmp_path / "in"], tmp_path / "store", device=CPU)
    assert 0 < report.resumed < 100 or change == "other files"
    ingest([tmp_path / "in"], tmp_path / "fresh", device=CPU)
    assert files_below(tmp_path / "store") == files_below(tmp_path / "fresh")


SLOW_INGEST = """
import sys, time
from pathlib import Path
from engine.cli.main import main
from engine.store import copy
from engine.store.writer import StoreWriter
copy.BLOCK_FILES = 4
write = StoreWriter.write
def slow(*arguments, **options):
    write(*arguments, **options)
    print("wrote\\n", end="", flush=True)
    time.sleep(0.2)
StoreWriter.write = slow
sys.argv = ["mirsearch", "ingest", sys.argv[1], "--store", sys.argv[2], "--threads", "2"]
main()
"""


def test_ctrl_c_ends_the_ingest_with_130_and_it_continues(tmp_path):
    write_photos(tmp_path / "in", range(400))
    with child(SLOW_INGEST, tmp_path / "in", tmp_path / "store") as process:
        assert process.stdout and process.stdout.readline() == "wrote\n"
        assert (tmp_path / "store" / "fc7.npy.part").exists()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert out.count("wrote") < 90  # of 100 blocks: it did not run to its end
    with pytest.raises(StoreError, match="interrupted here: run it again"):
        Store.open(tmp_path / "store")
    assert ingest([tmp_path / "in"], tmp_path / "store", device=CPU).photos == 400
    assert not list((tmp_path / "store").glob("*.part"))


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from engine.errors import EngineError
from engine.store import copy
from engine.store.ingest import ingest
from kernels import Device
copy.BLOCK_FILES = 64
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ingest([Path(sys.argv[1])], Path(sys.argv[2] + "-before"), device=Device(kind="cpu"))  # what Numba compiles is cached
for limit in map(int, sys.argv[3:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        ingest([Path(sys.argv[1])], Path(sys.argv[2]), device=Device(kind="cpu"))
        message = "nothing was said"
    except EngineError as error:
        message = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(message, (Path(sys.argv[2]) / "manifest.json").exists(), sep="|")
"""


def test_a_full_disk_is_said_and_the_ingest_continues_when_there_is_room(tmp_path):
    """From the first byte of an array to its last: files may not grow past a limit, as if the disk were full."""
    write_photos(tmp_path / "in", range(600))
    limits = [0, 1, 100, 128, 16_384 * 30, 16_384 * 300, 16_384 * 599 + 129, 16_384 * 600 + 127]
    with child(FULL_DISK, tmp_path / "in", tmp_path / "store", *limits) as process:
        out, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == len(limits)
    for line in lines:
        assert line.startswith(f"{tmp_path / 'store'}: a file has reached the largest size "), line
        assert line.endswith("|False"), line
    needed = [re.search(r"It continues where it was and needs ([0-9.]+) MB more\.\|", line) for line in lines]
    assert [float(found[1]) for found in needed if found] == sorted(
        (float(found[1]) for found in needed if found), reverse=True
    )
    assert sum(map(bool, needed)) >= 3
    report = ingest([tmp_path / "in"], tmp_path / "store", device=CPU)
    assert report.photos == 600
    before = files_below(tmp_path / "store-before")
    again = files_below(tmp_path / "store")
    assert {name: again[name] for name in ("fc7.npy", "fc8.npy", "photo_ids.npy")} == {
        name: before[name] for name in ("fc7.npy", "fc8.npy", "photo_ids.npy")
    }


def test_a_full_disk_leaves_the_store_that_was_there(tmp_path):
    write_photos(tmp_path / "in", range(100))
    ingest([tmp_path / "in"], tmp_path / "store", device=CPU)
    before = (tmp_path / "store" / "manifest.json").read_bytes()
    write_photos(tmp_path / "in", range(100, 300))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384 * 150, hard))
    try:
        with pytest.raises(EngineError, match="a file has reached the largest size"):
            ingest([tmp_path / "in"], tmp_path / "store", device=CPU)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "store" / "manifest.json").read_bytes() == before
    assert len(Store.open(tmp_path / "store")) == 100
    assert verify_store(tmp_path / "store").damage == []
    assert ingest([tmp_path / "in"], tmp_path / "store", device=CPU).photos == 200
    assert Store.open(tmp_path / "store").photo_ids.tolist() == list(range(300))


def test_a_full_disk_while_an_archive_is_unpacked_is_said_truly(tmp_path):
    write_photos(tmp_path / "in", range(20))
    write_photos(tmp_path / "more", range(100, 400))
    with tarfile.open(tmp_path / "more.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "more", "more")
    work = partial(ingest, [tmp_path / "in", tmp_path / "more.tar.gz"], tmp_path / "store", device=CPU)
    again = f"continues with {tmp_path / 'more.tar.gz'}, from its beginning: how much room that needs cannot be known"
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for rows, says in (
        (100, again),
        (10, r"needs 408\.0 KB more and what the compressed archives hold, which cannot be"),
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (16_384 * rows, hard))
        try:
            with pytest.raises(EngineError, match=says):
                work()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        shutil.rmtree(tmp_path / "store", ignore_errors=rows == 10)
    assert work().photos == 320


# Growing ----------------------------------------------------------------------------------------------------------


def test_a_store_grows_at_its_end_and_knows_its_photos(tmp_path):
    write_photos(tmp_path / "in", range(100, 150))
    ingest([tmp_path / "in"], tmp_path / "store", device=CPU)
    rows = Store.open(tmp_path / "store").fc7[:].copy()
    write_photo(tmp_path / "in", 120, photo_bytes(120, version=3))  # known: left as it is
    write_photos(tmp_path / "in", range(40))
    write_photo(tmp_path / "in", 7, b"cut")
    report = ingest([tmp_path / "in"], tmp_path / "store", device=CPU)
    assert (report.photos, report.known, report.total, report.refused) == (39, 50, 89, 1)
    store = Store.open(tmp_path / "store")
    assert store.photo_ids.tolist() == [*range(100, 150), *(i for i in range(40) if i != 7)]
    assert store.fc7[:50].tobytes() == rows.tobytes()
    assert store.fc8[store.rows_of([39])[0]].tobytes() == photo_layers(39)[1].tobytes()
    assert verify_store(tmp_path / "store").damage == []
    assert np.load(tmp_path / "store" / "fc7.npy", mmap_mode="r").shape == (89, 4096)


def test_the_same_again_changes_nothing(sources, tmp_path):
    given = [sources / "tree", sources / "plain.tar", sources / "packed.tar.bz2"]
    ingest(given, tmp_path / "store", device=CPU)
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in (tmp_path / "store").iterdir()}
    report = ingest(given, tmp_path / "store", device=CPU)
    assert (report.photos, report.known, report.total, report.refused) == (0, 298, 298, 2)
    after = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in (tmp_path / "store").iterdir()}
    assert after == before


def test_any_order_and_kind_of_source_gives_the_same_rows(sources, tmp_path):
    given = [sources / "packed.tar.bz2", sources / "tree", sources / "plain.tar", sources / "more"]
    ingest(given, tmp_path / "mixed", device=CPU)
    ingest([sources / "tree", sources / "members", sources / "more"], tmp_path / "folders", device=CPU)
    mixed, folders = files_below(tmp_path / "mixed"), files_below(tmp_path / "folders")
    for name in ("fc7.npy", "fc8.npy", "photo_ids.npy"):
        assert mixed[name] == folders[name]


def test_a_store_of_other_layers_is_not_grown(tmp_path):
    from tests.builders import make_store

    make_store(tmp_path / "store", {"fc7": np.zeros((3, 4), np.float32)})
    write_photo(tmp_path / "in", 1)
    with pytest.raises(StoreError, match=r"holds layers fc7 \(4\), expected fc7 \(4096\), fc8 \(1000\)"):
        ingest([tmp_path / "in"], tmp_path / "store", device=CPU)
    assert len(Store.open(tmp_path / "store")) == 3
