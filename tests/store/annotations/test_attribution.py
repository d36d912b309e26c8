"""Credits: who, which licence, where; as text for a terminal and as HTML."""

import numpy as np
import pytest

from engine.errors import InputError
from engine.store.annotations.attribution import Attribution, attributions
from tests.builders import make_store
from tests.store.annotations.written import annotate

JANE = {
    "owner": "1@N01", "owner_name": "jane_d", "owner_realname": "Jane Doe", "licence": "CC BY 2.0",
    "licence_url": "https://creativecommons.org/licenses/by/2.0/", "url": "https://www.flickr.com/photos/1/7/",
}  # fmt: skip


def test_what_is_known_is_shown():
    jane = Attribution.of_row(JANE)
    assert jane.text == "© Jane Doe · CC BY 2.0 · https://www.flickr.com/photos/1/7/"
    assert jane.html == (
        '<a href="https://www.flickr.com/photos/1/7/" rel="noopener noreferrer">© Jane Doe</a> · '
        '<a href="https://creativecommons.org/licenses/by/2.0/" rel="noopener noreferrer">CC BY 2.0</a>'
    )
    assert Attribution.of_row(JANE | {"owner_realname": None}).owner == "jane_d"
    assert Attribution.of_row({"owner": "1@N01"}).text == "© 1@N01"
    assert Attribution.of_row({"url": "http://x/"}).html.endswith(">photo page</a>")
    nothing = Attribution.of_row(dict.fromkeys(JANE))
    assert (bool(nothing), nothing.text, nothing.html, nothing.to_dict()) == (False, "", "", {})


def test_what_strangers_wrote_does_no_harm():
    evil = Attribution.of_row(
        {"owner_name": "<script>\x1b[31m\nx\u202e", "licence": '"><img>', "url": "javascript:alert(1)"}
    )
    assert evil.text == '© <script>[31m x · "><img> · javascript:alert(1)'
    assert "<script>" not in evil.html
    assert "<img>" not in evil.html
    assert "href" not in evil.html
    quoted = Attribution.of_row({"owner": "x", "url": 'https://x/" onclick="alert(1)'})
    assert 'onclick="' not in quoted.html


def test_of_a_store(tmp_path):
    store = make_store(tmp_path / "store", {"fc7": np.zeros((4, 4), np.float32)}, [9, 3, 7, 5])
    assert attributions(store, [9, 3]) == {}
    annotate(store, [{}, {"title": "of nobody"}, JANE, {"licence": "CC BY 2.0"}])
    assert attributions(store, [5, 7, 7, 3, 9]) == {
        7: Attribution.of_row(JANE), 5: Attribution(licence="CC BY 2.0"),
    }  # fmt: skip
    assert attributions(store, iter(())) == {}
    with pytest.raises(InputError, match="photo 8: not in"):
        attributions(store, [8])
