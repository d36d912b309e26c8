"""Archives of `.dat` files, read without unpacking to disk: tar (plain, gzip, bzip2, zstd) and zip.

`kind_of` says by its bytes what a file is. A plain tar and a zip of stored members are lists of places in the archive
file (`list_tar`, `list_zip`); what is compressed is a stream of batches (`stream`). A member is judged by its header:
what is no record of a photo is passed over, never written and never held in memory.
"""

from engine.store.archives.kinds import Kind, kind_of
from engine.store.archives.members import Batch, Members
from engine.store.archives.streams import stream
from engine.store.archives.tar import list_tar
from engine.store.archives.zip import list_zip

__all__ = ["Batch", "Kind", "Members", "kind_of", "list_tar", "list_zip", "stream"]
