"""What a search can do besides finding: words, filters, diversity, groups, pages, neighbours.

    .venv/bin/python examples/hybrid_and_filters.py [DB]

DB is where the index is kept, `examples-db` if nothing is said; a second run encodes nothing.
"""

from __future__ import annotations

import sys
from textwrap import shorten

from corpus import passages

from d2llm_vdb import Hit, Index, Passage, SearchResult


def show(title: str, result: SearchResult) -> None:
    """Print what was found, one line a hit."""
    print(f"\n{title}: {result.query}")
    for hit in result.hits:
        print(f"    {hit.score:6.3f}  {hit.id:<22} {opening(hit)}")


def opening(hit: Hit) -> str:
    """Return how a passage begins, without its title."""
    title, _, body = hit.text.partition("\n")
    return shorten(body or title, 60, placeholder=" ...")


def search(index: Index) -> None:
    """Ask one index in several ways."""
    name = "StopAsyncIteration"
    show("Vectors alone", index.search(name, k=3, rerank="none"))
    show("Words and vectors, fused", index.search(name, k=3, rerank="none", hybrid=1))

    question = "How do I leave a loop?"
    short = {"kind": "statement", "words": {"$lt": 250}}
    show("By score", index.search(question, k=4))
    show("The second page", index.search(question, k=4, offset=4))
    show("Unlike each other (MMR)", index.search(question, k=3, mmr_lambda=0.8))
    show("One hit a document", index.search(question, k=4, group_by="doc_id"))
    show(
        f"Among {index.count(short)} passages of short statements",
        index.search(question, k=4, filter=short),
    )
    [hit] = index.search(question, k=1, neighbours=1).hits
    print(f"\nThe passages around {hit.id}")
    for text in (*hit.before, hit.text, *hit.after):
        print(f"    {shorten(text, 90, placeholder=' ...')}")


def tenants(shared: Index) -> None:
    """Keep what two customers own apart in one collection."""
    ann, bob = shared.for_tenant("ann"), shared.for_tenant("bob")
    ann.add([Passage("1", "Ann's password is changed on the first of May.")])
    bob.add([Passage("1", "Bob's password never changes.")])
    show("Ann asks", ann.search("When does the password change?"))
    show("Bob asks", bob.search("When does the password change?"))
    show("The owner of both asks", shared.search("When does the password change?"))


def main(db: str) -> None:
    """Search the index in `db`, made where it does not exist, and one in memory."""
    with Index.open(db, tokens="raw") as index:
        index.add(passages(index.student))
        search(index)
        with Index.open(":memory:", index.student) as shared:
            tenants(shared)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "examples-db")
