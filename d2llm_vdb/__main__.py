"""`python -m d2llm_vdb` is the `d2llm` command."""

from d2llm_vdb.cli import main

if __name__ == "__main__":
    main()
