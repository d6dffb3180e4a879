"""`python -m d2llm_vdb.distill` is `d2llm distill`."""

from d2llm_vdb.cli import main

if __name__ == "__main__":
    main("distill")
