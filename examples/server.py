"""A Qdrant server: the same code, shared by any number of processes.

    docker run -d -p 6333:6333 -p 6334:6334 qdrant/qdrant:v1.20.0
    QDRANT_URL=http://localhost:6333 .venv/bin/python examples/server.py

QDRANT_API_KEY is the key of a server that asks for one. `docker/` has a compose file.
"""

from __future__ import annotations

import asyncio
import os
import sys

from corpus import passages

from d2llm_vdb import Index
from d2llm_vdb.errors import StoreUnavailableError

QUESTIONS = (
    "When does the else clause of a while loop run?",
    "How do I suppress an exception in a with block?",
    "Which object is returned by a function without a return statement?",
)

NO_SERVER = """
Start one, and say where it is:

    docker run -d -p 6333:6333 -p 6334:6334 qdrant/qdrant:v1.20.0
    export QDRANT_URL=http://localhost:6333    # and QDRANT_API_KEY, if it has one"""


async def main(url: str, api_key: str | None = None, grpc_port: int | None = None) -> None:
    """Index and ask, all questions at the same time."""
    try:
        index = await Index.aopen(
            url, collection="d2llm-examples", api_key=api_key, grpc_port=grpc_port
        )
    except StoreUnavailableError as error:
        sys.exit(f"{error}\n{NO_SERVER}")
    async with index:
        report = await index.aadd(passages(index.student))
        print(f"{report.encoded} passages encoded, {report.unchanged} were there already")
        results = await asyncio.gather(*(index.asearch(question, k=2) for question in QUESTIONS))
        for result in results:
            print(f"\n{result.query}  ({result.timings.total_ms:.0f} ms)")
            for hit in result.hits:
                print(f"  {hit.score:.3f}  {hit.source}  {hit.id}")


if __name__ == "__main__":
    server = os.environ.get("QDRANT_URL", "http://localhost:6333")
    asyncio.run(main(server, os.environ.get("QDRANT_API_KEY")))
