"""Hints at the options that other programs have by other names."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

# By our names. What is spelt alike needs no line here: the parser finds it by itself.
OTHER_WORDS = {
    "-k": "-n --top-k --topk --limit --num --num-results --n-results --count --size --hits",
    "--db": "--index --path --dir --directory --database --db-path --persist-directory --storage",
    "--url": "--host --server --endpoint --uri --address --qdrant-url",
    "--grpc-port": "--port",
    "--collection": "--collection-name --name --table",
    "--api-key": "--key --token --qdrant-api-key",
    "--student": "--model --model-name --embedding-model --embedder --encoder",
    "--device": "--gpu --cuda --cpu",
    "--recall-k": "--fetch-k --candidates --num-candidates --prefetch --oversampling",
    "--rerank": "--reranker --ranker --mode --scorer",
    "--filter": "--where --query-filter --metadata-filter",
    "--score-threshold": "--min-score --threshold --cutoff",
    "--hybrid": "--alpha --bm25 --sparse --lexical",
    "--mmr-lambda": "--mmr --lambda --lambda-mult --diversity",
    "--neighbours": "--neighbors --context --window",
    "--tenant": "--namespace --user --customer",
    "--hit": "--rank --result",
    "--text-field": "--text-column --content-field --page-content",
    "--id-field": "--id-column",
    "--metadata-field": "--metadata --fields --columns",
    "--chunk-tokens": "--chunk-size --max-chunk --tokens-per-chunk",
    "--overlap": "--chunk-overlap",
    "--format": "--type --kind --loader",
    "--delimiter": "--separator --sep",
    "--prune": "--sync --delete-missing --clean",
    "--doc": "--document --doc-id --file --source",
    "--all": "--everything",
    "--yes": "--force --no-confirm",
    "--into": "--target --to --new-collection",
    "--out": "--output --output-dir",
    "--dim": "--dimensions --size",
    "--json": "--output-format --format",
    "--payload-index": "--index-field",
    "--shard-number": "--shards",
    "--replication-factor": "--replicas",
    "--write-consistency-factor": "--write-consistency",
    "--work": "--cache --cache-dir",
    "--verbose": "--debug --log-level",
}


class Command(TyperCommand):
    """A command that knows its options by the names that they have elsewhere."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read arguments; of an option that there is none of, say which one is meant."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # the parser's own class has no public name
            given = getattr(error, "option_name", None)
            if hasattr(error, "possibilities"):
                own = {name for parameter in self.params for name in parameter.opts}
                meant = [our for our, others in OTHER_WORDS.items() if given in others.split()]
                error.possibilities = sorted(own.intersection(meant)) or error.possibilities
            raise
