"""Ask the demo database four questions, and show what reranking made of each.

With the documentation of Python 3.11, the first two are what reranking is for: recall found the
answer, but as sixth and as twenty-second. In the third recall was right already, and the scores
tell that little else fits. In the fourth reranking is wrong: it puts `sys.excepthook`, which recall
had as twenty-ninth, before `contextlib.suppress`.
"""

from __future__ import annotations

import sys

from d2llm_vdb import Index
from d2llm_vdb.cli.results import show_result

QUESTIONS = (
    "Why does my default list argument keep its values between calls?",
    "How do I turn a list of strings into one string?",
    "How do I merge two sorted lists?",
    "How do I suppress an exception?",
)


def main() -> None:
    with Index.open(sys.argv[1], create=False) as index:
        index.search(QUESTIONS[0], rerank="tokens")  # the first search also loads pages from disk
        for question in QUESTIONS:
            recalled = index.search(question, k=3, rerank="none", hybrid=1.0)
            show_result(index.search(question, k=3, rerank="tokens"))
            ids = ", ".join(hit.id for hit in recalled.hits)
            sys.stdout.write(f"without reranking: {ids}\n\n")


if __name__ == "__main__":
    main()
