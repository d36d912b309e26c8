import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from engine.errors import EngineError, InputError
from engine.store import dat, synth, synth_model
from engine.store.synth_copies import cosine
from engine.store.synth_model import BLOCK, VERSION, make_block, network

Rows = npt.NDArray[Any]
PHOTOS = 4000


def publishers_reader(content: bytes) -> tuple[Rows, Rows]:
    """As the publisher's: `struct`, native order, fc8 first; returns (fc7, fc8), each 1 × n."""
    offset, layers = 0, []
    while offset < len(content):
        (dim,) = struct.unpack_from("=q", content, offset)
        layers.append(np.array([struct.unpack_from(f"={dim}f", content, offset + 8)], np.float32))
        offset += 8 + 4 * dim
    fc8, fc7 = layers
    return fc7, fc8


def digests(directory: Path) -> dict[str, str]:
    """One digest per file under a folder, by relative path."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def truth(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "truth.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def sample():
    """The first 4,000 photos, without files: fc7, fc8 and the pairs planted among them."""
    blocks = [make_block(0, number) for number in range(PHOTOS // BLOCK)]
    return SimpleNamespace(
        fc7=np.concatenate([block.fc7 for block in blocks]),
        fc8=np.concatenate([block.fc8 for block in blocks]),
        pairs=[pair for block in blocks for pair in block.pairs],
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """1,100 photos written by one process, with pictures."""
    directory = tmp_path_factory.mktemp("small") / "photos"
    report = synth.synthesize(directory, photos=1100, seed=5, images=True, workers=1)
    return directory, report


def test_files_lie_and_read_as_the_publisher_s(small):
    directory, report = small
    names = set(digests(directory))
    ids = range(1100)
    expected = {f"features/0/{i}.dat" for i in ids} | {f"images/0/{i}.jpg" for i in ids}
    assert names == expected | {"truth.jsonl", "synth.json"}
    assert report.bytes == sum((directory / name).stat().st_size for name in expected)
    fc7, fc8 = synth.features(990, 20, seed=5)
    for photo_id in (990, 999, 1000, 1009):
        content = (directory / "features" / "0" / f"{photo_id}.dat").read_bytes()
        assert len(content) == 20_400
        read7, read8 = publishers_reader(content)
        np.testing.assert_array_equal(read7, fc7[photo_id - 990][None])
        np.testing.assert_array_equal(read8, fc8[photo_id - 990][None])


def test_folders_hold_ten_thousand_photos(tmp_path, monkeypatch):
    monkeypatch.setattr(dat, "PHOTOS_PER_FOLDER", 1000)
    synth.synthesize(tmp_path / "photos", photos=1001, seed=1, workers=1)
    assert (tmp_path / "photos/features/0/999.dat").is_file()
    assert [path.name for path in (tmp_path / "photos/features/1").iterdir()] == ["1000.dat"]


def test_neither_workers_nor_number_of_photos_change_a_byte(small, tmp_path):
    directory, _ = small
    synth.synthesize(tmp_path / "two", photos=1100, seed=5, images=True, workers=2)
    assert digests(tmp_path / "two") == digests(directory)
    synth.synthesize(tmp_path / "cut", photos=1007, seed=5, images=True, workers=2)
    whole, cut = digests(directory), digests(tmp_path / "cut")
    for name in ("truth.jsonl", "synth.json"):
        whole.pop(name), cut.pop(name)
    assert cut.items() <= whole.items()
    assert truth(tmp_path / "cut") == [pair for pair in truth(directory) if pair["photo_id"] < 1007]


def test_threads_of_the_matrix_product_change_no_bit():
    script = (
        "import hashlib; from engine.store.synth import features; f = features(995, 10, seed=9);"
        "print(hashlib.sha256(f[0].tobytes() + f[1].tobytes()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(found) == 1


def test_sums_stay_exact(monkeypatch):
    seen = []

    def spy(net, activations, scale):
        seen.append(activations.copy())
        return score(net, activations, scale)

    score = synth_model._score
    monkeypatch.setattr(synth_model, "_score", spy)
    make_block(0, 0)
    (activations,) = seen
    net = network(0)
    for numbers in (net.expand, net.read, net.classes, activations):
        np.testing.assert_array_equal(numbers, np.rint(numbers))
    assert net.expand.shape[0] * synth_model.LATENT_MAX * np.abs(net.expand).max() < 2**24
    assert activations.sum(1, dtype=np.float64).max() * np.abs(net.read).max() < 0.8 * 2**24
    assert net.classes.shape[0] * synth_model.HIDDEN_MAX * np.abs(net.classes).max() < 2**24
    exact = activations[:50].astype(np.int64) @ net.read.astype(np.int64)
    np.testing.assert_array_equal(activations[:50] @ net.read, exact)


def test_chunks_agree():
    fc7, fc8 = synth.features(950, 100, seed=2)
    for start, photos in ((950, 1), (999, 2), (1000, 50)):
        part7, part8 = synth.features(start, photos, seed=2)
        np.testing.assert_array_equal(part7, fc7[start - 950 : start - 950 + photos])
        np.testing.assert_array_equal(part8, fc8[start - 950 : start - 950 + photos])
    assert synth.features(3, 0, seed=2)[0].shape == (0, 4096)


def test_seeds_differ():
    one, other = synth.features(0, 2, seed=1)[0], synth.features(0, 2, seed=2)[0]
    assert not np.array_equal(one, other)
    assert cosine(one, other).max() < 0.6


def test_truth_is_what_the_features_say(sample):
    rows = {"fc7": sample.fc7, "fc8": sample.fc8}
    of, copy = np.array([(pair.of, pair.photo_id) for pair in sample.pairs]).T
    assert (of < copy).all() and (of // BLOCK == copy // BLOCK).all()
    for layer, vectors in rows.items():
        said = [getattr(pair, f"{layer}_cosine") for pair in sample.pairs]
        np.testing.assert_allclose(cosine(vectors[of], vectors[copy]), said, atol=1e-5)
    bands = {
        "near-strong": (0.97, 0.9999),
        "near-medium": (0.93, 0.97),
        "near-weak": (0.85, 0.93),
        "burst": (0.80, 0.93),
    }
    for pair in sample.pairs:
        if pair.kind == "exact":
            for vectors in rows.values():
                assert vectors[pair.of].tobytes() == vectors[pair.photo_id].tobytes()
        else:
            low, high = bands[pair.kind]
            assert low <= pair.fc7_cosine <= high, pair
    medium = [pair.fc7_cosine for pair in sample.pairs if pair.kind == "near-medium"]
    assert 0.3 < np.mean(np.array(medium) < 0.95) < 0.7
    per_block = {"exact": 24, "near-strong": 14, "near-medium": 13, "near-weak": 13, "burst": 40}
    assert Counter(pair.kind for pair in sample.pairs) == {kind: 4 * n for kind, n in per_block.items()}


def test_truth_file_lists_exactly_the_planted_pairs(small):
    directory, report = small
    fc7, _ = synth.features(0, 1100, seed=5)
    pairs = truth(directory)
    assert report.truth == directory / "truth.jsonl"
    assert report.pairs == Counter(pair["kind"] for pair in pairs)
    equal: dict[bytes, list[int]] = {}
    for photo_id, row in enumerate(fc7):
        equal.setdefault(row.tobytes(), []).append(photo_id)
    found = {(a, b) for group in equal.values() for i, a in enumerate(group) for b in group[i + 1 :]}
    assert {(pair["of"], pair["photo_id"]) for pair in pairs if pair["kind"] == "exact"} == found
    assert max(map(len, equal.values())) == 3


def neighbour_cosines(rows: Rows) -> tuple[Rows, Rows]:
    """All cosines between unit rows, itself left out; and the share of variance by axis, of 2,000 rows."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    centred = unit[:2000] - unit[:2000].mean(0)
    spectrum = np.linalg.eigvalsh(centred @ centred.T if unit.shape[1] > 2000 else centred.T @ centred)
    return cosines, np.cumsum(spectrum[::-1]) / spectrum.sum()


