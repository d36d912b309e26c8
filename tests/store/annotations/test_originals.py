"""MIRFLICKR's own text files: tags a line each, EXIF in either way of writing it."""

import pytest

from engine.errors import InputError
from engine.store.annotations.originals import read_exif_text, read_tags
from engine.store.annotations.sources import item_in


def test_tags_stand_on_lines_of_their_own():
    assert read_tags(b"sunset\r\n\r\n  Rio de Janeiro \ngeo:lat=5\n") == {
        "tags": ["sunset", "riodejaneiro"], "tags_raw": ["sunset", "Rio de Janeiro"], "machine_tags": ["geo:lat=5"],
    }  # fmt: skip
    assert read_tags(b"") == {"tags": [], "tags_raw": [], "machine_tags": []}
    assert read_tags("\ufeffsão".encode())["tags"] == ["são"]
    assert read_tags("são".encode("latin-1"))["tags"] == ["são"]


def test_exif_in_either_way_says_the_same():
    marked = read_exif_text(b"-Make\nCanon\n-Model\nEOS 5D\n-FNumber\nf/2.8\n-User Comment\nline one\n- 2\n-ISO\n\n")
    lines = read_exif_text(b"Make: Canon\nModel: EOS 5D\nFNumber: f/2.8\nUser Comment:\tline one\n- 2\nISO:\n")
    assert marked["exif"] == {
        "Make": "Canon", "Model": "EOS 5D", "FNumber": "f/2.8", "User Comment": "line one\n- 2"
    }  # fmt: skip
    assert marked["camera"] == lines["camera"] == "EOS 5D"
    assert marked["aperture"] == lines["aperture"] == 2.8
    assert read_exif_text(b"nothing here") == {}


def test_what_is_no_text_is_refused():
    for reader in (read_tags, read_exif_text):
        with pytest.raises(InputError, match="is no text"):
            reader(b"\0\1")
        with pytest.raises(InputError, match="expected at most"):
            reader(b"x" * ((16 << 20) + 1))


@pytest.mark.parametrize(
    ("folder", "name", "found"),
    [
        ("10", "103169.json", (103169, "json")), ("x", "5.JSON", (5, "json")), ("tags/10", "7.txt", (7, "tags")),
        ("/a/EXIF/3", "7.txt", (7, "exif")), ("meta", "tags7.txt", (7, "tags")),
        ("meta/exif_raw", "exif7.txt", (7, "exif")),
        ("tags_raw", "7.txt", (7, "tags")), ("", "exif12.txt", (12, "exif")), ("other", "7.txt", None),
        ("", "7.txt", None),
        ("tags", "a.txt", None), ("tags", "7.dat", None), ("", "x7.json", None), ("", "-7.json", None),
        ("", "1234567890123456789.json", None),
    ],
)  # fmt: skip
def test_what_a_file_is_by_its_name(folder, name, found):
    item = item_in(folder, name)
    assert (item and (item.photo_id, item.kind)) == found
