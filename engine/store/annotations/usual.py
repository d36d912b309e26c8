"""The usual form of an annotation file as types, so that msgspec checks and decodes it in one go.

A document is of the usual form if it nests the API's answers by the names in `NESTINGS` and holds in each nothing but
what is named here. What the tolerant reader (`flickr`) would find anywhere else makes the document an unusual one,
which that reader then reads: unknown keys are refused where it would look into them, and passed over elsewhere.
"""
# mypy: disable-error-code=misc

from collections.abc import Callable
from typing import Any, cast, get_type_hints

import msgspec
from msgspec import Struct, defstruct, field

NESTINGS = (
    (
        "flickr.photos.getInfo",
        "flickr.photos.getExif",
        "flickr.photos.getAllContexts",
        "flickr.photos.comments.getList",
    ),
    ("info", "exif", "contexts", "comments"),
)
Scalar = str | int | float | bool | None


class Unusual:
    """The type of a key that must not be there, as the tolerant reader would make something of it."""


def _refuse(kind: type, value: Any) -> Any:
    raise ValueError(f"{kind.__name__}: {type(value).__name__}")


class _Strict(Struct, gc=False, kw_only=True, forbid_unknown_fields=True):
    """An object that the tolerant reader looks into key by key."""


class _Loose(Struct, gc=False, kw_only=True, frozen=True):
    """An object of which only the keys named are read, unless one of these is there."""

    stat: Unusual | None = None
    photo: Unusual | None = None
    exif: Unusual | None = None
    set: Unusual | None = None
    pool: Unusual | None = None


class Content(_Loose, kw_only=True, gc=False, frozen=True):
    """A text."""

    said: str = field(name="_content")
    title: Unusual | None = None
    description: Unusual | None = None
    comments: Unusual | None = None


class Flags(_Loose, kw_only=True, gc=False, frozen=True):
    """What may be done with a photo, of which nothing is read."""

    visibility: Unusual | None = None
    permissions: Unusual | None = None
    editability: Unusual | None = None
    publiceditability: Unusual | None = None
    usage: Unusual | None = None
    people: Unusual | None = None
    geoperms: Unusual | None = None


class Owner(_Loose, kw_only=True, gc=False, frozen=True):
    """Whose the photo is."""

    nsid: str
    username: str = ""
    realname: str = ""
    owner: Unusual | None = None
    content: Unusual | None = field(default=None, name="_content")


class Dates(_Loose, kw_only=True, gc=False, frozen=True):
    """When it was taken and posted."""

    posted: str = ""
    taken: str = ""
    dates: Unusual | None = None


class Location(_Loose, kw_only=True, gc=False, frozen=True):
    """Where."""

    latitude: str
    longitude: str
    accuracy: str | int = 0
    location: Unusual | None = None


class Note(Struct, gc=False, kw_only=True):
    """A note in the picture."""

    author: str
    authorname: str
    x: str | int | float
    y: str | int | float
    w: str | int | float
    h: str | int | float
    said: str = field(name="_content")
    text: Unusual | None = None
    author_name: Unusual | None = None


class Notes(_Loose, kw_only=True, gc=False, frozen=True):
    """All notes."""

    note: list[Note]
    notes: Unusual | None = None


class Tag(Struct, gc=False, kw_only=True):
    """A tag; one of a machine says so."""

    raw: str
    machine_tag: int | bool
    said: str = field(name="_content")


class Tags(_Loose, kw_only=True, gc=False, frozen=True):
    """All tags."""

    tag: list[Tag]
    tags: Unusual | None = None


class Link(Struct, gc=False, kw_only=True):
    """A link to a page."""

    type: str | None
    said: str = field(name="_content")


class Links(_Loose, kw_only=True, gc=False, frozen=True):
    """All links."""

    url: list[Link]
    urls: Unusual | None = None


NO_TEXT, NO_LINKS, NO_DATES = Content(said=""), Links(url=[]), Dates()  # what is read where there is none


