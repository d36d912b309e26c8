"""Which verb goes on with what was interrupted."""

from pathlib import Path

from engine.store.dat import LAYERS
from engine.store.journal import NAME, Journal
from engine.store.unfinished import how_to_go_on, unfinished_verb


def test_the_verb_is_that_of_the_job(tmp_path: Path) -> None:
    assert unfinished_verb(tmp_path) == how_to_go_on(tmp_path) == ""
    Journal(tmp_path, {"layers": {"fc7": 4096}, "base": ""}).close()
    assert unfinished_verb(tmp_path) == "import"
    assert how_to_go_on(tmp_path) == "An import was interrupted here: run it again, and it begins anew."
    Journal(tmp_path, {"layers": LAYERS, "base": ""}).close()
    assert how_to_go_on(tmp_path) == "An ingest was interrupted here: run it again, and it continues."
    (tmp_path / NAME).write_bytes(b"cut sh")  # the first line of either may be lost in a power cut
    assert unfinished_verb(tmp_path) == "ingest"
