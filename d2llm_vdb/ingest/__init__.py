"""Files to passages to an index; `python -m d2llm_vdb.ingest`.

    documents   what readers give
    records     readers of JSON lines and CSV
    formats     readers of files that are one document each
    files       `SourceReader`: paths and standard input to documents
    indexing    `indexed`: fields of the metadata indexed for filters
    rejects     the file of what was not ingested
    chunking    documents to passages
    pipeline    `ingest`: sources to an index, every record accounted for

Nothing is imported here, so that the command's --help is quick.
"""
