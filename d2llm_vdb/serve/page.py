"""The page to try a collection, and the JSON that it asks for.

GET /                                    the page, one file
GET /api/info                            what is searched
GET /api/search?q=...&k=10&rerank=iem    recall order and reranked order
GET /api/explain?q=...&id=...&rerank=iem why one passage was found; &tenant=... where it has one
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from typing import Any, cast

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from d2llm_vdb.checks import check_whole_number
from d2llm_vdb.errors import D2LLMError, InputError
from d2llm_vdb.explain import Explanation
from d2llm_vdb.explain.drawing import (
    HEADS,
    PARTS,
    alignment_note,
    attention_note,
    lengths,
    shades,
    underlines,
    waterfall,
)
from d2llm_vdb.keywords import check_keywords
from d2llm_vdb.search import SearchResult
from d2llm_vdb.search.options import Rerank
from d2llm_vdb.serve.finder import Finder
from d2llm_vdb.serve.hosts import KnownHosts

DEFAULT_HITS = 10

HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def page_app(finder: Finder, host: str) -> Starlette:
    """Return the application that serves the page.

    Args:
        finder: what the page asks.
        host: what the application is bound to.
    """
    html = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    headers = HEADERS | {"Content-Security-Policy": content_policy(html)}

    async def page(_: Request) -> Response:
        return HTMLResponse(html, headers=headers)

    async def info(_: Request) -> Response:
        index, fixed = finder.index, finder.fixed
        return _json(
            {
                "passages": await index.acount(fixed.filter),
                "tokens": index.store.schema.token_dim is not None,
                "rerank": fixed.rerank,
                "most": fixed.recall_k,
            }
        )

    async def search(request: Request) -> Response:
        check_keywords("/api/search", request.query_params, ("q", "k", "rerank"))
        query, rerank = _asked(request)
        k = _hits(request, finder.at_most(DEFAULT_HITS))
        # The candidates beyond k tell what reranking left behind.
        result = await finder.search(query, max(k, finder.fixed.recall_k), rerank)
        return _json(both_orders(result, k))

    async def explain(request: Request) -> Response:
        check_keywords("/api/explain", request.query_params, ("q", "id", "rerank", "tenant"))
        query, rerank = _asked(request)
        tenant = request.query_params.get("tenant")
        explanation = await finder.explain(query, _given(request, "id"), rerank, tenant=tenant)
        return _json(drawn(explanation))

    return Starlette(
        routes=[
            Route("/", page),
            Route("/api/info", info),
            Route("/api/search", search),
            Route("/api/explain", explain),
        ],
        middleware=[Middleware(KnownHosts, host=host)],
        exception_handlers={D2LLMError: _refuse},
    )


def content_policy(html: str) -> str:
    """Return a policy that lets a page run its own script, wear its own style, and ask its server.

    Whatever a stored text might smuggle into the page is neither run nor loaded.
    """
    own = {
        kind: " ".join(map(_digest, re.findall(rf"<{kind}>(.*?)</{kind}>", html, re.DOTALL)))
        for kind in ("script", "style")
    }
    return (
        f"default-src 'none'; script-src {own['script']}; style-src {own['style']}; "
        f"connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def both_orders(result: SearchResult, k: int) -> dict[str, Any]:
    """Return the first k hits in the order of recall and in that of reranking.

    Args:
        result: of all candidates.
        k: hits to show.
    """
    values = result.to_dict()
    for place, hit in enumerate(values["hits"], 1):
        hit["rank"] = place
    recalled = sorted(values["hits"], key=lambda hit: cast("int", hit["recall_rank"]))
    return values | {"hits": values["hits"][:k], "recall": recalled[:k], "k": k}


def drawn(explanation: Explanation) -> dict[str, Any]:
    """Return an explanation as `to_dict` does, with what the page draws of it."""
    marked = shades(explanation)
    fall = waterfall(explanation.parts)
    return explanation.to_dict() | {
        "drawing": {
            "ordered_by": HEADS[explanation.head],
            "parts": PARTS,
            "fall": asdict(fall),
            "shades": asdict(marked),
            "underlines": {
                "query": underlines(explanation.query),
                "passage": underlines(explanation.passage),
            },
            "segments": lengths([segment.match for segment in explanation.segments]),
            "attention_note": attention_note(explanation),
            "alignment_note": alignment_note(explanation),
        }
    }


def _json(values: Mapping[str, Any], status: int = 200) -> Response:
    return JSONResponse(values, status_code=status, headers=HEADERS)


async def _refuse(_: Request, error: Exception) -> Response:
    return _json({"error": str(error)}, 400 if isinstance(error, InputError) else 503)


def _asked(request: Request) -> tuple[str, Rerank | None]:
    """Return query and rerank; the search checks what they are."""
    return _given(request, "q"), cast("Rerank | None", request.query_params.get("rerank"))


def _given(request: Request, name: str) -> str:
    value = request.query_params.get(name)
    if value is None:
        raise InputError(f"{name} is missing; give it in the address, as in {name}=...")
    return value


def _hits(request: Request, default: int) -> int:
    text = request.query_params.get("k", str(default))
    if not re.fullmatch(r"[+-]?[0-9]{1,20}", text):  # `int` takes 1_0 as well
        raise InputError(f"k={text[:40]!r} must be a whole number")
    check_whole_number("k", int(text))
    return int(text)
