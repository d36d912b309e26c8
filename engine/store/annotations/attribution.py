"""Whose photo it is and what its licence allows: the line that stands wherever a photo is shown.

Creative Commons licences ask for the author's name, the licence and a link, as far as they are known.
"""

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from engine.store.annotations.table import Annotations
from engine.store.store import Store

COLUMNS = ("owner", "owner_name", "owner_realname", "licence", "licence_url", "url")


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """Who is to be credited for a photo, under which licence, and where it lies; "" for what is not known."""

    owner: str = ""
    licence: str = ""
    licence_url: str = ""
    url: str = ""

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """From the values of a row of annotations: the owner's real name, else the user name, else the NSID."""
        owner = row.get("owner_realname") or row.get("owner_name") or row.get("owner") or ""
        return cls(owner=owner, **{name: row.get(name) or "" for name in ("licence", "licence_url", "url")})

    def __bool__(self) -> bool:
        return bool(self.owner or self.licence or self.url)

    @property
    def text(self) -> str:
        """One line: `© Jane Doe · CC BY 2.0 · https://www.flickr.com/photos/…`; "" when nothing is known."""
        owner = f"© {self.owner}" if self.owner else ""
        return " · ".join(one_line(part) for part in (owner, self.licence, self.url) if part)

    @property
    def html(self) -> str:
        """The same as HTML: the owner leads to the photo's page, the licence to its text; only http(s) is a link."""
        owner = _link(f"© {self.owner}" if self.owner else "photo page" if self.url else "", self.url)
        licence = _link(self.licence, self.licence_url)
        return " · ".join(part for part in (owner, licence) if part)

    def to_dict(self) -> dict[str, str]:
        """What is known, for JSON."""
        return {name: value for name, value in vars(self).items() if value}


def one_line(text: str) -> str:
    """A text that strangers wrote, for a terminal: in one line, without control characters or turns of direction."""
    return "".join(sign for sign in " ".join(text.split()) if sign.isprintable())


def _link(text: str, url: str) -> str:
    shown = html.escape(text)
    if not shown or not url.lower().startswith(("http://", "https://")):
        return shown
    return f'<a href="{html.escape(url)}" rel="noopener noreferrer">{shown}</a>'


def attributions(store: Store, photo_ids: Iterable[int]) -> dict[int, Attribution]:
    """Whom to credit for photos of a store, by photo id; only those of whom something is known.

    Empty when the store has no annotations at all. InputError for a photo that the store does not have, StoreError when
    the annotations are damaged or of another state of the store.
    """
    ids = np.unique(np.fromiter(photo_ids, np.int64))
    if not len(ids) or not Annotations.exists(store):
        return {}
    rows = Annotations.open(store).of_rows(store.rows_of(ids), COLUMNS)
    made = {photo_id: Attribution.of_row(row) for photo_id, row in zip(ids.tolist(), rows, strict=True)}
    return {photo_id: attribution for photo_id, attribution in made.items() if attribution}
