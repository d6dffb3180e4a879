"""Ask the demo database a few questions and show what the rerank changed."""

from __future__ import annotations

import sys

from d2llm_vdb import Index
from d2llm_vdb.cli.results import show_result

QUESTIONS = (
    "How do I catch two kinds of exception with one handler?",
    "When does the else clause of a for loop run?",
    "Run a shell command and get what it printed",
    "Why does my default list argument keep its values between calls?",
)


def main() -> None:
    with Index.open(sys.argv[1], create=False) as index:
        index.search(QUESTIONS[0], rerank="tokens")  # the first search also loads pages from disk
        for question in QUESTIONS:
            show_result(index.search(question, k=3, rerank="tokens"))


if __name__ == "__main__":
    main()
