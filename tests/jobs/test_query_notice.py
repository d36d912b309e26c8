"""What is said of imported queries, used or not."""

import pytest

from engine.jobs.query_notice import imported_queries, unused_queries
from engine.store.manifest import Removed
from tests.jobs.test_query_set import nearest, store_of


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return store_of(tmp_path_factory.mktemp("s") / "s", nearest("l2"), "l2").manifest


def test_queries_of_another_metric_are_not_used_and_it_says_so(manifest):
    assert unused_queries(manifest, "sift", "l2") == unused_queries(manifest, "other", "cosine") == ""
    said = unused_queries(manifest, "sift", "cosine")
    assert said.startswith("The 40 imported queries of layer sift are for l2, this index is for cosine: not used.")
    assert "build --layer sift --metric l2`" in said


def test_what_came_is_counted_and_whether_the_photos_are_the_same(manifest):
    said = imported_queries(manifest, "sift")
    assert said == "40 queries imported with layer sift, 100 neighbours of each by l2"
    assert imported_queries(manifest, "other") == ""
    removed = manifest.model_copy(update={"removed": Removed(count=1, xxh3="0" * 16)})
    assert imported_queries(removed, "sift") == said + "; the photos are others since"
