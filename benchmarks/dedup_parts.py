"""The parts of `benchmarks.dedup`, each a function of a setting that gives figures; some leave pairs for the page."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.child import mirsearch
from benchmarks.dedup_peer import ABSENT
from benchmarks.ingest import sample
from benchmarks.peer_build import Peak
from benchmarks.peer_task import CPU
from engine.errors import EngineError
from engine.index.build import build_index
from engine.index.search import Index
from engine.index.spec import IndexSpec
from engine.jobs.copy_metrics import FoundPairs
from engine.jobs.dedup import DedupSpec, Duplicates, find_duplicates
from engine.store.dat import PHOTOS_PER_FOLDER
from engine.store.ingest import ingest
from engine.store.store import Store
from engine.store.synth import describe, synthesize
from engine.store.synth_edits import add_edits

Figures = dict[str, Any]
I64 = npt.NDArray[np.int64]
# All pairs from here on are one list for micro-AP: hardest copies are below, but so are most pairs of unlike photos.
FLOOR = {"fc7": 0.85, "fc8": 0.93}
# Between near duplicates and bursts, as the sample collection plants them.
THRESHOLD = {"fc7": 0.95, "fc8": 0.975}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured. work: folder of collections, stores and results. photos: of the collection, its edited copies
    not counted. python: of the peers. repeats: how often what is timed is run.
    """

    work: Path
    layer: str
    photos: int
    python: str
    largest: int
    repeats: int = 3

    @property
    def out(self) -> Path:
        """Folder of the results."""
        return self.work / f"dedup-{self.layer}-{self.photos}"

    @property
    def store_path(self) -> Path:
        """The store with edited copies."""
        return self.work / f"dedup-store-{self.photos}"

    @property
    def truth(self) -> Path:
        """What was planted in it."""
        return self.store_path / "truth.jsonl"

    @property
    def rows(self) -> Path:
        """The file of the layer's rows."""
        return self.store_path / f"{self.layer}.npy"

    def index(self) -> Index:
        """The index of the store with edited copies."""
        return Index.open(self.store_path / "indices" / index_name(self.layer), device=CPU)

    @property
    def threshold(self) -> float:
        """Of what is timed beside the peers."""
        return THRESHOLD[self.layer]


def photos(setting: Setting) -> Figures:
    """The store with edited copies; the `.dat` files are removed again, the truth is kept."""
    if (setting.store_path / "manifest.json").exists() and setting.truth.exists():
        return {"photos": len(Store.open(setting.store_path))}
    folder = setting.work / f"sample-edits-{setting.photos}"
    if (describe(folder) or {}).get("edits") is None:
        synthesize(folder, photos=setting.photos, seed=0)
        add_edits(folder)
    shutil.rmtree(setting.store_path, ignore_errors=True)
    ingest([folder / "features"], setting.store_path, device=CPU)
    shutil.copyfile(folder / "truth.jsonl", setting.truth)
    shutil.rmtree(folder)
    return {"photos": len(Store.open(setting.store_path))}


def build(setting: Setting) -> Figures:
    """The index that dedup searches, by the defaults."""
    return _build(Store.open(setting.store_path), setting.layer)


def index_name(layer: str) -> str:
    """Of our index, beside those of other benchmarks."""
    return f"dedup-{layer}"


def _build(store: Store, layer: str) -> Figures:
    name = index_name(layer)
    shutil.rmtree(store.path / "indices" / name, ignore_errors=True)
    started = time.perf_counter()
    with Peak() as peak:
        build_index(store, IndexSpec(layer=layer), device=CPU, name=name)
    return {"seconds": time.perf_counter() - started, "own_bytes": peak.bytes}


def index_method(setting: Setting) -> Figures:
    """Through the index, at the threshold; timed."""
    return _found(setting, "index", [_timed(setting, threshold=setting.threshold) for _ in range(setting.repeats)])


def chosen(setting: Setting) -> Figures:
    """As without any option: at the threshold that is chosen from the data."""
    return _found(setting, "chosen", [_timed(setting)])


def floor(setting: Setting) -> Figures:
    """Through the index, all pairs from the floor on."""
    return _found(setting, "floor", [_timed(setting, threshold=FLOOR[setting.layer])])


def normalised(setting: Setting) -> Figures:
    """The same with normalised scores."""
    return _found(setting, "normalised", [_timed(setting, threshold=FLOOR[setting.layer], normalise=True)])


def _timed(setting: Setting, **asked: Any) -> tuple[Duplicates, float, int]:
    index = setting.index()
    started = time.perf_counter()
    with Peak() as peak:
        found = find_duplicates(index, DedupSpec(**asked))
    return found, time.perf_counter() - started, peak.bytes


def _found(setting: Setting, name: str, runs: list[tuple[Duplicates, float, int]]) -> Figures:
    found = runs[-1][0]
    groups = [np.array(group.photo_ids, np.int64) for group in found.groups]
    save(
        setting.out / f"{name}.npz",
        pairs=found.pairs, scores=found.scores, copies=found.copies,
        grouped=np.concatenate([np.empty(0, np.int64), *groups]), sizes=np.array([len(group) for group in groups]),
    )  # fmt: skip
    return {
        "seconds": [seconds for _, seconds, _ in runs], "phases": found.seconds, "pairs": len(found.pairs),
        "groups": len(groups), "own_bytes": max(peak for _, _, peak in runs), "threshold": found.threshold,
    }  # fmt: skip


