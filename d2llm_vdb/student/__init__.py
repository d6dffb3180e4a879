"""Text to tensors: the student model. Knows nothing of the database.

student        `Student`: all of it as one object
config         what it is made of, as plain values
fitting        whether a configuration fits a backbone; what an untrained student takes from samples
checkpoint     a student on disk, and its fingerprint
shipped        the students that ship with the package
convert        a student from weights that the reference code saved
foreign        such weights, sorted by the part they belong to
foreign_model  the model under them
backbone       text to token states
model_source   where a model is, how it is loaded, what it runs on
passed_over    what sentence-transformers does with a backbone, and an untrained student does not
precision      whether bfloat16 is faster on this CPU
merged         a backbone with its adapters merged, which encodes faster
short_inputs   short inputs through ONNX Runtime
onnx_export    a backbone as an ONNX model
threads        short computations on one thread
user_cache     where measurements and exported models are kept
weights        a model's weights, and those of its adapter
encoding       a stream of texts to vectors
embeddings     embeddings and recall vectors alone
arrays         what encoding returns
stored         vectors from stored ones, without the backbone
compact_recall a student that differs by compact recall vectors alone
heads          all that is trained, from token states to vectors
pma            token states to one embedding
projection     embeddings to compact vectors
segments       what each piece of a passage says
iem            interaction emulation: scores by halves
late           late interaction: scores by token states
terms          pieces of words, for BM25
words          BM25 on one scale for collections of any size
evidence       all that is known of queries and passages side by side
score          the parts that a logit adds up
calibration    logits to probabilities
pairs          scores of pairs of texts, without a store

The names below are loaded on first use: importing the package is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from d2llm_vdb.lazy import names_of

if TYPE_CHECKING:
    from d2llm_vdb.student.arrays import PassageVectors, QueryVectors
    from d2llm_vdb.student.backbone import Backbone
    from d2llm_vdb.student.config import IEMConfig, PMAConfig, StudentConfig, Task
    from d2llm_vdb.student.student import Student

__all__ = [
    "Backbone",
    "IEMConfig",
    "PMAConfig",
    "PassageVectors",
    "QueryVectors",
    "Student",
    "StudentConfig",
    "Task",
]

__getattr__ = names_of(
    __name__,
    {
        "Backbone": "backbone",
        "IEMConfig": "config",
        "PMAConfig": "config",
        "PassageVectors": "arrays",
        "QueryVectors": "arrays",
        "Student": "student",
        "StudentConfig": "config",
        "Task": "config",
    },
)
