"""Acting on a report: the lists, photos marked as removed, and everything that must be refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import EngineError, InputError, StoreError
from engine.jobs.dedup_apply import ApplySpec, apply_report
from engine.jobs.report import write_duplicates
from engine.store.change import read_id_list, remove
from engine.store.compact import compact_store
from engine.store.store import Store
from engine.store.writer import StoreWriter
from tests.builders import files_below, make_store
from tests.jobs.found import duplicates

PAIRS = [(1, 2, 0.97), (1, 3, 0.96), (10, 11, 1.0)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    rows = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    return make_store(tmp_path / "store", {"fc7": rows, "fc8": rows}, range(20))


@pytest.fixture
def folder(tmp_path: Path, store: Store) -> Path:
    write_duplicates(duplicates(PAIRS), store, tmp_path / "out")
    return tmp_path / "out"


def decide(path: Path, *entries: tuple[str, list[int]]) -> Path:
    decisions = [{"photo_ids": photos, "verdict": verdict} for verdict, photos in entries]
    path.write_text(json.dumps({"version": 1, "decisions": decisions}))
    return path


def test_lists_are_written_and_nothing_else(folder: Path, store: Store) -> None:
    before = files_below(folder) | files_below(store.path)
    found = apply_report(folder)
    assert (found.files["keep.txt"].read_text(), found.files["drop.txt"].read_text()) == ("1\n10\n", "2\n3\n11\n")
    assert (found.groups, found.decisions, found.store) == (2, 0, store.path)
    assert files_below(folder) | files_below(store.path) == before
    assert read_id_list(folder / "drop.txt").tolist() == [2, 3, 11]


def test_decisions_lie_in_the_folder_or_are_named(folder: Path, tmp_path: Path) -> None:
    decide(folder / "decisions.json", ("same", [2, 1, 3]))
    assert apply_report(folder).removal.drop.tolist() == [1, 3, 11]
    first, second = decide(tmp_path / "a.json", ("different", [3, 1])), decide(tmp_path / "b.json", ("same", [11, 10]))
    found = apply_report(folder, ApplySpec(decisions=(first, second)))
    assert found.removal.drop.tolist() == [2, 10] and found.decisions == 2


def test_photos_are_marked_and_can_come_back(folder: Path, store: Store) -> None:
    report = apply_report(folder).remove()
    assert (report.changed, report.photos) == (3, 17)
    again = apply_report(folder)
    assert again.removal.drop.tolist() == [] and again.removal.keep.tolist() == [1, 10]
    assert again.removal.settled == 2 and read_id_list(again.undo).tolist() == [2, 3, 11]
    remove(store.path, read_id_list(again.undo), undo=True)
    remove(store.path, [3])
    apply_report(folder).remove()
    assert read_id_list(again.undo).tolist() == [2, 3, 11]


def test_photos_removed_since_are_fine_but_the_kept_one(folder: Path, store: Store) -> None:
    remove(store.path, [2, 19])
    assert apply_report(folder).removal.drop.tolist() == [3, 11]
    remove(store.path, [10])
    found = apply_report(folder).removal
    assert found.drop.tolist() == [3] and found.keep.tolist() == [1, 11] and found.settled == 1


def test_the_store_may_have_moved(folder: Path, store: Store, tmp_path: Path) -> None:
    store.path.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"which is not there\. Name it with --store"):
        apply_report(folder)
    assert apply_report(folder, ApplySpec(store=tmp_path / "elsewhere")).removal.drop.tolist() == [2, 3, 11]


def test_photos_added_since_are_fine(folder: Path, store: Store) -> None:
    rows = np.ones((3, 4), np.float32)
    with StoreWriter(store.path, {"fc7": 4, "fc8": 4}, append=True) as writer:
        writer.write(writer.reserve(3), np.arange(100, 103), {"fc7": rows, "fc8": rows})
        writer.finish([])
    assert len(Store.open(store.path)) == 23
    assert apply_report(folder).removal.drop.tolist() == [2, 3, 11]


def test_changed_rows_are_refused(folder: Path, store: Store) -> None:
    remove(store.path, [5])
    compact_store(store.path)
    with pytest.raises(StoreError, match=r"have changed since the report was made.*mirsearch dedup"):
        apply_report(folder)


def test_another_store_is_refused(folder: Path, tmp_path: Path) -> None:
    rows = np.ones((20, 4), np.float32)
    make_store(tmp_path / "other", {"fc7": rows}, range(20))
    with pytest.raises(StoreError, match="have changed"):
        apply_report(folder, ApplySpec(store=tmp_path / "other"))
    make_store(tmp_path / "third", {"fc6": rows}, range(20))
    with pytest.raises(StoreError, match="have changed"):
        apply_report(folder, ApplySpec(store=tmp_path / "third"))


def rewrite(path: Path, *lines: Any) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_unknown_photos_are_refused(folder: Path) -> None:
    good = {"representative": 1, "photo_ids": [1, 2], "min_score": 0.9, "kind": "copy"}
    for bad in (77, -1, 1 << 70):
        rewrite(folder / "groups.jsonl", good, good | {"representative": 10, "photo_ids": [10, bad]})
        with pytest.raises(InputError, match=f"photo {bad}: not in "):
            apply_report(folder)
    rewrite(folder / "groups.jsonl", good, good)
    with pytest.raises(InputError, match="in two groups"):
        apply_report(folder)


@pytest.mark.parametrize(
    "line",
    [
        [1, 2], {"representative": 1, "photo_ids": [1, 2], "min_score": 1}, "{", None,
        {"representative": 3, "photo_ids": [1, 2], "min_score": 1, "kind": "copy"},
        {"representative": 1, "photo_ids": [1, "2"], "min_score": 1, "kind": "copy"},
        {"representative": 1, "photo_ids": [1, 1], "min_score": 1, "kind": "copy"},
        {"representative": 1, "photo_ids": [1, 2], "min_score": 1, "kind": "other"},
        {"representative": 1, "photo_ids": [], "min_score": 1, "kind": "copy"},
    ],
)  # fmt: skip
def test_damaged_groups_are_refused(folder: Path, line: Any) -> None:
    rewrite(folder / "groups.jsonl", line)
    with pytest.raises(InputError, match=r"groups\.jsonl, line 1: expected"):
        apply_report(folder)


def test_files_of_two_reports_are_refused(folder: Path) -> None:
    (folder / "groups.jsonl").write_bytes((folder / "groups.jsonl").read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(InputError, match=r"1 group, summary\.json says 2"):
        apply_report(folder)
    (folder / "groups.jsonl").unlink()
    with pytest.raises(InputError, match=r"groups\.jsonl: cannot be read"):
        apply_report(folder)


@pytest.mark.parametrize("name", ["groups.jsonl", "pairs.parquet", "summary.json"])
def test_one_file_of_another_report_is_refused(folder: Path, store: Store, tmp_path: Path, name: str) -> None:
    """Of as many groups and pairs, so that no count gives it away."""
    write_duplicates(duplicates([(1, 2, 0.97), (1, 4, 0.96), (10, 11, 1.0)]), store, tmp_path / "other")
    (tmp_path / "other" / name).replace(folder / name)
    before = files_below(folder)
    with pytest.raises(InputError, match=r"(groups\.jsonl|pairs\.parquet): is not .*Run `mirsearch dedup` again"):
        apply_report(folder)
    assert files_below(folder) == before


def test_pairs_that_are_no_parquet_are_refused_and_absent_ones_are_not_missed(folder: Path) -> None:
    (folder / "pairs.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"pairs\.parquet: cannot be read \("):
        apply_report(folder)
    (folder / "pairs.parquet").unlink()
    assert apply_report(folder).removal.drop.tolist() == [2, 3, 11]


def test_decisions_about_other_photos_are_said(folder: Path, store: Store, tmp_path: Path) -> None:
    assert apply_report(folder).doubts == ()
    own = decide(folder / "decisions.json", ("same", [1, 2]))
    own.write_text(json.dumps(json.loads(own.read_text()) | {"store": str(store.path)}))
    assert apply_report(folder).doubts == ()
    own.write_text(json.dumps(json.loads(own.read_text()) | {"store": "/elsewhere/photos"}))
    (line,) = apply_report(folder).doubts
    assert line.startswith(
        f"{own}: decisions about the photos of /elsewhere/photos, and these are those of {store.path}"
    )
    far = decide(tmp_path / "far.json", ("different", [1, 500]), ("all-different", [*range(900, 908)]))
    (line,) = apply_report(folder, ApplySpec(decisions=(far,))).doubts
    assert line == f"9 photos decided on are not in {store.path}: 500, 900, 901, 902, 903 and so on."
    (line,) = apply_report(folder, ApplySpec(decisions=(decide(far, ("same", [1, 500])),))).doubts
    assert line == f"1 photo decided on is not in {store.path}: 500."


def test_decisions_of_a_store_that_has_moved_are_its_own(folder: Path, store: Store, tmp_path: Path) -> None:
    own = decide(folder / "decisions.json", ("same", [1, 2]))
    own.write_text(json.dumps(json.loads(own.read_text()) | {"store": str(store.path)}))
    store.path.rename(tmp_path / "elsewhere")
    assert apply_report(folder, ApplySpec(store=tmp_path / "elsewhere")).doubts == ()


@pytest.mark.parametrize("text", ["{", "[]", '{"store": 3}', '{"store": "s", "layer": "fc7", "groups": 2}', "[" * 9999])
def test_what_is_no_summary_is_refused(folder: Path, text: str) -> None:
    (folder / "summary.json").write_text(text)
    with pytest.raises(InputError, match=r"summary\.json: is not the summary"):
        apply_report(folder)


def test_what_is_no_report_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match=r"holds no summary\.json"):
        apply_report(tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"made_of": {}}))
    with pytest.raises(InputError, match="does not say of which store"):
        apply_report(folder)
    (folder / "summary.json").unlink()
    (folder / "summary.json").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        apply_report(folder)


def test_a_refusal_writes_nothing(folder: Path) -> None:
    before = files_below(folder)
    with pytest.raises(EngineError):
        apply_report(folder, ApplySpec(decisions=(folder / "absent.json",)))
    assert files_below(folder) == before
