"""A browser for the tests that look at pages, and what must hold in all of them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.jobs import report
from engine.store.store import Store
from tests.browser import Browser, chromium
from tests.builders import make_store
from tests.jobs.pages import FOUND, credits_of, write


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if chromium() is None:
        pytest.skip("no Chromium: apt-get install chromium, and the page is looked at")
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
def small_store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "store", {"fc7": np.ones((40, 2), np.float32)}, range(40))


@pytest.fixture
def page(tmp_path: Path, small_store: Store, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(report, "credits_of", credits_of)
    return write(FOUND, small_store, tmp_path / "out")
