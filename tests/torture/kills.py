"""An ingest into an embedded collection, killed again and again."""

from __future__ import annotations

import random
import time
from pathlib import Path

from d2llm_vdb.store import EdgeStore
from torture.corpus import Corpus, contents, make_corpus
from torture.outcome import Outcome
from torture.worker import PHASES, Worker

DOCUMENTS = 240

# Windows that are encoded and not yet stored at any moment: one is written, one waits for that.
WINDOWS_IN_FLIGHT = 2

# What may pass between two events.
PATIENCE_SECONDS = 120.0


def kill_ingests(work: Path, kills: int, seed: int, documents: int = DOCUMENTS) -> Outcome:
    """Ingest two versions of a corpus, one over the other, killed at random moments of each phase.

    What is promised: nothing that was acknowledged is lost; a kill costs two windows of encoding
    at most; at the end all is as in a run that nothing disturbed.

    Args:
        work: an empty directory.
        kills: how many in all, in as many collections as that takes.
        seed: of the moments.
        documents: of the corpus.
    """
    outcome = Outcome("an embedded ingest is killed")
    draw = random.Random(seed)
    corpus = make_corpus(work, documents, seed)
    undisturbed = _Killing(outcome, draw, corpus, work / "undisturbed")
    undisturbed.finish(corpus.first)
    undisturbed.finish(corpus.second)
    expected = contents(undisturbed.database)
    outcome.figures["passages a collection"] = len(expected.payloads)
    outcome.figures["kills"] = 0
    for phase in PHASES:
        outcome.figures[f"kills while {phase}"] = 0
    while outcome.figures["kills"] < kills:
        one = _Killing(outcome, draw, corpus, work / f"collection-{outcome.figures['kills']}")
        for source in (corpus.first, corpus.second):
            one.kill_until_done(source, kills)
        differences = contents(one.database).differences(expected)
        outcome.count("collections compared")
        outcome.count("passages lost, doubled or changed", len(differences))
        outcome.failures += [f"seed {seed}, {one.database}: {each}" for each in differences[:5]]
    return outcome


class _Killing:
    """The runs of one collection."""

    def __init__(
        self, outcome: Outcome, draw: random.Random, corpus: Corpus, database: Path
    ) -> None:
        self.database = database
        self._outcome = outcome
        self._draw = draw
        self._corpus = corpus
        self._largest_window = 0

    def finish(self, source: Path) -> None:
        """Ingest, undisturbed."""
        worker = self._worker(source)
        code = worker.run(PATIENCE_SECONDS)
        self._outcome.expect(code == 0, f"an ingest ended with {code}: {worker.tail()}")

    def kill_until_done(self, source: Path, kills: int) -> None:
        """Ingest, killed until there were so many kills or a run has come to its end."""
        while self._outcome.figures["kills"] < kills:
            worker = self._worker(source)
            if not self._kill_somewhere(worker):
                self._outcome.expect(worker.code == 0, f"ended with {worker.code}: {worker.tail()}")
                return
            self._account(worker, only_new=source == self._corpus.first)
        self.finish(source)

    def _kill_somewhere(self, worker: Worker) -> bool:
        """Kill it in a phase that is drawn, if it comes to that; tell whether it did."""
        phase, times = self._draw.choice(PHASES), self._draw.choice((1, 1, 2, 3))
        if worker.until(phase, times, PATIENCE_SECONDS):
            time.sleep(self._draw.random() ** 3 * 0.3)  # most phases take some milliseconds here
            worker.kill()
        if worker.code != -9:
            return False
        self._outcome.count("kills")
        for each in worker.in_the_middle_of():
            self._outcome.count(f"kills while {each}")
        return True

    def _account(self, worker: Worker, *, only_new: bool) -> None:
        """Compare what it had encoded and what was acknowledged with what is stored.

        Of half of the kills: opening a collection mends it, which the next run is to do as well.
        """
        windows = [
            each.passages for each in worker.events if each.phase == "encoding" and each.done
        ]
        self._largest_window = max([self._largest_window, *windows])
        if not (self.database / "d2llm").exists() or self._draw.random() < 0.5 or not only_new:
            return
        store = EdgeStore.open(self.database / "d2llm")
        new = store.count() - worker.done("opening")
        store.close()
        again, bound = max(sum(windows) - new, 0), WINDOWS_IN_FLIGHT * self._largest_window
        self._outcome.count("kills after which the stored passages were counted")
        self._outcome.most("passages encoded again after one kill, at most", again)
        self._outcome.most("passages of the largest window", self._largest_window)
        self._outcome.expect(
            again <= bound, f"a kill cost {again} passages, and {bound} were in flight at most"
        )
        acknowledged = worker.done("upserting")
        self._outcome.expect(
            new >= acknowledged, f"{acknowledged} passages were acknowledged, {new} are stored"
        )

    def _worker(self, source: Path) -> Worker:
        arguments = self._corpus.arguments(source, self.database)
        return Worker(arguments, self.database.with_suffix(".log"))
