"""Terms of photos as sparse matrices: tags, groups, albums, words; which say nothing, and how much the others say.

Document frequency df: of how many photos a term is. Inverse document frequency: log(1 + photos / df), photos: those
that have any term.
"""

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.jobs.relevance_relation import F64, I64, Mask, rows_to_csr

NO_LETTERS = r"[^\p{L}\p{N}\p{M}]+"
# A term of more photos than this share of all that have terms says nothing of what is on a photo: see the README.
MOST_SHARE, ALWAYS_KEPT = 0.05, 100
CAMERA_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Which photo has which term how often: counts, a SciPy CSR array (n, terms) float64; names (terms,) of text."""

    counts: Any
    names: npt.NDArray[np.object_]

    @property
    def known(self) -> Mask:
        """Which photos (n,) have any."""
        return np.asarray(np.diff(self.counts.indptr) > 0)

    def frequency(self) -> I64:
        """The document frequency (terms,)."""
        return np.bincount(self.counts.indices, minlength=self.counts.shape[1]).astype(np.int64)

    def idf(self) -> F64:
        """The inverse document frequency (terms,); see the module's text."""
        return np.log1p(max(int(self.known.sum()), 1) / np.maximum(self.frequency(), 1))

    def only(self, kept: Mask) -> "Terms":
        """Some of the terms (terms,)."""
        return Terms(counts=self.counts[:, np.flatnonzero(kept)].tocsr(), names=self.names[kept])

    def once(self) -> "Terms":
        """The same terms, each counted once a photo."""
        counts = self.counts.copy()
        counts.data[:] = 1
        return Terms(counts=counts, names=self.names)


def listed_terms(column: Any, *, tidy: bool = True) -> Terms:
    """The terms of a column of lists of text; null lists are empty. tidy: as Flickr makes a tag of what was typed:
    lower case, letters and digits alone. Photos with the same term under two spellings have it once.
    """
    pc = _arrow()
    lists = _whole(column)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return _coded(np.repeat(np.arange(len(lists)), lengths), pc.list_flatten(lists), len(lists), tidy=tidy)


def ids_of(column: Any) -> Any:
    """A column of lists of {id, title} as lists of the ids; PyArrow."""
    import pyarrow as pa

    pc = _arrow()
    lists = _whole(column)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    offsets: Any = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pc.struct_field(pc.list_flatten(lists), "id"))


def words_of(column: Any) -> Terms:
    """The words of a column of text, lower case, split where there is neither letter nor digit; counted."""
    pc = _arrow()
    text = pc.utf8_lower(pc.utf8_normalize(_whole(column), form="NFKC"))
    return listed_terms(pc.split_pattern_regex(text, pattern=NO_LETTERS))


def values_of(column: Any) -> I64:
    """A number for each different text of a column (n,), −1 for null."""
    pc = _arrow()
    encoded = _whole(column).dictionary_encode().indices
    return np.asarray(pc.fill_null(encoded, -1).to_numpy(zero_copy_only=False), np.int64)


def telling(terms: Terms, *, most_share: float = MOST_SHARE) -> tuple[Terms, list[str]]:
    """The terms that are of two photos at least and of not too many, and the names of those that are of too many.

    Too many: more than a share of the photos that have terms, and more than `ALWAYS_KEPT`.
    """
    frequency = terms.frequency()
    stop = frequency > max(most_share * int(terms.known.sum()), ALWAYS_KEPT)
    names = terms.names[stop][np.argsort(-frequency[stop], kind="stable")]
    return terms.only((frequency > 1) & ~stop), names.tolist()


def camera_tags(tags: Terms, camera: Any) -> Mask:
    """Which tags (terms,) name a camera: those that are a part of the photo's own camera's name, in its EXIF data, for
    at least half of the photos with the tag whose camera is known (two of them at least).

    camera: a column (n,) of text. So `canon`, `eos` and `40d` are found, whatever cameras there will be.
    """
    pc = _arrow()
    names = pc.replace_substring_regex(pc.utf8_lower(_whole(camera)), pattern=NO_LETTERS, replacement="")
    encoded = names.dictionary_encode()
    codes = np.asarray(pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False), np.int64)
    cameras = [name or "" for name in encoded.dictionary.to_pylist()]
    entry_camera = np.repeat(codes, np.diff(tags.counts.indptr))
    seen = entry_camera >= 0
    keys = tags.counts.indices[seen].astype(np.int64) * max(len(cameras), 1) + entry_camera[seen]
    pairs, times = np.unique(keys, return_counts=True)
    tag, which = np.divmod(pairs, max(len(cameras), 1))
    inside = np.array([tags.names[t] in cameras[c] for t, c in zip(tag.tolist(), which.tolist(), strict=True)], bool)
    total = np.bincount(tag, times, minlength=len(tags.names))
    part = np.bincount(tag[inside], times[inside], minlength=len(tags.names))
    # One letter or digit is a part of many names.
    long = np.array([len(name) > 1 for name in tags.names.tolist()], bool)
    return np.asarray(long & (total >= 2) & (part >= CAMERA_SHARE * total))


def _arrow() -> Any:
    """PyArrow's functions on columns, of which its type hints know a part."""
    return importlib.import_module("pyarrow.compute")


def _whole(column: Any) -> Any:
    """A column as one array."""
    return column.combine_chunks() if hasattr(column, "combine_chunks") else column


def _coded(rows: I64, flat: Any, photos: int, *, tidy: bool) -> Terms:
    """The terms of texts (m,) that belong to rows (m,)."""
    import pyarrow as pa

    pc = _arrow()
    if len(flat) == 0:
        empty = np.empty(0, np.int64)
        return Terms(counts=rows_to_csr(empty, empty, np.empty(0), (photos, 0)), names=np.empty(0, object))
    encoded = flat.dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    names = encoded.dictionary.cast(pa.string())
    if tidy:
        names = pc.utf8_lower(pc.utf8_normalize(names, form="NFKC"))
        names = pc.replace_substring_regex(names, pattern=NO_LETTERS, replacement="")
    again = names.dictionary_encode()
    texts = np.array(again.dictionary.to_pylist(), object)
    codes = np.where(codes >= 0, again.indices.to_numpy(zero_copy_only=False)[codes], -1)
    good = codes >= 0
    good[good] = (texts != "")[codes[good]]
    counts = rows_to_csr(rows[good], codes[good], np.ones(int(good.sum())), (photos, len(texts)))
    return Terms(counts=counts, names=texts).only(np.asarray(texts != ""))
