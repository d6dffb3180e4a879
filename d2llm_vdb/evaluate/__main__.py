"""`python -m d2llm_vdb.evaluate` is `d2llm evaluate`."""

from d2llm_vdb.cli import module_main

if __name__ == "__main__":
    module_main("evaluate")
