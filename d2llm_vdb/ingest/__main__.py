"""`python -m d2llm_vdb.ingest` is `d2llm ingest`."""

from d2llm_vdb.cli import main

if __name__ == "__main__":
    main("ingest")
