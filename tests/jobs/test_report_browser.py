"""The page of a report in a real browser: what it shows, of few groups and of many, and that it asks nobody."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.jobs import report_page
from engine.jobs.groups import DuplicateGroup
from engine.store.store import Store
from tests.browser import Browser
from tests.jobs.found import duplicates
from tests.jobs.pages import NAMES, PAIRS, choose, roles, saved, shown, verdicts, write


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


def test_pictures_in_the_page_and_beside_it(
    browser: Browser, tmp_path: Path, small_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "my images #1"
    (images / "0").mkdir(parents=True)
    for photo, suffix in {1: ".jpg", 2: ".png", 10: ".jpg", 12: ".png"}.items():
        Image.new("RGB", (80 + photo, 60), "teal").save(images / "0" / f"{photo}{suffix}")
    monkeypatch.setattr(report_page, "PICTURED_GROUPS", 1)
    browser.open(write(duplicates(PAIRS), small_store, tmp_path / "out", images=images))
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


def test_one_group_of_100_000_photos(browser: Browser, tmp_path: Path, small_store: Store) -> None:
    photos = np.arange(100_000)
    copies = np.stack([photos[1:], np.zeros(99_999, np.int64)], axis=1)
    group = DuplicateGroup(representative=0, photo_ids=tuple(photos.tolist()), min_score=1.0)
    found = duplicates([], pairs=copies[:, ::-1].copy(), scores=np.ones(99_999, np.float32), copies=copies,
                       groups=(group,))  # fmt: skip
    browser.open(write(found, small_store, tmp_path / "out"))
    assert len(shown(browser)[0]) == 24
    assert "99,500 more are in groups.jsonl" in browser.run("document.querySelector('.group').innerText")
    browser.run("document.querySelector('.more').click()")
    assert len(shown(browser)[0]) == 264
    browser.press("l", "n", "Enter")
    assert verdicts(saved(browser, tmp_path / "d")) == [("same", [1, 0, *range(2, 500)])]


@pytest.mark.parametrize("groups", [100_000])
def test_a_page_of_many_groups(browser: Browser, tmp_path: Path, small_store: Store, groups: int) -> None:
    photos = np.arange(2 * groups).reshape(-1, 2)
    scores = np.linspace(0.5, 0.9999, groups, dtype=np.float32)
    pairs = tuple(
        DuplicateGroup(representative=a, photo_ids=(a, b), min_score=float(score))
        for (a, b), score in zip(photos.tolist(), scores, strict=True)
    )
    page = write(duplicates([], pairs=photos, scores=scores, groups=pairs), small_store, tmp_path / "out")
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


def test_without_duplicates(browser: Browser, tmp_path: Path, small_store: Store) -> None:
    browser.open(write(duplicates([]), small_store, tmp_path / "out"))
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