def exhaustive(setting: Setting) -> Figures:
    """Every row with every other, from the floor on: the oracle of the rest."""
    return _found(setting, "exhaustive", [_timed(setting, threshold=FLOOR[setting.layer], method="exhaustive")])


def save(path: Path, **arrays: Any) -> None:
    """Write arrays aside, then name them."""
    aside = path.with_name(path.name + ".part")
    with aside.open("wb") as file:
        np.savez(file, **arrays)
    aside.rename(path)


def saved(path: Path) -> FoundPairs:
    """Pairs that a part left, with their groups."""
    with np.load(path) as there:
        groups = np.split(there["grouped"], np.cumsum(there["sizes"])[:-1]) if len(there["sizes"]) else []
        return FoundPairs(
            pairs=there["pairs"], scores=there["scores"], copies=there["copies"],
            groups=tuple(tuple(group.tolist()) for group in groups),
        )  # fmt: skip


def peer(setting: Setting, name: str, photos: int | None) -> Figures:
    """A peer on the first so many rows, or all: its settings with seconds and recall of what the exact join found."""
    photos = photos or len(Store.open(setting.store_path))
    out = setting.out / f"peer-{name}-{photos}.npz"
    script = Path(__file__).with_name("dedup_peer.py")
    python = sys.executable if name.startswith("faiss") else setting.python
    words = [python, script, name, setting.rows, photos, setting.threshold, out]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    if done.returncode == ABSENT:
        raise EngineError(f"{name} is not installed for {Path(python).name}; see benchmarks/README.md")
    if done.returncode:
        raise EngineError(f"{name} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    known: Figures = json.loads(done.stdout.splitlines()[-1])
    wanted = _exact_pairs(setting, photos)
    with np.load(out) as pairs:
        for number, each in enumerate(known["settings"]):
            there = _keys(pairs[str(number)], photos)
            each["pairs"], each["recall"] = len(there), float(np.isin(wanted, there).mean())
    out.unlink()
    return known | {"photos": photos, "exact_pairs": len(wanted)}


def _exact_pairs(setting: Setting, photos: int) -> I64:
    """Pairs of rows among the first so many that the exact join found at the threshold, as one number each."""
    found, store = saved(setting.out / "exhaustive.npz"), Store.open(setting.store_path)
    rows = store.rows_of(found.pairs[found.scores.astype(np.float64) >= setting.threshold].ravel()).reshape(-1, 2)
    return _keys(rows[(rows < photos).all(axis=1)], photos)


def _keys(pairs: I64, photos: int) -> I64:
    pairs = np.sort(pairs, axis=1)
    return np.asarray(pairs[:, 0] * photos + pairs[:, 1], np.int64)


def scale(setting: Setting, photos: int) -> Figures:
    """The whole command on a collection of so many photos without edits, and the most it holds for itself."""
    path = setting.work / f"store-{photos}"
    if not (path / "manifest.json").exists():
        features = _collection(setting, photos) / "features"
        ingest([features / str(i) for i in range(photos // PHOTOS_PER_FOLDER)], path, device=CPU)
    store = Store.open(path)
    built = _build(store, setting.layer)
    runs = []
    for _ in range(1 if photos >= 1_000_000 else setting.repeats):
        target = setting.work / f"duplicates-{photos}"
        shutil.rmtree(target, ignore_errors=True)
        words = ["dedup", path, "--name", index_name(setting.layer), "--out", target, "--device", "cpu", "--json"]
        runs.append(_watched(list(map(str, mirsearch(*words)))))
        shutil.rmtree(target)
    return {"photos": photos, "build": built, "runs": runs}


def _collection(setting: Setting, photos: int) -> Path:
    """A sample collection of so many photos or more: a smaller one is the first folders of a larger one."""
    for number in (photos, setting.largest):
        if number >= photos and describe(folder := setting.work / f"sample-{number}"):
            return folder
    larger_is_stored = (setting.work / f"store-{setting.largest}" / "manifest.json").exists()
    return sample(setting.work, photos if larger_is_stored else max(setting.largest, photos))


def _watched(command: list[str]) -> Figures:
    """Run a command, looking every 50 ms at what it holds for itself."""
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            try:
                lines = status.read_text().splitlines()
            except OSError:
                break
            own = (int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
            peak = max(peak, sum(own))
            time.sleep(0.05)
        out = process.communicate()[0]
    if process.returncode:
        raise EngineError(f"{' '.join(command[1:3])} ended with {process.returncode}: {out[-500:]}")
    document = json.loads(out)
    return {"seconds": time.perf_counter() - started, "own_bytes": peak, "pairs": document["pairs"],
            "groups": document["groups"], "phases": document["seconds"]}  # fmt: skip


PARTS: dict[str, Callable[[Setting], Figures]] = {
    "photos": photos, "build": build, "index": index_method, "chosen": chosen, "floor": floor,
    "normalised": normalised, "exhaustive": exhaustive,
}  # fmt: skip