# Real sets span these, to the two digits that are known of them: (norm p5, median, p95),
# variance in the first 32/64/128/256/512 axes, median cosine to neighbour 1/10/100, of a random pair.
RANGES: dict[str, Any] = {
    "fc7": (
        [(49, 102), (70, 166), (92, 241)],
        [(0.33, 0.65), (0.45, 0.79), (0.59, 0.87), (0.70, 0.92), (0.81, 0.96)],
        [(0.46, 0.97), (0.40, 0.90), (0.32, 0.57)],
        (0.23, 0.44),
    ),
    "fc8": (
        [(30, 36), (36, 42), (46, 49)],
        [(0.685, 0.725), (0.785, 0.825), (0.875, 0.905), (0.945, 0.965), (0.985, 0.997)],
        [(0.815, 0.845), (0.725, 0.785), (0.575, 0.715)],
        (0.14, 0.45),
    ),
}


@pytest.mark.parametrize("layer", ["fc7", "fc8"])
def test_statistics_are_those_of_real_features(sample, layer):
    copies = np.unique([pair.photo_id for pair in sample.pairs])
    rows = np.delete(getattr(sample, layer), copies, axis=0)
    norms, variance, neighbours, pair = RANGES[layer]
    zeros = (rows == 0).mean()
    assert zeros == 0 if layer == "fc8" else 0.72 <= zeros <= 0.82 and rows.min() == 0
    for found, (low, high) in zip(np.percentile(np.linalg.norm(rows, axis=1), [5, 50, 95]), norms, strict=True):
        assert low <= found <= high
    cosines, share = neighbour_cosines(rows)
    for axes, (low, high) in zip((32, 64, 128, 256, 512), variance, strict=True):
        assert low <= share[axes - 1] <= high + 1e-5
    ranked = np.sort(cosines[:500], axis=1)[:, ::-1]
    for rank, (low, high) in zip((1, 10, 100), neighbours, strict=True):
        assert low <= np.median(ranked[:, rank - 1]) <= high
    assert pair[0] <= np.median(cosines) <= pair[1]
    if layer == "fc7":
        assert cosines.max() < 0.94, "no unplanted pair may look like a duplicate"


