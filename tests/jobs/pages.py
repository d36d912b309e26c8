"""Pages of reports for the tests in a browser: what is written, what is seen, and what is saved."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.jobs.dedup import Duplicates
from engine.jobs.groups import Kind
from engine.jobs.report import ReportSpec, write_duplicates
from engine.store.store import Store
from tests.browser import Browser
from tests.jobs.found import duplicates

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


def credits_of(store: Store, photos: Any) -> dict[int, dict[str, str]]:
    licence = {"licence": "CC BY 2.0", "licence_url": "https://creativecommons.org/licenses/by/2.0/"}
    return {
        photo: {"owner": name, "url": f"https://www.flickr.com/photos/1@N01/{photo}/"} | licence
        for photo, name in NAMES.items()
    } | {10: {"url": "javascript:window.hacked=3", "owner": "evil"}}


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
