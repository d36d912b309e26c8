"""The folder of answers: of one kind of run alone, and not left behind where a run is refused."""

from pathlib import Path

import numpy as np
import pytest

from engine.errors import InputError
from engine.index.searcher import Searcher
from engine.jobs.dedup import DedupSpec
from engine.jobs.dedup_apply import apply_report
from engine.jobs.dedup_between import find_known, write_known
from engine.jobs.dedup_out import FILES, Answers, answers_in, check_outputs
from engine.jobs.report import write_duplicates
from engine.store.store import Store
from kernels import Device, load
from tests.builders import files_below, make_store
from tests.jobs.found import duplicates

CPU = Device(kind="cpu")


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Store, Store]:
    rows = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)
    return make_store(tmp_path / "old", {"fc7": rows}), make_store(tmp_path / "new", {"fc7": rows[:5]})


def write(kind: Answers, stores: tuple[Store, Store], out: Path) -> None:
    if kind == "report":
        write_duplicates(duplicates([(1, 2, 0.97)]), stores[0], out)
        return
    searcher = Searcher.exact(stores[0], "fc7", stores[0].path / "indices" / "fc7", load(CPU))
    write_known(find_known(searcher, stores[1], DedupSpec(method="exhaustive", threshold=0.9)), out)


@pytest.mark.parametrize(("first", "second"), [("report", "known"), ("known", "report")])
def test_answers_of_the_other_kind_are_refused_and_left_alone(
    stores: tuple[Store, Store], tmp_path: Path, first: Answers, second: Answers
) -> None:
    out = tmp_path / "out"
    write(first, stores, out)
    (out / "decisions.json").write_text("mine")
    before = files_below(out)
    with pytest.raises(InputError, match=rf"^--out {out}: holds .*\.txt.* of a run with.* Give another folder, or"):
        write(second, stores, out)
    assert files_below(out) == before
    write(first, stores, out)  # the same kind takes their place
    for name in FILES[first]:
        (out / name).unlink()
    write(second, stores, out)
    assert {path.name for path in out.iterdir()} == {*FILES[second], "decisions.json"}
    assert (out / "decisions.json").read_text() == "mine"


def test_one_file_of_the_other_kind_is_enough(tmp_path: Path) -> None:
    """As a run that is killed between two renames leaves them."""
    (tmp_path / "new.txt").write_text("1\n")
    with pytest.raises(InputError, match=r"holds new\.txt of a run with --query-store, and this is one without"):
        check_outputs(tmp_path)
    check_outputs(tmp_path, kind="known")
    (tmp_path / "keep.txt").write_text("1\n")
    with pytest.raises(InputError, match=r"holds keep\.txt of a run without --query-store"):
        check_outputs(tmp_path, kind="known")


def test_known_photos_are_nothing_to_apply(stores: tuple[Store, Store], tmp_path: Path) -> None:
    write("known", stores, tmp_path / "out")
    with pytest.raises(InputError, match="of a run with --query-store, which groups nothing"):
        apply_report(tmp_path / "out")


def test_what_goes_wrong_leaves_no_empty_folder(tmp_path: Path) -> None:
    out = tmp_path / "some" / "out"
    with pytest.raises(KeyboardInterrupt), answers_in(out):
        assert out.is_dir()
        raise KeyboardInterrupt
    assert not (tmp_path / "some").exists()
    with pytest.raises(KeyboardInterrupt), answers_in(out):
        (out / "unfinished").mkdir()
        raise KeyboardInterrupt
    assert (out / "unfinished").is_dir()
    (tmp_path / "there").mkdir()
    with pytest.raises(KeyboardInterrupt), answers_in(tmp_path / "there"):
        raise KeyboardInterrupt
    assert (tmp_path / "there").is_dir()
