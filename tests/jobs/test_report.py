"""What `write_duplicates` leaves: the files, and a page that needs nothing but itself."""

import base64
import hashlib
import io
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from engine.errors import DependencyError, EngineError, InputError
from engine.jobs import dedup_out, report, report_data, report_page, thumbnails
from engine.jobs.copy_metrics import KindFound, TruthReport
from engine.jobs.decisions import Decisions
from engine.jobs.dedup_out import check_outputs
from engine.jobs.groups import DuplicateGroup
from engine.jobs.report import ReportSpec, write_duplicates
from engine.jobs.thumbnails import thumbnail
from engine.store.durable import publish
from engine.store.store import Store
from engine.store.synth_copies import KINDS
from engine.store.writer import StoreWriter
from tests.jobs.found import duplicates

FILES = dedup_out.FILES["report"]
TRUTH = TruthReport(
    kinds={kind: KindFound(planted=8, found=number) for number, kind in enumerate(KINDS)}, precision=0.75
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("stores") / "a <b>&{{DATA}}"
    with StoreWriter(path, {"fc7": 4}) as writer:
        writer.write(writer.reserve(2), np.arange(2), {"fc7": np.ones((2, 4), np.float32)})
        writer.finish([])
    return Store.open(path)


SOME = duplicates([(1, 2, 0.96), (5, 10_007, 0.99), (5, 20_000, 1.0), (5, 6, 0.97), (6, 10_007, 0.98)])


class Page(HTMLParser):
    """The page taken apart: elements, their attributes, the text, and the data."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(self.source)
        self.close()
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "script":
            self.scripts.append("")
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts[-1] += data
        elif self.open[-1:] != ["style"]:
            self.text += data


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def pictures(folder: Path) -> Path:
    (folder / "0").mkdir(parents=True)
    (folder / "1").mkdir()
    Image.new("RGB", (640, 480), "teal").save(folder / "0" / "5.jpg")
    Image.new("RGBA", (20, 300), (250, 0, 0, 90)).save(folder / "1" / "10007.png")
    (folder / "0" / "6.jpg").write_bytes(b"\xff\xd8\xff\xe0 this is no picture")
    return folder


def test_files_hold_groups_and_pairs(tmp_path: Path, store: Store):
    paths = write_duplicates(SOME, store, tmp_path / "new" / "out", ReportSpec(truth=TRUTH))
    assert list(paths) == list(FILES) and names(tmp_path / "new" / "out") == sorted(FILES)
    lines = [json.loads(line) for line in paths["groups.jsonl"].read_text().splitlines()]
    assert lines == [
        {"representative": 5, "photo_ids": [5, 6, 10_007, 20_000], "min_score": 0.97, "kind": "copy"},
        {"representative": 1, "photo_ids": [1, 2], "min_score": 0.96, "kind": "copy"},
    ]
    table = pq.read_table(paths["pairs.parquet"])
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("photo_id_a", "int64"), ("photo_id_b", "int64"), ("score", "float"), ("burst", "bool"),
    ]  # fmt: skip
    assert np.array_equal(np.stack([table["photo_id_a"], table["photo_id_b"]], axis=1), SOME.pairs)
    assert np.array_equal(table["score"].to_numpy(), SOME.scores)
    summary = json.loads(paths["summary.json"].read_text())
    assert (summary["photos"], summary["groups"], summary["pairs"], summary["photos_in_groups"]) == (20_000, 2, 5, 6)
    assert paths["keep.txt"].read_text() == "1\n5\n" and paths["drop.txt"].read_text() == "2\n6\n10007\n20000\n"
    assert (summary["photos_to_keep"], summary["photos_to_drop"]) == (2, 4)
    assert summary["groups_by_kind"] == {"exact": 0, "copy": 2, "burst": 0}
    assert summary["truth"]["kinds"]["near-strong"] == {"planted": 8, "found": 1, "recall": 0.125}


def test_page_stands_alone(tmp_path: Path, store: Store):
    page = Page(write_duplicates(SOME, store, tmp_path, ReportSpec(truth=TRUTH))["report.html"])
    assert not re.search(r"https?://[a-z]|@import|url\(|fetch\(|XMLHttpRequest|import\(", page.source)
    assert not {name for name, _ in page.attributes} & {"src", "href", "srcset", "action", "onerror", "onclick"}
    script = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in (value or ""))
    assert policy == (
        "default-src 'none'; img-src data: ; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{script}'; base-uri 'none'; form-action 'none'"
    )
    assert {"svg", "table", "rect"} <= set(page.tags) and page.tags.count("script") == 2
    data = page.data
    assert (data["n"], data["l"], data["k"], data["m"]) == ([4, 2], [4, 2], "11", [970_000, 960_000])
    assert data["p"] == [5, 20_000, 10_007, 6, 1, 2]
    assert data["s"] == [1_000_000, 1_000_000, 990_000, 970_000, 1_000_000, 960_000]
    assert (data["c"], data["credits"], data["pictures"], data["folder"], data["earlier"]) == ([], [], {}, None, [])
    for shown in ("20,000", "0.95", "2.0 s", "near-medium", "75.0 %", "12.5 %", "Not drawn: 1 with a score of 1."):
        assert shown in page.text


def test_hostile_names_stay_text_and_placeholders_are_all_filled(tmp_path: Path, store: Store):
    hostile = duplicates([(1, 2, 0.96)], layer="</script><img src=x>{{FIGURES}}", device="<!--")
    page = Page(write_duplicates(hostile, store, tmp_path, ReportSpec(truth=TRUTH))["report.html"])
    assert not re.search(r"\{\{[A-Z_]+\}\}", page.source.replace(page.scripts[0], ""))
    assert page.tags.count("script") == 2 and not {"img", "b"} & set(page.tags)
    assert "Duplicates in a <b>&{{DATA}}" in page.text
    assert "cosine of raw </script><img src=x>{{FIGURES}}" in page.text


HOSTILE = [
    "</script><script>alert(1)</script><!--",
    "\"quotes' & <b>",
    "\U0001f4f7 emoji",
    "\u202e مريم",
    "\u2028{{DATA}}",
]


def test_names_of_owners_cannot_end_their_script(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch):
    owners = {photo: {"owner": HOSTILE[photo % 5], "url": f"https://x/{photo}/"} for photo in (1, 2, 5, 6, 10_007)}
    monkeypatch.setattr(report, "credits_of", lambda store, photos: owners)
    page = Page(write_duplicates(SOME, store, tmp_path / "out")["report.html"])
    assert page.tags.count("script") == 2 and "alert" not in page.text
    shown = [page.data["credits"][number] if number >= 0 else None for number in page.data["c"]]
    names = [owners[photo]["owner"] if photo in owners else None for photo in page.data["p"]]
    assert [credit and credit[0] for credit in shown] == names
    assert all(credit is None or credit[3] == "https://x/{id}/" for credit in shown)


def test_credits_stop_where_they_are_too_much(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report_data, "CREDITS_BYTES", 60)
    monkeypatch.setattr(report, "credits_of", lambda *_: {5: {"owner": "a" * 40}, 6: {"owner": "b" * 40}})
    page = Page(write_duplicates(SOME, store, tmp_path)["report.html"])
    assert page.data["credits"] == [["a" * 40, "", "", ""]] and page.data["c"] == [0, -1, -1, -1, -1, -1]


def test_ids_that_no_number_of_javascript_holds_are_texts(tmp_path: Path, store: Store):
    big = (1 << 53) + 1
    page = Page(write_duplicates(duplicates([(7, big, 0.96)]), store, tmp_path)["report.html"])
    assert page.data["p"] == ["7", str(big)]


def test_earlier_decisions_are_carried_along(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch):
    earlier = Decisions.of([{"photo_ids": [7, 8], "verdict": "different"}])
    page = Page(write_duplicates(SOME, store, tmp_path, ReportSpec(decisions=earlier))["report.html"])
    assert page.data["earlier"] == [{"photo_ids": ["7", "8"], "verdict": "different", "at": ""}]
    monkeypatch.setattr(report_page, "EARLIER_BYTES", 10)
    page = Page(write_duplicates(SOME, store, tmp_path, ReportSpec(decisions=earlier))["report.html"])
    assert page.data["earlier"] == [] and "keep their file and give both" in page.text


def test_a_chained_photo_has_no_score_with_the_representative(tmp_path: Path, store: Store):
    chain = duplicates([(1, 2, 0.96), (2, 3, 0.97)])
    group = DuplicateGroup(representative=1, photo_ids=(1, 2, 3), min_score=0.96)
    page = Page(write_duplicates(replace(chain, groups=(group,)), store, tmp_path)["report.html"])
    assert (page.data["p"], page.data["s"]) == ([1, 2, 3], [1_000_000, 960_000, -1])


def test_without_duplicates_there_is_still_a_page(tmp_path: Path, store: Store):
    paths = write_duplicates(duplicates([]), store, tmp_path)
    assert paths["groups.jsonl"].read_bytes() == b""
    table = pq.read_table(paths["pairs.parquet"])
    assert table.num_rows == 0 and [str(field.type) for field in table.schema] == ["int64", "int64", "float", "bool"]
    page = Page(paths["report.html"])
    assert page.data["n"] == page.data["p"] == [] and "rect" not in page.tags
    assert "No pair scores between the threshold and 1." in page.text
    assert "No two photos of this store are as alike" in page.scripts[1]


def test_threshold_one_has_no_histogram(tmp_path: Path, store: Store):
    only_equal = duplicates([(1, 2, 1.0), (3, 4, 1.0)], threshold=1.0)
    page = Page(write_duplicates(only_equal, store, tmp_path)["report.html"])
    assert "rect" not in page.tags and "Not drawn: 2 with a score of 1." in page.text


def test_histogram_draws_every_pair_below_one(tmp_path: Path, store: Store):
    scores = np.linspace(0.95, 0.9999, 500)
    page = Page(write_duplicates(duplicates([(2 * i, 2 * i + 1, s) for i, s in enumerate(scores)]), store, tmp_path)
                ["report.html"])  # fmt: skip
    assert sum(int(count) for count in re.findall(r"(\d+) pairs</title>", page.source)) == 500


def test_pictures_are_small_and_inline(tmp_path: Path, store: Store):
    folder = pictures(tmp_path / "images")
    page = Page(write_duplicates(SOME, store, tmp_path / "out", ReportSpec(images=folder))["report.html"])
    assert page.data["images"] is True and page.data["folder"] == "../images/"
    assert any("img-src data: 'self' file:;" in (value or "") for _, value in page.attributes)
    assert set(page.data["pictures"]) == {"5", "10007"}  # the damaged one and the absent ones get a placeholder
    sizes = {}
    for photo, text in page.data["pictures"].items():
        with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
            assert picture.format == "JPEG"
            sizes[photo] = picture.size
    assert sizes["5"] == (160, 120) and sizes["10007"][1] == 160
    assert "no picture" in page.scripts[1]


def test_pictures_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = pictures(tmp_path)
    assert thumbnail(folder, 6) is None and thumbnail(folder, 77) is None
    assert thumbnail(folder, 5) is not None
    monkeypatch.setattr(thumbnails, "MOST_PIXELS", 640 * 480 - 1)
    assert thumbnail(folder, 5) is None


def test_what_the_page_leaves_out_is_said(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report_data, "LISTED_GROUPS", 3)
    monkeypatch.setattr(report_page, "PICTURED_GROUPS", 2)
    monkeypatch.setattr(report_data, "LISTED_IN_A_GROUP", 4)
    monkeypatch.setattr(report_page, "LISTED_IN_A_GROUP", 4)
    many = duplicates([*((0, i, 0.96) for i in range(1, 8)), *((i, i + 1, 0.97) for i in range(10, 20, 2))])
    folder = pictures(tmp_path / "images")
    paths = write_duplicates(many, store, tmp_path / "out", ReportSpec(images=folder))
    page = Page(paths["report.html"])
    assert (page.data["n"], page.data["l"]) == ([8, 2, 2], [4, 2, 2]) and page.data["p"][:5] == [0, 1, 2, 3, 10]
    assert "lists the 3 largest of 6 groups; groups.jsonl beside it holds all." in page.text
    assert "At most 4 photos of a group are listed." in page.text
    assert "Pictures of the first 2 groups are in this page" in page.text
    assert len(paths["groups.jsonl"].read_text().splitlines()) == 6


def test_pictures_stop_at_the_limit_of_the_page(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report_page, "PICTURED_BYTES", 10)
    page = Page(write_duplicates(SOME, store, tmp_path / "out", ReportSpec(images=pictures(tmp_path / "i")))
                ["report.html"])  # fmt: skip
    assert page.data["pictures"] == {}


def test_other_files_are_left_alone_and_ours_replaced(tmp_path: Path, store: Store):
    (tmp_path / "groups.jsonl").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    write_duplicates(SOME, store, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "groups.jsonl").read_text() != "old"
    assert names(tmp_path) == sorted([*FILES, "notes.txt"])


def test_interrupted_leaves_what_was_there(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch):
    before = {name: path.read_bytes() for name, path in write_duplicates(SOME, store, tmp_path).items()}

    def interrupt(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "_page", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_duplicates(duplicates([]), store, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_interrupted_between_two_renames_there_is_no_page(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
):
    write_duplicates(SOME, store, tmp_path)

    def killed(path: Path) -> None:
        if path.name == "summary.json":
            raise KeyboardInterrupt
        publish(path)

    monkeypatch.setattr(dedup_out, "publish", killed)
    with pytest.raises(KeyboardInterrupt):
        write_duplicates(duplicates([]), store, tmp_path)
    assert names(tmp_path) == ["drop.txt", "groups.jsonl", "keep.txt", "pairs.parquet", "summary.json"]


def test_out_must_be_a_folder(tmp_path: Path, store: Store):
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "below"):
        with pytest.raises(InputError, match=r"--out .*file.*: is or lies below a file"):
            write_duplicates(SOME, store, out)
    assert file.read_text() == "mine"
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    with pytest.raises(InputError, match=r"report\.html: is a folder"):
        check_outputs(tmp_path / "out")


def test_images_must_be_a_folder(tmp_path: Path):
    with pytest.raises(InputError, match=r"--images .*absent: not a folder"):
        check_outputs(tmp_path / "out", tmp_path / "absent")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch):
    """Permissions do not bind root, who may run this: the system call is made to fail."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "out"))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(
        EngineError, match=r"^.*out: cannot be written \(Permission denied\)\. Choose a folder of yours\.$"
    ):
        write_duplicates(SOME, store, tmp_path / "out")


@pytest.mark.parametrize(("module", "package"), [("pyarrow.parquet", "pyarrow"), ("PIL.Image", "pillow")])
def test_absent_packages_say_how_to_install_them(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, module: str, package: str
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DependencyError, match=f"pip install {package}"):
        write_duplicates(SOME, store, tmp_path / "out", ReportSpec(images=tmp_path))
    assert not any((tmp_path / "out").glob("*"))