def test_no_neighbour_of_a_copy_is_closer_than_its_original(sample):
    strong = [pair for pair in sample.pairs if pair.kind == "near-strong"]
    unit = sample.fc7 / np.linalg.norm(sample.fc7, axis=1, keepdims=True)
    cosines = unit[[pair.photo_id for pair in strong]] @ unit.T
    cosines[np.arange(len(strong)), [pair.photo_id for pair in strong]] = -2
    assert cosines.argmax(1).tolist() == [pair.of for pair in strong]


def test_pictures_of_copies_look_like_copies(small):
    directory, _ = small

    def pixels(photo_id: int) -> Rows:
        content = (directory / "images" / "0" / f"{photo_id}.jpg").read_bytes()
        with Image.open(BytesIO(content)) as picture:
            assert (picture.format, picture.size) == ("JPEG", (96, 96))
            return np.asarray(picture, np.float64)

    distance: dict[str, list[float]] = {}
    for pair in truth(directory):
        found = np.abs(pixels(pair["of"]) - pixels(pair["photo_id"])).mean()
        distance.setdefault(pair["kind"], []).append(found)
    unrelated = np.mean([np.abs(pixels(i) - pixels(i + 1)).mean() for i in range(0, 100, 2)])
    assert max(distance["exact"]) == 0
    assert 0 < np.mean(distance["near-strong"]) < np.mean(distance["near-weak"]) < unrelated


def test_describe(small, tmp_path):
    directory, _ = small
    assert synth.describe(directory) == {"photos": 1100, "seed": 5, "images": True, "version": VERSION}
    assert synth.describe(tmp_path) is None
    (tmp_path / "synth.json").write_text("[]")
    assert synth.describe(tmp_path) is None


def test_the_same_collection_is_written_anew_and_another_is_refused(tmp_path):
    synth.synthesize(tmp_path, photos=12, seed=1, images=True)
    (tmp_path / "features" / "mine.txt").write_text("mine")
    before = digests(tmp_path)
    there = r"holds another sample collection \(12 photos, seed 1, with images; asked for: "
    others: dict[str, dict[str, Any]] = {
        "5 photos, seed 1, with images": {"photos": 5, "seed": 1, "images": True},
        "12 photos, seed 2, with images": {"photos": 12, "seed": 2, "images": True},
        "12 photos, seed 1": {"photos": 12, "seed": 1},
        "12 photos, seed 1, with images, with annotations": {
            "photos": 12, "seed": 1, "images": True, "annotations": True
        },
    }  # fmt: skip
    for asked, other in others.items():
        with pytest.raises(InputError, match=rf"{there}{asked}\)\. It was left alone; give another folder, or remove"):
            synth.synthesize(tmp_path, **other)
        assert digests(tmp_path) == before
    (tmp_path / "truth.jsonl").unlink()
    with pytest.raises(InputError, match="holds another unfinished sample collection"):
        synth.synthesize(tmp_path, photos=5, seed=1, images=True)
    synth.synthesize(tmp_path, photos=12, seed=1, images=True)
    assert set(digests(tmp_path)) == before.keys() - {"features/mine.txt"}
    assert synth.describe(tmp_path) == {"photos": 12, "seed": 1, "images": True, "version": VERSION}


