"""An index as a model that mteb evaluates: `mteb.evaluate(IndexSearch(student), tasks)`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from qdrant_client import models

from d2llm_vdb.batching import batched
from d2llm_vdb.errors import InputError, MissingExtraError
from d2llm_vdb.evaluate.corpus import open_corpus
from d2llm_vdb.index import Index
from d2llm_vdb.passages import Passage
from d2llm_vdb.search import SearchResult
from d2llm_vdb.search.options import Rerank, SearchOptions
from d2llm_vdb.student import Student, Task

try:
    from mteb.models.model_meta import ModelMeta, ScoringFunction
except ModuleNotFoundError as error:
    raise MissingExtraError("mteb", "mteb", "evaluation by mteb") from error

if TYPE_CHECKING:
    from mteb import TaskMetadata
    from mteb.types import (
        CorpusDatasetType,
        EncodeKwargs,
        QueryDatasetType,
        RetrievalOutputType,
        TopRankedDocumentsType,
    )

# Searched at once, each with up to a thousand hits and their texts.
QUERIES_AT_ONCE = 32


class IndexSearch:
    """Ingests mteb's corpora and searches them as users do; mteb's `SearchProtocol`.

    A collection is made for every task, subset and split, and another one for "tokens". The one
    that was searched last stays open until the next one, or until `close`.

    Args:
        student: encodes and scores.
        location: where the collections are kept, as `Index.open` takes it: what is there already
            is not encoded again. None makes them in a temporary directory.
        rerank, recall_k, task, hybrid: as `SearchOptions` describes them. Reranked, a ranking
            ends after `recall_k` documents.
        name: what mteb calls the model, "organization/model"; its revision is the student's
            fingerprint, and its experiment the options.

    Raises:
        InputError: an option cannot be used.
    """

    def __init__(
        self,
        student: Student,
        location: str | os.PathLike[str] | None = None,
        *,
        rerank: Rerank = "iem",
        recall_k: int = 100,
        task: Task = "asymmetric",
        hybrid: float | None = None,
        name: str = "d2llm-vdb/student",
    ) -> None:
        self.student = student
        self.location = location
        self._options = SearchOptions(recall_k=recall_k, rerank=rerank, task=task, hybrid=hybrid)
        self.mteb_model_meta = _meta(student, self._options, name)
        self._opened = ExitStack()
        self._index: Index | None = None

    def index(
        self,
        corpus: CorpusDatasetType,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        encode_kwargs: EncodeKwargs,
        num_proc: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Ingest a corpus: titles before texts; documents without either are left out.

        Raises:
            InputError: `location` holds other documents under the task's name.
        """
        self.close()
        location = self.location
        if location is None:
            scratch = tempfile.TemporaryDirectory(prefix="d2llm-mteb-")
            location = self._opened.enter_context(scratch)
        tokens = self._options.rerank == "tokens"
        name = f"{task_metadata.name}-{hf_subset}-{hf_split}"
        texts = ((row["id"], f"{row.get('title') or ''}\n{row['text']}".strip()) for row in corpus)
        self._index = open_corpus(
            location,
            self.student,
            f"{name}-tokens" if tokens else name,
            (Passage(key, text) for key, text in texts if text),
            tokens=tokens,
        )
        self._opened.callback(self._index.close)

    def search(
        self,
        queries: QueryDatasetType,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        top_k: int,
        encode_kwargs: EncodeKwargs,
        top_ranked: TopRankedDocumentsType | None = None,
        num_proc: int | None = None,
        **kwargs: Any,
    ) -> RetrievalOutputType:
        """Search what was ingested.

        Args:
            queries: rows of "id", "text" and, in some tasks, "instruction", which follows it.
            task_metadata, hf_split, hf_subset, encode_kwargs, num_proc: not looked at.
            top_k: documents to return for a query.
            top_ranked: the only documents that count, by query; given in reranking tasks.

        Returns:
            Scores by document, by query.

        Raises:
            InputError: nothing was ingested, or a query is blank.
        """
        if self._index is None:
            raise InputError("there is no corpus to search; call index first")
        texts = {row["id"]: _query(row) for row in queries}
        if top_ranked is not None:
            return {
                key: _search_among(self._index, text, top_ranked.get(key, []), top_k, self._options)
                for key, text in texts.items()
            }
        options = self._options.cut_to(top_k)
        found: RetrievalOutputType = {}
        for some in batched(texts.items(), QUERIES_AT_ONCE):
            results = self._index.search_with([text for _, text in some], options)
            for (key, _), result in zip(some, results, strict=True):
                found[key] = _scores(result)
        return found

    def close(self) -> None:
        """Release the collection, and delete it if it is in a temporary directory."""
        self._index = None
        self._opened.close()

    def __enter__(self) -> IndexSearch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _search_among(
    index: Index, query: str, ids: Sequence[str], top_k: int, options: SearchOptions
) -> dict[str, float]:
    """Rank some documents only, however many they are."""
    if not ids:
        return {}
    among = models.Filter(must=[models.HasIdCondition(has_id=list(ids))])
    options = replace(options, k=min(top_k, len(ids)), recall_k=len(ids), filter=among)
    [result] = index.search_with([query], options)
    return _scores(result)


def _query(row: dict[str, Any]) -> str:
    text = row["text"]
    if not isinstance(text, str):
        raise InputError(
            f"query {row['id']!r} is {type(text).__name__}, not a string; leave out tasks whose "
            f"queries are conversations"
        )
    instruction = row.get("instruction")
    return f"{text} {instruction}" if instruction else text


def _scores(result: SearchResult) -> dict[str, float]:
    return {hit.id: hit.score for hit in result.hits}


def _meta(student: Student, options: SearchOptions, name: str) -> ModelMeta:
    config = student.config
    modules = (student.backbone.model, student.heads)
    return ModelMeta(
        loader=None,
        name=name,
        revision=student.fingerprint,
        release_date=None,
        languages=None,
        n_parameters=sum(each.numel() for module in modules for each in module.parameters()),
        memory_usage_mb=None,
        max_tokens=config.max_tokens,
        embed_dim=config.recall_width,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=bool(config.query_prompt or config.passage_prompt),
        training_datasets=None,
        experiment_kwargs={
            field: getattr(options, field) for field in ("rerank", "recall_k", "task", "hybrid")
        },
    )
