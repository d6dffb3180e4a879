"""Disks that are full or read-only, damaged files, a directory that another process has."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from forks import processes

from d2llm_vdb.errors import StoreError
from d2llm_vdb.store import EdgeStore
from torture.corpus import Contents, Corpus, contents, make_corpus
from torture.outcome import Outcome
from torture.worker import Worker

DOCUMENTS = 120

MIB = 2**20

# In memory the holes of a file that are read take room too, 50 MiB a segment.
DISK_BYTES = 256 * MIB

# A process that the system ended because a page of a mapped file found no room.
SIGBUS = -7

SECONDS = 60

OTHER_USER = 65534


def break_disks(
    work: Path, seed: int, damages: int | None = None, *, short: bool = False
) -> list[Outcome]:
    """Break the disk beneath an ingest in every way that is to be had here.

    What is promised: an error of one line that names what is wrong and the way out, no end
    without a word, no hang; and afterwards all that was written is there, and the ingest goes on.

    Args:
        work: an empty directory.
        seed: of what is drawn.
        damages: how many files are damaged, drawn from all; None for every one.
        short: leave out what takes long and promises little.
    """
    corpus = make_corpus(work, DOCUMENTS, seed)
    database = work / "undisturbed"
    worker = Worker(corpus.arguments(corpus.first, database), work / "undisturbed.log")
    assert worker.run() == 0, worker.tail()
    expected = contents(database)
    return [
        _full(work, corpus, expected),
        *([] if short else [_filled_meanwhile(work, corpus, expected)]),
        _largest_file(work, corpus),
        _read_only(work, corpus, database),
        _held_by_another(work, corpus, expected),
        _damaged(work, corpus, expected, random.Random(seed), damages),
    ]


def _full(work: Path, corpus: Corpus, expected: Contents) -> Outcome:
    """The disk is filled while an ingest runs, and has room again."""
    outcome = Outcome("the disk is full")
    with _disk(work / "small", outcome) as disk:
        if disk is None:
            return outcome
        database = disk / "db"
        for windows, left in ((2, 40 * MIB), (1, 30 * MIB), (1, 8 * MIB)):
            worker = Worker(corpus.arguments(corpus.first, database), work / "full.log")
            if worker.until("upserting", windows):
                worker.pause()  # so that it is full at its next look, and not within a write
                _leave(disk, left)
                worker.go_on()
            _expect_error(outcome, worker, "free on its disk")
            _leave(disk, 0)
            again = Worker(corpus.arguments(corpus.first, database), work / "full.log")
            _expect_error(outcome, again, "free on its disk")
            _make_room(disk)
        _expect_whole(outcome, work, corpus, database, expected)
    return outcome


def _filled_meanwhile(work: Path, corpus: Corpus, expected: Contents) -> Outcome:
    """Another program takes the last byte just when the ingest writes: nothing can see that."""
    outcome = Outcome("another program fills the disk within a write")
    with _disk(work / "raced", outcome) as disk:
        if disk is None:
            return outcome
        database = disk / "db"
        for windows in (1, 2, 3):
            worker = Worker(corpus.arguments(corpus.first, database), work / "raced.log")
            if worker.until("upserting", windows):
                _leave(disk, 0)
            code = worker.run(SECONDS)
            outcome.count("ended by SIGBUS" if code == SIGBUS else f"ended with {code}")
            _make_room(disk)
        _expect_whole(outcome, work, corpus, database, expected)
    return outcome


def _largest_file(work: Path, corpus: Corpus) -> Outcome:
    """The system lets no file grow that large, as a quota would not."""
    outcome = Outcome("no file may grow as large as it must")
    for largest in (2 * MIB, 24 * MIB):  # of the write-ahead log's 32
        arguments = corpus.arguments(corpus.first, work / f"limited-{largest}")
        worker = Worker(arguments, work / f"limited-{largest}.log", largest_file=largest)
        _expect_error(outcome, worker, "Free some")
    return outcome


def _read_only(work: Path, corpus: Corpus, database: Path) -> Outcome:
    """The directory cannot be written to."""
    outcome = Outcome("the directory is read-only")
    with _disk(work / "fixed", outcome) as disk:
        if disk is None:
            return outcome
        _copy(database, disk / "db")
        _mount("-o", "remount,ro", disk)
        for name in ("db", "new"):
            worker = Worker(corpus.arguments(corpus.second, disk / name), work / "fixed.log")
            _expect_error(outcome, worker, "ead-only file system")
        _mount("-o", "remount,rw", disk)
        (disk / "db").chmod(0o555)
        for path in (disk / "db").rglob("*"):
            path.chmod(0o555 if path.is_dir() else 0o444)
        arguments = corpus.arguments(corpus.second, disk / "db")
        arguments += ["--rejects", str(work / "of-another-user" / "rejects")]
        (work / "of-another-user").mkdir()
        os.chown(work / "of-another-user", OTHER_USER, -1)
        worker = Worker(arguments, work / "of-another-user.log", user=OTHER_USER)
        _expect_error(outcome, worker, "ermission denied")
    return outcome


def _held_by_another(work: Path, corpus: Corpus, expected: Contents) -> Outcome:
    """A second process comes while the first one writes."""
    outcome = Outcome("a second process on the same directory")
    database = work / "held"
    first = Worker(corpus.arguments(corpus.first, database), work / "held.log")
    if first.until("upserting", 2):
        first.pause()
        rejects = ("--rejects", str(work / "second.rejects"))
        second = Worker(corpus.arguments(corpus.first, database, *rejects), work / "second.log")
        _expect_error(outcome, second, "already open")
        first.go_on()
    outcome.expect(first.run() == 0, f"the first one ended with {first.code}: {first.tail()}")
    outcome.failures += contents(database).differences(expected)
    return outcome


def _damaged(
    work: Path, corpus: Corpus, expected: Contents, draw: random.Random, damages: int | None
) -> Outcome:
    """Every file of a closed and of a killed collection is emptied, cut in half, or removed."""
    outcome = Outcome("a file is cut short or removed")
    killed = work / "killed"
    worker = Worker(corpus.arguments(corpus.first, killed), work / "killed.log")
    if worker.until("upserting", 5):
        worker.kill()
    for whole in (work / "undisturbed", killed):
        shard = whole / "d2llm" / "shard"
        files = [each.relative_to(whole) for each in shard.rglob("*") if each.stat().st_size > 1]
        files = [each for each in files if (whole / each).is_file()]
        ways = [(file, damage) for file in sorted(files) for damage in DAMAGES]
        for file, damage in ways if damages is None else draw.sample(ways, damages):
            copy = work / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            _copy(whole, copy)
            DAMAGES[damage](copy / file)
            outcome.count("files damaged")
            told = _use(copy / "d2llm", work / "used.log")
            if told is not None:
                outcome.expect("Restore" in told or whole == killed, f"{file} {damage}: {told}")
                outcome.count("after which an error says so")
            elif whole == killed:
                _count_differences(outcome, work, corpus, copy, expected)
            else:
                outcome.failures.append(f"{file} {damage}, and nothing says so")
    return outcome


def _count_differences(
    outcome: Outcome, work: Path, corpus: Corpus, database: Path, expected: Contents
) -> None:
    """Ingest into a killed collection that opens with a damaged file, and count what is not whole.

    What a kill left cannot be told from what was damaged since, but for passages that are missing.
    """
    code = Worker(corpus.arguments(corpus.first, database), work / "last.log").run(SECONDS)
    if code:
        outcome.count("after which an ingest says so")
        return
    differences = contents(database).differences(expected)
    lost = [each for each in differences if not each.startswith("vector")]
    outcome.failures += lost[:3]
    what = "an ingest brings all back" if not differences else "vectors are others, untold (killed)"
    outcome.count(f"after which {what}")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "emptied": lambda path: os.truncate(path, 0),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "removed": Path.unlink,
}


def _use(directory: Path, log: Path) -> str | None:
    """Open a collection in a process of its own and read all of it; return the error, if any."""
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=_read_all, args=(directory, sender, str(log)))
    process.start()
    sender.close()
    try:
        if not receiver.poll(SECONDS):
            process.kill()
            return "it hangs"
        told: str | None = receiver.recv()
    except EOFError:
        process.join()
        told = f"it ended with {process.exitcode}"
    process.join()
    return told


def _read_all(directory: Path, sender: object, log: str) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 2)
    try:
        store = EdgeStore.open(directory)
        try:
            Contents.of(store)
        finally:
            store.close()
    except StoreError as error:
        sender.send(str(error))  # type: ignore[attr-defined]
    except BaseException as error:  # noqa: BLE001 — no other kind is to come out
        sender.send(f"{type(error).__name__}: {error}")  # type: ignore[attr-defined]
    else:
        sender.send(None)  # type: ignore[attr-defined]


def _expect_error(outcome: Outcome, worker: Worker, named: str) -> None:
    """Expect an end with one line that names something, and with nothing raw in it."""
    before = len(worker.log.read_text()) if worker.log.exists() else 0
    try:
        code = worker.run(SECONDS)
    except TimeoutError as error:
        outcome.failures.append(str(error))
        return
    told = worker.log.read_text()[before:] if worker.log.exists() else ""
    outcome.count("errors that name it and the way out")
    outcome.expect(code in (1, 2), f"an ingest ended with {code}: {told[-500:]}")
    outcome.expect(named in told, f"{named!r} is not in: {told[-500:]}")
    for raw in ("Traceback", "panicked"):
        outcome.expect(raw not in told, f"{raw} in: {told[-500:]}")


def _expect_whole(
    outcome: Outcome,
    work: Path,
    corpus: Corpus,
    database: Path,
    expected: Contents,
    after: str = "",
) -> None:
    """Expect an ingest to go on, and everything to be there then."""
    worker = Worker(corpus.arguments(corpus.first, database), work / "last.log")
    code = worker.run(SECONDS)
    outcome.expect(code == 0, f"{after} the ingest ended with {code}: {worker.tail()}")
    if code == 0:
        differences = contents(database).differences(expected)
        outcome.count("passages lost, doubled or changed", len(differences))
        outcome.failures += [f"{after} {each}" for each in differences[:3]]


@contextmanager
def _disk(directory: Path, outcome: Outcome) -> Iterator[Path | None]:
    """Give a disk of its own, in memory; None, and a word why, where none is to be had."""
    directory.mkdir()
    try:
        _mount("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", directory)
    except (OSError, subprocess.CalledProcessError) as error:
        outcome.skipped = f"a disk of its own takes root, who may mount: {error}"
        yield None
        return
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def _copy(source: Path, target: Path) -> None:
    """Copy a directory with the holes of its files, of which it has many."""
    subprocess.run(["cp", "-a", "--sparse=always", str(source), str(target)], check=True)


def _mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


def _leave(disk: Path, left: int) -> None:
    """Fill a disk but for some bytes."""
    with (disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        while (free := shutil.disk_usage(disk).free - left) > 0:
            ballast.write(bytes(min(free, MIB)))


def _make_room(disk: Path) -> None:
    (disk / "ballast").unlink(missing_ok=True)
