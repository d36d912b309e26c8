"""Review of a report in a real browser: decisions by keys and buttons, remembered, loaded, and saved to a file."""

import json
from pathlib import Path

from engine.jobs.decisions import Decisions
from engine.jobs.removal import plan_removal
from engine.store.store import Store
from tests.browser import Browser
from tests.jobs.found import duplicates
from tests.jobs.pages import FOUND, PAIRS, choose, roles, saved, verdicts, write


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


def test_earlier_decisions_of_the_search_are_saved_again(browser: Browser, tmp_path: Path, small_store: Store) -> None:
    told = Decisions.of([{"photo_ids": [30, 31], "verdict": "different", "at": "2026-01-01T00:00:00Z"}])
    browser.open(write(duplicates(PAIRS), small_store, tmp_path / "out", decisions=told))
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
    browser: Browser, tmp_path: Path, small_store: Store
) -> None:
    big = (1 << 62) + 1
    browser.open(write(duplicates([(7, big, 0.96)]), small_store, tmp_path / "out"))
    browser.press("Enter")
    assert verdicts(saved(browser, tmp_path / "d")) == [("same", [7, big])]
