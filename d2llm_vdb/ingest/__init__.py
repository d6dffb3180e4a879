"""Files to passages to an index; `python -m d2llm_vdb.ingest`.

    documents   what readers give
    records     readers of JSON lines and CSV
    files       readers of everything else, and `SourceReader` over all of them
    chunking    documents to passages
    pipeline    `ingest`: sources to an index, every record accounted for

Nothing is imported here, so that the command's --help is quick.
"""
