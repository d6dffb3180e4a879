"""`python -m d2llm_vdb.distill` is `d2llm distill`."""

from d2llm_vdb.cli import module_main

if __name__ == "__main__":
    module_main("distill")