class Photo(_Strict, kw_only=True, gc=False):
    """What flickr.photos.getInfo says."""

    owner: Owner
    title: Content = NO_TEXT
    description: Content = NO_TEXT
    dates: Dates = NO_DATES
    urls: Links = NO_LINKS
    license: str | int = ""
    views: str | int = ""
    count_faves: str | int = ""
    dateuploaded: str = ""
    comments: Content | None = None
    notes: Notes | None = None
    tags: Tags | None = None
    location: Location | None = None
    id: Scalar = None
    secret: Scalar = None
    server: Scalar = None
    farm: Scalar = None
    isfavorite: Scalar = None
    safety_level: Scalar = None
    rotation: Scalar = None
    originalsecret: Scalar = None
    originalformat: Scalar = None
    media: Scalar = None
    visibility: Flags | None = None
    permissions: Flags | None = None
    editability: Flags | None = None
    publiceditability: Flags | None = None
    usage: Flags | None = None
    people: Flags | None = None
    geoperms: Flags | None = None


NOBODY = Photo(owner=Owner(nsid=""))  # of whom nothing is known


class _Answer(_Strict, kw_only=True, gc=False):
    stat: str = ""
    code: Scalar = None
    message: Scalar = None


class Info(_Answer, kw_only=True, gc=False):
    """flickr.photos.getInfo."""

    photo: Photo | None = None


class Raw(Struct, gc=False, kw_only=True):
    """The value of an entry of EXIF."""

    said: str = field(name="_content")


class Entry(Struct, gc=False, kw_only=True):
    """An entry of EXIF."""

    tag: str
    label: str
    raw: Raw


class ExifPhoto(_Strict, kw_only=True, gc=False):
    """What flickr.photos.getExif says."""

    exif: list[Entry]
    camera: str = ""
    id: Scalar = None
    secret: Scalar = None
    server: Scalar = None
    farm: Scalar = None


class Exif(_Answer, kw_only=True, gc=False):
    """flickr.photos.getExif."""

    photo: ExifPhoto | None = None


class Place(Struct, gc=False, kw_only=True):
    """An album or a group."""

    id: str
    title: str


class Contexts(_Answer, kw_only=True, gc=False):
    """flickr.photos.getAllContexts."""

    set: list[Place] | msgspec.UnsetType = msgspec.UNSET
    pool: list[Place] | msgspec.UnsetType = msgspec.UNSET


class Comment(Struct, gc=False, kw_only=True):
    """A comment."""

    author: str
    authorname: str
    datecreate: str
    said: str = field(name="_content")
    text: Unusual | None = None
    comment: Unusual | None = None
    author_name: Unusual | None = None


class CommentList(_Strict, kw_only=True, gc=False):
    """All comments; of none there is no list."""

    photo_id: str
    comment: list[Comment] = []


class Comments(_Answer, kw_only=True, gc=False):
    """flickr.photos.comments.getList."""

    comments: CommentList | None = None


class Document(_Strict, kw_only=True, gc=False):
    """All that is known of a photo; an answer that is not there is None."""

    info: Info | None = None
    exif: Exif | None = None
    contexts: Contexts | None = None
    comments: Comments | None = None


def decoders() -> list[Callable[[bytes | str], Document]]:
    """Bytes to a document, for each way of nesting; they raise msgspec.MsgspecError for an unusual one."""
    return [msgspec.json.Decoder(_document(nesting), dec_hook=_refuse).decode for nesting in NESTINGS]


def _document(nesting: tuple[str, ...]) -> type[Document]:
    parts = zip(Document.__struct_fields__, get_type_hints(Document).values(), nesting, strict=True)
    fields = [(name, kind, field(default=None, name=key)) for name, kind, key in parts]
    kind: Any = defstruct("Document", fields, bases=(Document,), kw_only=True, gc=False)
    return cast(type[Document], kind)
