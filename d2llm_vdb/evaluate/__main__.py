"""`python -m d2llm_vdb.evaluate` is `d2llm evaluate`."""

from d2llm_vdb.cli import main

if __name__ == "__main__":
    main("evaluate")
