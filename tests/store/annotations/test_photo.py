"""All that is known of one photo, whatever state its store is in."""

import json

import numpy as np
import pytest

from engine.errors import InputError
from engine.store.annotations.photo import photo_facts
from tests.builders import make_store
from tests.index.removal import mark_removed
from tests.store.annotations.written import annotate


def test_what_there_is_and_what_is_missing(tmp_path):
    layers = {"fc7": np.array([[3, 0, 4, 0]] * 3, np.float32), "fc8": np.zeros((3, 1000), np.float32)}
    layers["fc8"][1, 207] = 20
    store = make_store(tmp_path / "store", layers, [30_007, 5, 6])
    bare = photo_facts(store, 30_007)
    assert (bare.row, bare.removed, bare.annotations, bare.layers["fc7"]) == (0, False, None, (5.0, 0.5))
    assert "mirsearch annotations ingest" in bare.missing
    annotate(store, [{}, {"title": "A dog", "owner_name": "jo", "licence": "CC BY 2.0"}, {}])
    dog = photo_facts(mark_removed(store, [1]), 5)
    assert (dog.row, dog.removed, dog.missing, dog.attribution.text) == (1, True, "", "© jo · CC BY 2.0")
    document = dog.to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert (document["file"], document["classes"][0]["name"]) == ("0/5.dat", "golden retriever")
    assert document["annotations"]["title"] == "A dog"
    assert document["attribution"] == {"owner": "jo", "licence": "CC BY 2.0"}
    unread = photo_facts(store, 6)
    assert (unread.annotations, unread.missing) == (None, "")
    with pytest.raises(InputError, match="photo 7: not in"):
        photo_facts(store, 7)
