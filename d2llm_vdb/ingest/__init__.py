"""Files to passages to an index; `python -m d2llm_vdb.ingest`.

    documents   what readers give
    reading     bytes of a file, up to a size
    records     readers of JSON lines and JSON
    tables      reader of CSV and TSV
    values      what a cell stands for
    whole       files that are one document each
    html, rst, front_matter, pdf, docx, notebook, code    readers of these
    formats     the table of readers
    folders     the files of a folder
    files       `SourceReader`: paths and standard input to documents
    indexing    `indexed`: fields of the metadata indexed for filters
    rejects     the file of what was not ingested
    headings    where a place stands in Markdown
    chunking    documents to passages
    pipeline    `ingest`: sources to an index, every record accounted for

Nothing is imported here, so that the command's --help is quick.
"""
