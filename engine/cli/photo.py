"""One photo, as `info --photo` shows it."""

from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.console import out, say_facts, say_json

if TYPE_CHECKING:
    from engine.store.annotations.photo import PhotoFacts
    from engine.store.store import Store

_LONGEST = 600  # characters of a value; --json has all of it
_KEYS = {"photo_id", "annotated"}
_ELSEWHERE = {*_KEYS, "owner", "owner_name", "owner_realname", "licence_id", "licence", "licence_url",
              "url", "title"}  # fmt: skip


def say_photos(store: "Store", photo_ids: list[int], *, as_json: bool) -> None:
    """All that a store knows of photos."""
    from engine.store.annotations.photo import photo_facts

    found = [photo_facts(store, photo_id) for photo_id in photo_ids]
    if as_json:
        say_json({"path": str(store.path), "photos": [facts.to_dict() for facts in found]})
        return
    for number, facts in enumerate(found):
        if number:
            out.print()
        _say(facts, store.path)


def _say(facts: "PhotoFacts", store: Path) -> None:
    from engine.store.annotations.fields import shown_value
    from engine.store.dat import relative_path

    known = facts.annotations or {}
    title = shown_value(known.get("title"), _LONGEST)
    lines = [
        ("row", f"{facts.row:,} of {store}" + (", removed" if facts.removed else "")),
        ("file", relative_path(facts.photo_id)),
        *((name, f"length {length:.4g}, {zeros:.0%} zeros") for name, (length, zeros) in facts.layers.items()),
    ]
    for number, guess in enumerate(facts.classes):
        one = guess.image_class
        lines.append(
            ("" if number else "classes", f"{guess.probability:6.1%}  {', '.join(one.names)} ({one.wordnet_id})")
        )
    if facts.attribution:
        lines.append(("credit", facts.attribution.text))
    licence_url = shown_value(known.get("licence_url"))
    if licence_url:
        lines.append(("licence", licence_url))
    lines += [
        (name, shown_value(value, _LONGEST)) for name, value in known.items() if name not in _ELSEWHERE and value != []
        and value is not None
    ]  # fmt: skip
    if facts.annotations is not None and not any(value for name, value in known.items() if name not in _KEYS):
        lines.append(("annotations", "a file was read for it, which has none of them"))
    if facts.annotations is None:
        lines.append(("annotations", facts.missing or "no file was read for it, or none that says anything"))
    say_facts(f"Photo {facts.photo_id}" + (f": {title}" if title else ""), lines)