def test_a_collection_of_an_older_version_is_written_anew(tmp_path):
    synth.synthesize(tmp_path, photos=3)
    marker = json.loads((tmp_path / "synth.json").read_text())
    (tmp_path / "synth.json").write_text(json.dumps(marker | {"version": 0}))
    synth.synthesize(tmp_path, photos=3)
    assert synth.describe(tmp_path) == marker


@pytest.mark.parametrize(
    "parameters", [{"photos": 0}, {"photos": -3}, {"photos": 3, "seed": -1}, {"photos": 3, "workers": 0}]
)
def test_impossible_parameters_are_refused(tmp_path, parameters):
    with pytest.raises(InputError, match="expected"):
        synth.synthesize(tmp_path / "photos", **parameters)
    assert not (tmp_path / "photos").exists()


def test_someone_s_folder_is_left_alone(tmp_path):
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not a sample collection"):
        synth.synthesize(tmp_path, photos=3)
    assert digests(tmp_path).keys() == {"features/thesis.txt"}
    with pytest.raises(InputError, match="is a file"):
        synth.synthesize(tmp_path / "features" / "thesis.txt", photos=3)


def test_a_run_killed_at_its_very_beginning_can_be_repeated(tmp_path):
    (tmp_path / "synth.json.part").write_text('{"pho')
    synth.synthesize(tmp_path, photos=3)
    assert set(digests(tmp_path)) == {*(f"features/0/{i}.dat" for i in range(3)), "truth.jsonl", "synth.json"}


def test_a_full_disk_is_seen_before_anything_is_lost(tmp_path, monkeypatch):
    synth.synthesize(tmp_path, photos=50, images=True)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**6))
    with pytest.raises(InputError, match=r"2,000,000 photos of 49\.2 GB in all, and 1\.0 MB are free"):
        synth.synthesize(tmp_path / "new", photos=2_000_000, images=True)
    assert not (tmp_path / "new").exists()
    (tmp_path / "truth.jsonl").unlink()  # how much an unfinished one takes is not known
    before = digests(tmp_path)
    with pytest.raises(InputError, match=r"50 photos of 1\.2 MB in all, and 1\.0 MB are free"):
        synth.synthesize(tmp_path, photos=50, images=True)
    assert digests(tmp_path) == before


def test_a_failed_write_leaves_no_finished_collection(tmp_path, monkeypatch):
    synth.synthesize(tmp_path, photos=3)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.store.synth_blocks._write_file", full)
    with pytest.raises(EngineError, match="No space left on device"):
        synth.synthesize(tmp_path, photos=3)
    assert synth.describe(tmp_path) is None
    monkeypatch.undo()
    synth.synthesize(tmp_path, photos=3)
    assert synth.describe(tmp_path) is not None


def test_progress_counts_to_the_end(tmp_path):
    calls = []

    def progress(phase, done, total, *, unit="rows", detail=""):
        calls.append((phase, done, total, unit))

    synth.synthesize(tmp_path, photos=1500, workers=1, progress=progress)
    assert calls == [("synth", done, 1500, "photos") for done in (0, 1000, 1500)]


def test_an_interrupt_ends_all_processes_quickly_and_quietly(tmp_path):
    script = (
        "import sys; from pathlib import Path; from engine.store.synth import synthesize\n"
        "if __name__ == '__main__':\n"
        "    say = lambda *a, **k: print(a[1], flush=True)\n"
        "    try: synthesize(Path(sys.argv[1]), photos=200_000, workers=2, progress=say)\n"
        "    except KeyboardInterrupt: sys.exit(130)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "photos")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    assert int(process.stdout.readline()) == 1000
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: every process of the group gets it
    sent = time.perf_counter()
    _, said = process.communicate(timeout=20)  # returns when no process holds the other end of the pipes
    assert time.perf_counter() - sent < 10
    assert (process.returncode, said) == (130, "")
    assert synth.describe(tmp_path / "photos") is None
