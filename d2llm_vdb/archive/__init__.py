"""A collection as one file, to keep it or to move it to another database.

Nothing is encoded on the way, and no student is needed.
"""

from __future__ import annotations

from d2llm_vdb.archive.moving import (
    ArchiveReport,
    export_collection,
    export_store,
    import_collection,
)

__all__ = ["ArchiveReport", "export_collection", "export_store", "import_collection"]
