"""How `benchmarks.gpu` measures: repeats with their spread, and what the parts share: queries, store, truth."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.index.exact import compare
from engine.store.store import Store
from engine.store.synth import features
from kernels import Codes, Device, Kernels, load

F32 = npt.NDArray[np.float32]
K: Final = 10
TOLERANCE: Final = 1e-6  # of a cosine: as good as the tenth is as good, which is fair to ties
WANTED_RECALL: Final = 0.95
REPEATS: Final = 5


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured, on what. work: folder of the collection, the store and what parts leave for others.

    seconds: what the repeats of one figure may take together; one run is made in any case.
    """

    work: Path
    device: Device
    photos: int
    queries: int = 10_000
    layer: str = "fc7"
    seconds: float = 40.0

    @property
    def kernels(self) -> Kernels:
        """The device's."""
        return load(self.device)

    @property
    def features(self) -> Path:
        """Folder of the `.dat` files."""
        return self.work / f"photos-{self.photos}" / "features"

    @property
    def store_path(self) -> Path:
        """Of the store that the part `ingest` leaves."""
        return self.work / f"store-{self.photos}"

    def store(self) -> Store:
        """The store; InputError where no part has made it."""
        if not (self.store_path / "manifest.json").exists():
            raise InputError(f"{self.store_path}: no store yet. Add ingest to --parts.")
        return Store.open(self.store_path)

    def index_path(self) -> Path:
        """The index that the part `build` leaves: one for each kind of device; InputError where there is none."""
        path = self.store_path / "indices" / f"bench-{self.device.kind}"
        if not path.exists():
            raise InputError(f"{path}: no index yet. Add build to --parts.")
        return path

    def once(self) -> "Setting":
        """The same, with time for one run of a figure."""
        return replace(self, seconds=0.0)

    def wait(self) -> None:
        """Return when the device is done."""
        if self.device.kind == "cuda":
            self.kernels.xp.cuda.runtime.deviceSynchronize()


def figure(values: list[float], unit: str) -> dict[str, Any]:
    """What is written of a figure: the median, the least and the most of its runs, and how many they were."""
    return {"median": float(np.median(values)), "least": min(values), "most": max(values), "runs": len(values),
            "unit": unit}  # fmt: skip


def repeated(setting: Setting, work: Callable[[], object], *, warm: int = 1, times: int = 1) -> list[float]:
    """Seconds of `work`, up to REPEATS times within the time there is, at least once, after `warm` runs that do not
    count. times: how often it runs in each, where once is too short to be timed.
    """
    for _ in range(warm):
        work()
    taken: list[float] = []
    started = time.perf_counter()
    while len(taken) < REPEATS and (not taken or time.perf_counter() - started + taken[-1] < setting.seconds):
        setting.wait()
        begun = time.perf_counter()
        for _ in range(times):
            work()
        setting.wait()
        taken.append((time.perf_counter() - begun) / times)
    return taken


def rates(amount: float, taken: list[float]) -> list[float]:
    """Amount for each second of every run."""
    return [amount / seconds for seconds in taken]


def held_out(setting: Setting) -> F32:
    """Rows (queries, dim) of photos that follow those of the store: they are not in it."""
    path = setting.work / f"queries-{setting.photos}-{setting.queries}.npy"
    if not path.exists():
        setting.work.mkdir(parents=True, exist_ok=True)
        fc7, fc8 = features(setting.photos, setting.queries, seed=0)
        np.save(path, fc7 if setting.layer == "fc7" else fc8)
    rows: F32 = np.load(path)
    return rows


def on_device(setting: Setting, store: Store) -> Any:
    """The raw rows (n, dim) where the kernels read them fastest: on the GPU if they fit there."""
    return setting.kernels.resident(Codes(store.layer(setting.layer))).values


def exact(setting: Setting, rows: Any, queries: F32) -> tuple[npt.NDArray[np.int64], F32]:
    """The K nearest rows of each query and their scores, (q, K), by the engine's own comparison of all rows."""
    nobody = np.full(len(queries), -1, np.int64)
    return compare(rows, queries, nobody, K, "cosine", setting.kernels)


def truth_path(setting: Setting) -> Path:
    """Where `tenth` keeps what it found."""
    return setting.work / f"truth-{setting.photos}-{setting.queries}.npy"


def tenth(setting: Setting, store: Store, queries: F32) -> F32:
    """The exact score (q,) of each query's tenth neighbour, found once for all parts."""
    path = truth_path(setting)
    if not path.exists():
        np.save(path, exact(setting, on_device(setting, store), queries)[1][:, -1])
    scores: F32 = np.load(path)
    return scores


def in_float64(setting: Setting, rows: Any, queries: F32) -> F32:
    """The exact cosine (q,) of each query's tenth neighbour, by float64 products: no kernel takes part."""
    xp = setting.kernels.xp
    asked = setting.kernels.to_device(queries).astype(xp.float64)
    asked /= xp.linalg.norm(asked, axis=1)[:, None]
    best = xp.full((len(asked), K), -xp.inf)
    for block in _blocks_of(rows, 4096):
        some = setting.kernels.to_device(np.asarray(block) if isinstance(block, np.ndarray) else block)
        some = some.astype(xp.float64)
        lengths = xp.linalg.norm(some, axis=1)
        scores = asked @ (some / xp.where(lengths > 0, lengths, 1.0)[:, None]).T
        best = xp.sort(xp.concatenate([best, scores], axis=1), axis=1)[:, -K:]
    last: F32 = setting.kernels.to_host(best[:, 0]).astype(np.float32)
    return last


def _blocks_of(rows: Any, size: int) -> Iterator[Any]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def recall(scores: F32, last: F32) -> float:
    """The share of answers' exact scores (q, K) that are as good as the true tenth (q,)."""
    return float((scores >= last[:, None] - TOLERANCE).mean())


@dataclass(frozen=True)
class Point:
    """One setting of a search: its words, its recall, its seconds for a batch."""

    name: str
    recall: float
    seconds: float


def best_of(points: list[Point]) -> Point | None:
    """The quickest that reaches the wanted recall."""
    good = [point for point in points if point.recall >= WANTED_RECALL]
    return min(good, key=lambda point: point.seconds, default=None)
