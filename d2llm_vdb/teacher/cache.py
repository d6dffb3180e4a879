"""Teacher scores on disk, so that no pair is ever scored twice."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from d2llm_vdb.batching import batched
from d2llm_vdb.errors import InputError
from d2llm_vdb.progress import OnCount, ignore
from d2llm_vdb.student import Task
from d2llm_vdb.teacher.base import Pair, Teacher, TeacherScores

logger = logging.getLogger(__name__)

# Pairs scored between two commits: what a kill can lose.
WINDOW_PAIRS = 512

# Seconds to wait for another training that writes to the same file.
LONGEST_WAIT = 60

# SQLite takes at most 32,766 parameters a statement.
LOOKUP_PAIRS = 10_000


class ScoreCache:
    """What a teacher said, keyed by teacher, prompt, task and pair.

    Args:
        path: a SQLite file, created where it does not exist; several teachers may share it.

    Raises:
        InputError: it is damaged, or cannot be made.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=LONGEST_WAIT)
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS scores "
                "(key BLOB PRIMARY KEY, logit REAL NOT NULL, feature BLOB NOT NULL) WITHOUT ROWID"
            )
        except (OSError, sqlite3.DatabaseError) as error:
            raise InputError(
                f"the cache of scores {path} cannot be used: {error}; delete it, or give another "
                f"directory"
            ) from error

    def score(
        self,
        teacher: Teacher,
        pairs: Sequence[Pair],
        task: Task,
        on_progress: OnCount | None = None,
    ) -> TeacherScores:
        """Return the scores of pairs, asking the teacher only for those it has not seen.

        Args:
            teacher: who is asked.
            pairs: query and passage; a pair that comes twice is asked once.
            task: which question.
            on_progress: told how many pairs more are done, cached ones included.
        """
        tell = on_progress or ignore
        identity = f"{teacher.identity} {task}"
        keys = [_key(identity, pair) for pair in pairs]
        known = self._read(keys)
        missing = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in known}
        logger.info("teacher scores: %d cached, %d to ask for", len(known), len(missing))
        tell(len(pairs) - len(missing))
        for window in batched(missing, WINDOW_PAIRS):
            known |= self._ask(teacher, window, [missing[key] for key in window], task)
            tell(len(window))
        if not keys:
            return TeacherScores(np.empty(0, np.float32), np.empty((0, 0), np.float16))
        return TeacherScores(
            np.array([known[key][0] for key in keys], np.float32),
            np.stack([np.frombuffer(known[key][1], np.float16) for key in keys]),
        )

    def _ask(
        self, teacher: Teacher, keys: list[bytes], pairs: list[Pair], task: Task
    ) -> dict[bytes, tuple[float, bytes]]:
        scores = teacher.score(pairs, task)
        features = (row.tobytes() for row in scores.feature)
        values = zip(scores.logit.tolist(), features, strict=True)
        answered = dict(zip(keys, values, strict=True))
        with self._database:
            self._database.executemany(
                "INSERT OR REPLACE INTO scores VALUES (?, ?, ?)",
                ((key, *value) for key, value in answered.items()),
            )
        return answered

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, tuple[float, bytes]]:
        return {key: (logit, feature) for key, logit, feature in self._rows(keys)}

    def _rows(self, keys: Sequence[bytes]) -> Iterator[tuple[bytes, float, bytes]]:
        for some in batched(keys, LOOKUP_PAIRS):
            marks = ",".join("?" * len(some))
            yield from self._database.execute(
                f"SELECT key, logit, feature FROM scores WHERE key IN ({marks})",  # noqa: S608
                some,
            )

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __enter__(self) -> ScoreCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _key(identity: str, pair: Pair) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for text in (identity, *pair):
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.digest()
