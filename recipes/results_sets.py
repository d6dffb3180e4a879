"""What the default student is measured on, and what its training saw of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """A set to measure on.

    Args:
        directory: under the data.
        split: the part taken.
        queries: queries or pairs of it.
        seen: what training saw of it.
        documents: size of the corpus at most; judged ones always stay.
    """

    directory: str
    split: str
    queries: int
    seen: str
    documents: int = 4000

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.directory.replace("_v1.1/dev", "")


ENGLISH = (
    Measured("squad_v1.1/dev", "dev", 500, "its training part"),
    Measured("medquad", "test", 500, "its training part"),
    Measured("cranfield", "test", 225, "nothing"),
    Measured("xquad/en", "test", 500, "nothing; same paragraphs as SQuAD dev"),
)
CHINESE = (
    Measured("cmrc2018", "dev", 200, "nothing", 1500),
    Measured("medqa_zh_internal", "dev", 200, "nothing", 1500),
    Measured("squad_zh_dev", "train", 200, "nothing", 1500),
    Measured("xquad/zh", "test", 200, "nothing", 1500),
)
PAIRS = (
    Measured("stsb_en", "test", 1379, "its training part"),
    Measured("sick", "test", 2000, "nothing"),
    Measured("snli_sample", "test", 2000, "its training part"),
    Measured("mnli_sample", "dev", 1058, "its training part"),
    Measured("cad_nli", "test", 1997, "its training part"),
    Measured("ocnli", "dev", 1000, "nothing; Chinese"),
    Measured("snli_zh", "test", 1000, "nothing; Chinese"),
    Measured("lcqmc", "test", 1000, "nothing; Chinese"),
    Measured("afqmc", "dev", 1000, "nothing; Chinese"),
    Measured("stsb_zh", "test", 1000, "nothing; Chinese"),
)

# Of each English set: the teacher reads a hundred passages a query.
QUERIES_BESIDE_TEACHER = 100
