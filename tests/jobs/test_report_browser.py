"""The page of a report in a real browser: groups shown, decisions made by keyboard, the file written, nothing asked."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.jobs import report, report_page
from engine.jobs.decisions import Decisions
from engine.jobs.dedup import Duplicates
from engine.jobs.groups import DuplicateGroup, Kind
from engine.jobs.removal import plan_removal
from engine.jobs.report import ReportSpec, write_duplicates
from engine.store.store import Store
from tests.browser import Browser, chromium
from tests.builders import make_store
from tests.jobs.found import duplicates

pytestmark = pytest.mark.skipif(
    chromium() is None, reason="no Chromium: apt-get install chromium, and the page is looked at"
)

NAMES = {
    1: "</script><script>window.hacked = 1</script>", 2: "\"quotes\" & 'more' <img src=x onerror='window.hacked=2'>",
    3: "\u202eمريم الشاعر", 4: "\U0001f4f7 pixel", 5: "Jane Doe", 6: "Jane Doe",
}  # fmt: skip
KINDS: dict[int, Kind] = {20: "exact", 10: "burst"}  # of groups by their representatives
PAIRS = [
    (1, 2, 0.97), (1, 3, 0.96), (1, 4, 0.955), (10, 11, 0.98), (10, 12, 0.99), (5, 6, 0.951), (20, 21, 1.0),
]  # fmt: skip


FOUND = duplicates(PAIRS)
FOUND = replace(FOUND, groups=tuple(replace(one, kind=KINDS.get(one.representative, "copy")) for one in FOUND.groups))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(autouse=True)
def nothing_else_is_asked(request: pytest.FixtureRequest) -> Iterator[None]:
    """In every test: no request leaves this machine, and nothing goes wrong in the page."""
    if "browser" not in request.fixturenames:
        yield
        return
    browser: Browser = request.getfixturevalue("browser")
    browser.requests.clear()
    browser.problems.clear()
    yield
    browser.run("1")  # what happened before has been told by now
    assert {address.split(":")[0] for address in browser.requests} <= {"file", "data", "blob", "about"}
    # Which of three suffixes a picture has is found out by asking for it.
    assert [text for text in browser.problems if "ERR_FILE_NOT_FOUND" not in text] == []


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "store", {"fc7": np.ones((40, 2), np.float32)}, range(40))


def credits_of(store: Store, photos: Any) -> dict[int, dict[str, str]]:
    licence = {"licence": "CC BY 2.0", "licence_url": "https://creativecommons.org/licenses/by/2.0/"}
    return {
        photo: {"owner": name, "url": f"https://www.flickr.com/photos/1@N01/{photo}/"} | licence
        for photo, name in NAMES.items()
    } | {10: {"url": "javascript:window.hacked=3", "owner": "evil"}}


@pytest.fixture
def page(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(report, "credits_of", credits_of)
    return write(FOUND, store, tmp_path / "out")


def write(found: Duplicates, store: Store, out: Path, **spec: Any) -> Path:
    return write_duplicates(found, store, out, ReportSpec(**spec))["report.html"]


def shown(browser: Browser) -> list[list[str]]:
    """The photo ids of every group that is drawn."""
    script = "[...document.querySelectorAll('.group')].map(g => [...g.querySelectorAll('li b')].map(b => b.innerText))"
    found: list[list[str]] = browser.run(script)
    return found


def roles(browser: Browser, group: int) -> list[str]:
    script = f"[...document.querySelectorAll('[data-group=\"{group}\"] .role')].map(one => one.textContent)"
    found: list[str] = browser.run(script)
    return found


def choose(browser: Browser, **values: object) -> None:
    for name, value in values.items():
        browser.run(
            f"{{ const one = document.getElementById({name!r}); one.value = {str(value)!r};"
            "one.dispatchEvent(new Event('input', {bubbles: true})); }"
        )


def saved(browser: Browser, folder: Path) -> dict[str, Any]:
    """What the page saves, as a browser without the file system's own interface does: a real file."""
    browser.downloads_to(folder)
    browser.run("delete window.showSaveFilePicker; Object.hasOwn(window, 'showSaveFilePicker')")
    path = folder / "decisions.json"
    path.unlink(missing_ok=True)
    browser.press("s")
    browser.until(lambda: path.exists() and path.read_bytes().endswith(b"]\n}\n"), "the file is saved")
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def verdicts(document: dict[str, Any]) -> list[tuple[str, list[int]]]:
    return [(entry["verdict"], entry["photo_ids"]) for entry in document["decisions"]]


