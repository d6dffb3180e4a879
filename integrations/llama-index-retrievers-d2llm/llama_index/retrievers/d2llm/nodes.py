"""LlamaIndex nodes as passages of an index, and what an index holds as nodes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageDocument,
    ImageNode,
    IndexNode,
    MetadataMode,
    Node,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)

from d2llm_vdb.passages import Passage
from d2llm_vdb.search import Hit

# Where a passage's metadata has what its text and the user's metadata do not tell of its node. A
# user's own value of that name is kept within.
NODE_CONTENT = "_node_content"

# What is not written there. Other stores of LlamaIndex write it under the same name.
NOT_WRITTEN = frozenset({"id_", "embedding", "metadata"})

# Fields of a node that name the metadata not shown to models.
EXCLUDED_KEYS = ("excluded_llm_metadata_keys", "excluded_embed_metadata_keys")

_CLASSES: dict[str, type[BaseNode]] = {
    each.class_name(): each
    for each in (TextNode, Node, IndexNode, ImageNode, Document, ImageDocument)
}


def nodes_going_on(nodes: Sequence[BaseNode]) -> dict[str, BaseNode]:
    """Return the first nodes of documents that begin elsewhere, by the ids of those before them.

    LlamaIndex hands a long document to a store in batches, of which every one but the first is
    such; node parsers have each node name the one before it.
    """
    here = {node.node_id for node in nodes}
    first = {_document(node): node for node in reversed(nodes)}.values()
    before = [(node.prev_node, node) for node in first]
    return {
        previous.node_id: node
        for previous, node in before
        if previous is not None and previous.node_id not in here
    }


def begun_elsewhere(going_on: Mapping[str, BaseNode], stored: Iterable[Passage]) -> dict[str, int]:
    """Return how many nodes are stored of the documents that go on, by the documents' ids.

    Args:
        going_on: as `nodes_going_on` returns them.
        stored: what is stored by its ids. Of another version of the document, it is no beginning.
    """
    return {
        _document(going_on[passage.id]): passage.chunk + 1
        for passage in stored
        if _version(as_node(passage)) == _version(going_on[passage.id])
    }


def as_passages(nodes: Sequence[BaseNode], begun: Mapping[str, int]) -> Iterator[Passage]:
    """Turn nodes into passages; the text is what LlamaIndex embeds of a node.

    That is its own text and the metadata it shows to embedding models. Nodes of a document are
    numbered in the order they come; a node without one is a document by itself.

    Args:
        nodes: any.
        begun: how many nodes came before these, of documents that begin elsewhere.
    """
    given = Counter(begun)
    chunks = given + Counter(map(_document, nodes))
    for node in nodes:
        document = _document(node)
        text = node.get_content(MetadataMode.EMBED)
        yield Passage(
            id=node.node_id,
            text=text,
            metadata=node.metadata | {NODE_CONTENT: _content(node, text)},
            doc_id=document,
            chunk=given[document],
            chunks=chunks[document],
            start=getattr(node, "start_char_idx", None),
            end=getattr(node, "end_char_idx", None),
        )
        given[document] += 1


def as_node(found: Hit | Passage, hidden: Mapping[str, Any] | None = None) -> BaseNode:
    """Turn a passage into the node it was made of, or into a `TextNode` where it was none.

    Args:
        found: a hit, or a passage read back.
        hidden: metadata to add that neither LLM nor embedding model is shown; where the user's
            metadata has a key already, the user's value stays, shown as ever.
    """
    fields = _written(found)
    if fields is not None:
        # What only looks as if this store had written it is no node.
        with suppress(TypeError, ValueError, AttributeError):
            metadata = dict(found.metadata)
            if NODE_CONTENT in fields:
                metadata[NODE_CONTENT] = fields.pop(NODE_CONTENT)
            else:
                del metadata[NODE_CONTENT]
            return _node(found, fields, metadata, hidden or {})
    metadata = dict(found.metadata)
    return _node(found, _plain(found, metadata), metadata, hidden or {})


def beside(hit: Hit) -> dict[str, Any]:
    """Return what a search tells of a hit beside its scores: why it is degraded, and its window."""
    told: dict[str, Any] = {}
    if hit.degraded is not None:
        told["degraded"] = hit.degraded
    if hit.before or hit.after:
        told["window"] = "\n\n".join([*hit.before, hit.text, *hit.after])
    return told


def _written(found: Hit | Passage) -> dict[str, Any] | None:
    """Return the fields that this store wrote of a node; None where there are none of its own."""
    try:
        fields = json.loads(found.metadata[NODE_CONTENT])
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(fields, dict) or not isinstance(fields.get("class_name"), str):
        return None
    return None if NOT_WRITTEN & fields.keys() else fields


def _node(
    found: Hit | Passage,
    fields: dict[str, Any],
    metadata: dict[str, Any],
    hidden: Mapping[str, Any],
) -> BaseNode:
    added = {key: value for key, value in hidden.items() if key not in metadata}
    for name in EXCLUDED_KEYS:
        fields[name] = [*fields.get(name, []), *added]
    kind = _CLASSES.get(fields["class_name"], TextNode)
    if issubclass(kind, TextNode):
        fields.setdefault("text", found.text)
    return kind.from_dict(fields, id_=found.id, metadata=added | metadata)


def _document(node: BaseNode) -> str:
    return node.ref_doc_id or node.node_id


def _version(node: BaseNode) -> tuple[str, str | None]:
    """Return a node's document, and the hash of what that held."""
    source = node.source_node
    return _document(node), None if source is None else source.hash


def _content(node: BaseNode, embedded: str) -> str:
    left_out = {*NOT_WRITTEN}
    if not isinstance(node, TextNode) or node.text == embedded:
        left_out.add("text")
    fields = node.model_dump(mode="json", exclude=left_out, exclude_defaults=True)
    if NODE_CONTENT in node.metadata:
        fields[NODE_CONTENT] = node.metadata[NODE_CONTENT]
    return json.dumps(fields, ensure_ascii=False)


def _plain(found: Hit | Passage, metadata: Mapping[str, Any]) -> dict[str, Any]:
    related = {NodeRelationship.SOURCE: found.doc_id}
    if isinstance(found, Hit):
        related[NodeRelationship.PREVIOUS] = found.previous_id
        related[NodeRelationship.NEXT] = found.next_id
    return {
        "class_name": TextNode.class_name(),
        "start_char_idx": found.start,
        "end_char_idx": found.end,
        "relationships": {
            relationship: RelatedNodeInfo(node_id=node_id)
            for relationship, node_id in related.items()
            if node_id is not None
        },
        # The text alone was embedded.
        "excluded_embed_metadata_keys": list(metadata),
    }