def test_groups_are_shown(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert shown(browser) == [["1", "2", "3", "4"], ["10", "12", "11"], ["5", "6"], ["20", "21"]]
    assert roles(browser, 0) == ["representative", "0.9700", "0.9600", "0.9550"]
    text = browser.run("document.querySelector('.group').innerText")
    assert "4 photos" in text and "copies" in text and "least score 0.9550" in text
    assert browser.run("document.getElementById('where').textContent") == "1–4 of 4"
    assert browser.run("document.querySelectorAll('svg rect').length") > 0


def test_owners_and_licences_stand_beside_photos_as_text(browser: Browser, page: Path) -> None:
    browser.open(page)
    by = browser.run("[...document.querySelectorAll('.by')].map(one => one.textContent)")
    assert by[:4] == [f"© {NAMES[photo]} · CC BY 2.0" for photo in (1, 2, 3, 4)]
    links = browser.run("[...document.querySelectorAll('.by a')].map(one => one.href)")
    assert links[:2] == ["https://www.flickr.com/photos/1@N01/1/", "https://creativecommons.org/licenses/by/2.0/"]
    assert all(link.startswith("https://") for link in links) and len(links) == 12
    assert browser.run("window.hacked") is None
    assert browser.run("document.querySelectorAll('script, img').length") == 2


def test_no_other_host_could_be_asked(browser: Browser, page: Path) -> None:
    """Even a script that came in could not: the page's own policy forbids it, here tried on what it forbids."""
    browser.open(page)
    script = (
        "new Promise((done) => { const image = new Image(); image.onerror = () => done('refused'); "
        "image.onload = () => done('there'); image.src = 'http://mirsearch.invalid/x.png'; })"
    )
    assert browser.run(script) == "refused"
    assert browser.run("fetch('https://mirsearch.invalid/').catch((error) => error.name)") == "TypeError"
    browser.run("{ const one = document.createElement('script'); one.textContent = 'window.hacked = 4';"
                "document.body.append(one); }")  # fmt: skip
    assert browser.run("window.hacked") is None
    assert len([text for text in browser.problems if "Content Security Policy" in text]) >= 3
    browser.requests.clear()
    browser.problems.clear()


FILTERS: list[tuple[dict[str, object], list[str]]] = [
    ({"size": 3}, ["1", "10"]), ({"most": 3}, ["10", "5", "20"]), ({"size": 3, "most": 3}, ["10"]),
    ({"score": 0.955}, ["1", "10", "20"]), ({"upto": 0.98}, ["1", "10", "5"]), ({"score": 0.96, "upto": 0.99}, ["10"]),
    ({"kind": "0"}, ["20"]), ({"kind": "1"}, ["1", "5"]), ({"kind": "2"}, ["10"]),
    ({"order": "close"}, ["20", "10", "1", "5"]), ({"order": "far"}, ["5", "1", "10", "20"]),
    ({"order": "id"}, ["1", "5", "10", "20"]), ({"order": "small"}, ["5", "20", "10", "1"]),
    ({"owners": "one"}, ["5"]), ({"owners": "several"}, ["1"]), ({"photo": 12}, ["10"]), ({"photo": "7"}, []),
    ({"state": "todo"}, ["1", "5", "20"]), ({"state": "done"}, ["10"]),
]  # fmt: skip


def test_filters_and_orders(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.press("j", "Enter")
    for values, expected in FILTERS:
        choose(browser, **values)
        assert [ids[0] for ids in shown(browser)] == expected, values
        choose(browser, **(dict.fromkeys(values, "") | {"order": "size"}))
        assert [ids[0] for ids in shown(browser)] == ["1", "10", "5", "20"]
    choose(browser, photo="7")
    assert browser.run("document.getElementById('empty').innerText").startswith("No such group")


def test_decisions_by_keyboard_become_a_file(browser: Browser, page: Path, tmp_path: Path) -> None:
    browser.open(page)
    browser.press("l", "l", "n")  # photo 3 of the first group is no duplicate
    assert roles(browser, 0) == ["representative", "0.9700", "not a duplicate", "0.9550"]
    browser.press("h", "Enter")  # and 2 is to be kept
    assert roles(browser, 0) == ["to be removed · 1.0000", "kept", "not a duplicate", "to be removed · 0.9550"]
    browser.press("j", "a")  # of the third group, nothing is a duplicate; on to the fourth
    browser.press("Enter")
    browser.press("k", "k", "l", "n", "n")  # once more is not at all
    document = saved(browser, tmp_path / "downloads")
    assert document["version"] == 1 and document["store"] == str(tmp_path / "store")
    assert verdicts(document) == [
        ("different", [3, 1, 2, 4]), ("same", [2, 1, 4]), ("all-different", [5, 6]), ("same", [20, 21]),
    ]  # fmt: skip
    assert browser.run("document.getElementById('count').textContent") == "3 of 4"
    assert "decisions.json" in browser.run("document.getElementById('saved').textContent")
    told = Decisions.read(tmp_path / "downloads" / "decisions.json")
    assert told.different.tolist() == [[1, 3], [2, 3], [3, 4], [5, 6]]
    plan = plan_removal(FOUND.groups, told)
    assert plan.drop.tolist() == [1, 4, 21] and plan.keep.tolist() == [2, 3, 5, 6, 10, 11, 12, 20]


def test_undo_goes_back_step_by_step(browser: Browser, page: Path, tmp_path: Path) -> None:
    browser.open(page)
    browser.press("Enter", "a", "l", "n")
    assert roles(browser, 2) == ["not a duplicate", "not a duplicate"]
    assert [verdict for verdict, _ in verdicts(saved(browser, tmp_path / "d"))] == ["same", "all-different",
                                                                                    "all-different"]  # fmt: skip
    browser.press("u")
    assert roles(browser, 2) == ["representative", "0.9510"]
    browser.press("u")
    assert roles(browser, 1) == ["representative", "0.9900", "0.9800"]
    assert browser.run("document.querySelector('.group.here').dataset.group") == "1"
    browser.press("u", "u")
    assert verdicts(saved(browser, tmp_path / "d")) == [] and browser.run("document.getElementById('undo').disabled")


def test_buttons_do_the_same(browser: Browser, page: Path, tmp_path: Path) -> None:
    browser.open(page)
    browser.run("document.querySelectorAll('[data-group=\"1\"] .no')[1].click()")
    browser.run("document.querySelectorAll('[data-group=\"1\"] .yes')[2].click()")
    browser.run("document.querySelector('[data-group=\"2\"] .all').click()")
    assert browser.run("document.querySelectorAll('[data-group=\"1\"] .yes')[2].getAttribute('aria-pressed')") == "true"
    document = saved(browser, tmp_path / "d")
    assert verdicts(document) == [("different", [12, 10, 11]), ("same", [11, 10]), ("all-different", [5, 6])]
    browser.run("document.getElementById('undo').click()")
    assert verdicts(saved(browser, tmp_path / "d"))[-1] == ("same", [11, 10])


def test_keys_belong_to_what_has_the_focus(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("document.getElementById('photo').focus()")
    browser.press("a", "n", "u")
    assert browser.run("document.getElementById('photo').value") == "anu"
    assert browser.run("document.getElementById('count').textContent") == "0 of 4"
    choose(browser, photo="")
    browser.run("document.getElementById('photo').blur()")
    browser.press("?")
    assert browser.run("document.getElementById('help').open")
    browser.press("a", "Escape")
    assert browser.run("document.getElementById('count').textContent") == "0 of 4"


def test_nothing_is_lost_when_the_page_is_loaded_again(browser: Browser, page: Path, tmp_path: Path) -> None:
    browser.open(page)
    browser.press("l", "n", "j", "Enter")
    browser.open(page)
    assert roles(browser, 0)[1] == "not a duplicate" and roles(browser, 1)[0] == "kept"
    assert "not saved" in browser.run("document.getElementById('saved').textContent")
    assert len(verdicts(saved(browser, tmp_path / "d"))) == 2
    write(duplicates(PAIRS[:-1]), Store.open(tmp_path / "store"), page.parent)  # another report knows nothing of it
    browser.open(page)
    assert browser.run("document.getElementById('count').textContent") == "0 of 3"


def test_a_file_of_earlier_decisions_is_taken_in(browser: Browser, page: Path, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier.json"
    entries = [
        {"photo_ids": [3, 1, 2, 4], "verdict": "different"}, {"photo_ids": [12, 10], "verdict": "same"},
        {"photo_ids": [5, 6], "verdict": "all-different"}, {"photo_ids": [900, (1 << 60) + 1], "verdict": "different"},
    ]  # fmt: skip
    earlier.write_text(json.dumps({"version": 1, "store": "1, 2", "decisions": entries}))
    browser.open(page)
    browser.press("a")
    browser.choose_file("#load", earlier)
    browser.wait("document.getElementById('saved').textContent.includes('taken in')")
    assert "4 decisions taken in, about 3 groups" in browser.run("document.getElementById('saved').textContent")
    assert roles(browser, 1) == ["to be removed · 1.0000", "kept", "to be removed · 0.9800"]
    found = verdicts(saved(browser, tmp_path / "d"))
    assert found == [
        ("different", [900, (1 << 60) + 1]), ("all-different", [1, 2, 3, 4]), ("same", [12, 10, 11]),
        ("all-different", [5, 6]),
    ]  # fmt: skip
    browser.press("u")
    assert verdicts(saved(browser, tmp_path / "d")) == [("all-different", [1, 2, 3, 4])]
    bad = tmp_path / "bad.json"
    bad.write_text('{"version": 1, "decisions": [{"photo_ids": [1], "verdict": "same"}]}')
    browser.choose_file("#load", bad)
    browser.wait("document.getElementById('saved').textContent.includes('Nothing was changed')")
    assert "bad.json decision 1 is not" in browser.run("document.getElementById('saved').textContent")


def test_earlier_decisions_of_the_search_are_saved_again(browser: Browser, tmp_path: Path, store: Store) -> None:
    told = Decisions.of([{"photo_ids": [30, 31], "verdict": "different", "at": "2026-01-01T00:00:00Z"}])
    browser.open(write(duplicates(PAIRS), store, tmp_path / "out", decisions=told))
    browser.press("Enter")
    assert verdicts(saved(browser, tmp_path / "d")) == [("different", [30, 31]), ("same", [1, 2, 3, 4])]


def test_a_chosen_file_is_written_to_again(browser: Browser, page: Path) -> None:
    """The picker itself is the browser's; here is what the page does with what it gives."""
    browser.open(page)
    browser.run("""
      window.texts = []; window.asked = 0;
      window.showSaveFilePicker = async () => { window.asked++; return { name: "mine.json", createWritable: async () =>
        ({ write: async (text) => { window.texts.push(text); }, close: async () => {} }) }; };
    """)
    browser.press("Enter", "s")
    browser.wait("window.texts.length === 1 && document.getElementById('saved').textContent.includes('mine.json')")
    browser.press("Enter", "s")
    browser.wait("window.texts.length === 2")
    assert browser.run("window.asked") == 1
    assert len(json.loads(browser.run("window.texts[1]"))["decisions"]) == 2


def test_ids_beyond_the_numbers_of_javascript_are_saved_as_they_are(
    browser: Browser, tmp_path: Path, store: Store
) -> None:
    big = (1 << 62) + 1
    browser.open(write(duplicates([(7, big, 0.96)]), store, tmp_path / "out"))
    browser.press("Enter")
    assert verdicts(saved(browser, tmp_path / "d")) == [("same", [7, big])]


def test_pictures_in_the_page_and_beside_it(
    browser: Browser, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "my images #1"
    (images / "0").mkdir(parents=True)
    for photo, suffix in {1: ".jpg", 2: ".png", 10: ".jpg", 12: ".png"}.items():
        Image.new("RGB", (80 + photo, 60), "teal").save(images / "0" / f"{photo}{suffix}")
    monkeypatch.setattr(report_page, "PICTURED_GROUPS", 1)
    browser.open(write(duplicates(PAIRS), store, tmp_path / "out", images=images))
    browser.run("window.scrollTo(0, 1e6)")
    state = (
        "[...document.querySelectorAll('.group li')].slice(0, 7).map(li => { const i = li.querySelector('img');"
        "return i ? [i.naturalWidth, i.src.split(':')[0]] : [0, li.querySelector('.frame').innerText]; })"
    )
    expected = [
        [81, "data"], [82, "data"], [0, "photo 3\nno picture"], [0, "photo 4\nno picture"],
        [90, "file"], [92, "file"], [0, "photo 11\nno picture"],
    ]  # fmt: skip
    browser.until(lambda: browser.run(state) == expected, f"the pictures are {expected}")
    browser.press("j", "l", "z")
    browser.wait("document.getElementById('look').open && document.querySelectorAll('#sides img').length === 2")
    browser.press("Escape")
    browser.wait("!document.getElementById('look').open")


def test_one_group_of_100_000_photos(browser: Browser, tmp_path: Path, store: Store) -> None:
    photos = np.arange(100_000)
    copies = np.stack([photos[1:], np.zeros(99_999, np.int64)], axis=1)
    group = DuplicateGroup(representative=0, photo_ids=tuple(photos.tolist()), min_score=1.0)
    found = duplicates([], pairs=copies[:, ::-1].copy(), scores=np.ones(99_999, np.float32), copies=copies,
                       groups=(group,))  # fmt: skip
    browser.open(write(found, store, tmp_path / "out"))
    assert len(shown(browser)[0]) == 24
    assert "99,500 more are in groups.jsonl" in browser.run("document.querySelector('.group').innerText")
    browser.run("document.querySelector('.more').click()")
    assert len(shown(browser)[0]) == 264
    browser.press("l", "n", "Enter")
    assert verdicts(saved(browser, tmp_path / "d")) == [("same", [1, 0, *range(2, 500)])]


@pytest.mark.parametrize("groups", [100_000])
def test_a_page_of_many_groups(browser: Browser, tmp_path: Path, store: Store, groups: int) -> None:
    photos = np.arange(2 * groups).reshape(-1, 2)
    scores = np.linspace(0.5, 0.9999, groups, dtype=np.float32)
    pairs = tuple(
        DuplicateGroup(representative=a, photo_ids=(a, b), min_score=float(score))
        for (a, b), score in zip(photos.tolist(), scores, strict=True)
    )
    page = write(duplicates([], pairs=photos, scores=scores, groups=pairs), store, tmp_path / "out")
    assert page.stat().st_size < 10_000_000
    browser.open(page)
    assert browser.run("document.getElementById('where').textContent") == "1–50 of 100,000"
    assert browser.run("document.querySelectorAll('*').length") < 2_500
    choose(browser, order="close")
    assert shown(browser)[0] == ["199998", "199999"]
    browser.run("window.scrollTo(0, 3000)")
    browser.press("]")
    assert browser.run("document.getElementById('where').textContent") == "51–100 of 100,000"
    top, bar = browser.run(
        "['.group', '#bar'].map((one) => document.querySelector(one).getBoundingClientRect()).map((a, i) => "
        "i ? a.bottom : a.top)"
    )
    assert bar - 1 <= top < bar + 100  # the new page is seen from its beginning
    browser.press("j", "Enter")
    assert browser.run("document.getElementById('count').textContent") == "1 of 100,000"
    choose(browser, photo="100001")
    assert shown(browser) == [["100000", "100001"]]
    browser.press("a")
    assert [verdict for verdict, _ in verdicts(saved(browser, tmp_path / "d"))] == ["all-different", "same"]


def test_without_duplicates(browser: Browser, tmp_path: Path, store: Store) -> None:
    browser.open(write(duplicates([]), store, tmp_path / "out"))
    assert browser.run("document.getElementById('empty').innerText").startswith("No duplicates")
    assert browser.run("document.getElementById('bar').hidden")
    browser.press("j", "Enter", "u", "?")


def test_dark_and_light_have_contrast(browser: Browser, page: Path) -> None:
    """Text and ground of what matters differ by 4.5 : 1 at least, as WCAG 2 asks."""
    browser.open(page)
    browser.press("Enter", "n")
    for scheme in ("light", "dark"):
        browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        for low, high in browser.run(_COLOURS):
            assert contrast(low, high) >= 4.5, (scheme, low, high)
    browser.ask("Emulation.setEmulatedMedia", features=[])


_COLOURS = """
  ['.note', '.group .verdict', '.role', '.kept .role', '.out .role', '.by', '.yes', '.no', '#save', '.keys', 'h3 span']
    .map((name) => document.querySelector(name)).filter(Boolean).map((one) => {
      let ground = one;
      const of = (name, element) => {
        const colour = getComputedStyle(element)[name], scale = colour.startsWith("color(") ? 255 : 1;
        return colour.match(/[\\d.]+/g).map((part) => Number(part) * scale);
      };
      while (of('backgroundColor', ground).length > 3 && ground.parentElement) ground = ground.parentElement;
      return [of('color', one).slice(0, 3), of('backgroundColor', ground).slice(0, 3)];
    })
"""


def contrast(first: list[float], second: list[float]) -> float:
    """The contrast ratio of two colours, https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio."""

    def luminance(colour: list[float]) -> float:
        parts = [value / 255 for value in colour]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_a_screenshot_for_who_wants_to_look(browser: Browser, page: Path, tmp_path: Path) -> None:
    """With MIRSEARCH_SCREENSHOTS=FOLDER the page is left there as it looks."""
    browser.open(page)
    path = Path(os.environ.get("MIRSEARCH_SCREENSHOTS", tmp_path)) / "report.png"
    browser.screenshot(path)
    with Image.open(path) as picture:
        assert picture.size[0] >= 1000 and len(set(picture.convert("L").resize((64, 64)).tobytes())) > 8
