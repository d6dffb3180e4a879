"""What a student learns from, and that it learns: real texts, the real backbone, tiny LLMs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import save_causal_lm, save_decoder

from d2llm_vdb import Passage, Student
from d2llm_vdb.distill.asking import ask
from d2llm_vdb.distill.batches import Taught, gather, plan
from d2llm_vdb.distill.config import DistillConfig, LossWeights
from d2llm_vdb.distill.data import TrainingSet
from d2llm_vdb.distill.distiller import distill
from d2llm_vdb.distill.lessons import training_set
from d2llm_vdb.distill.model import DistillationModel
from d2llm_vdb.distill.negatives import mine
from d2llm_vdb.distill.plot import save_losses_plot
from d2llm_vdb.distill.states import TokenIds, TokenStates
from d2llm_vdb.distill.teach import TeachConfig, teach
from d2llm_vdb.errors import InputError
from d2llm_vdb.evaluate.rankers import StackedSegments
from d2llm_vdb.evaluate.sets import PairSet, RetrievalSet
from d2llm_vdb.progress import Progress
from d2llm_vdb.student import checkpoint
from d2llm_vdb.student.calibration import SCORERS
from d2llm_vdb.teacher import ScoreCache, TeacherScores, load_teacher

LABELS = DistillConfig(
    label_weight=1.0, steps=6, batch_queries=4, evaluate_steps=2, negatives=3, mining_depth=10
)


@pytest.fixture(scope="module")
def topics(passages: list[Passage]) -> TrainingSet:
    """The name of each topic of the language reference as the query of its text."""
    some = passages[:40]
    return TrainingSet.from_retrieval(
        "topics",
        {passage.id: passage.text for passage in some},
        {passage.id: f"what is {passage.id}?" for passage in some},
        {passage.id: {passage.id: 1} for passage in some},
    )


@pytest.fixture(scope="module")
def mined(topics: TrainingSet, student: Student) -> TrainingSet:
    return mine(topics, student, count=3, depth=10)


@pytest.fixture(scope="module")
def dev(passages: list[Passage]) -> RetrievalSet:
    some = passages[40:60]
    return RetrievalSet(
        "dev",
        "dev",
        {passage.id: passage.text for passage in some},
        {passage.id: f"what is {passage.id}?" for passage in some},
        {passage.id: {passage.id: 1} for passage in some},
    )


PAIRS = TrainingSet.from_pairs(
    "pairs",
    [
        ("a dog runs", "an animal runs", 1.0),
        ("a dog runs", "a dog sleeps", 0.0),
        ("a man sings", "someone sings", 0.8),
        ("a man sings", "nobody sings", 0.2),
        ("it rains", "water falls from the sky", 0.9),
        ("it rains", "the sun shines", 0.1),
        ("she reads", "she holds a book", 0.7),
        ("she reads", "she swims", 0.0),
    ],
)


def fresh(student: Student) -> Student:
    """A student of one's own to train: the default one, loaded again."""
    assert student.path is not None
    return Student.load(student.path, dtype="float32")


def test_judgements_above_zero_are_positives(passages: list[Passage]) -> None:
    corpus = {"a": "first", "b": "second", "c": "third"}
    made = TrainingSet.from_retrieval("x", corpus, {"q": "?"}, {"q": {"a": 0, "b": 2, "c": 1}})
    assert [made.passages[row] for row in made.positives(0)] == ["second", "third"]
    assert made.task == "asymmetric"


def test_pairs_are_grouped_by_their_first_sentence_and_texts_kept_once() -> None:
    made = TrainingSet.from_pairs("x", [("a", "b", 1), ("a", "c", 0), ("d", "b", 0.4)])
    assert made.queries == ["a", "d"]
    assert made.passages == ["b", "c"]
    assert made.candidates == [[0, 1], [0]]
    assert made.labels == [[1, 0], [0.4]]
    assert made.task == "symmetric"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainingSet.from_retrieval("x", {"a": "t"}, {"q": "?"}, {"q": {"b": 1}}), "'b'"),
        (lambda: TrainingSet.from_retrieval("x", {"a": "t"}, {}, {"q": {"a": 1}}), "'q'"),
        (lambda: TrainingSet.from_retrieval("x", {"a": "t"}, {"q": "?"}, {"q": {"a": 0}}), "no po"),
        (lambda: TrainingSet.from_pairs("x", [("a", "b", 1), ("c", "d", 1)]), "that do not"),
        (lambda: TrainingSet.from_pairs("x", [("a", "b", 5)]), "not from 0 to 1"),
    ],
)
def test_data_that_cannot_teach_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_scores_become_labels_from_0_to_1_and_only_entailment_is_a_match() -> None:
    first, second = ["a", "b", "c"], ["x", "y", "z"]
    scored = PairSet("s", "train", first, second, scores=np.array([1.0, 3.0, 5.0]))
    assert [own for [own] in training_set(scored).labels] == [0, 0.5, 1]
    labelled = PairSet("l", "train", first, second, labels=np.array([1, -1, 0], np.int8))
    assert [own for [own] in training_set(labelled).labels] == [1, 0, 0]


def test_fewer_passages_keep_every_candidate(mined: TrainingSet) -> None:
    few = mined.sample(5, seed=1).with_passages(12, seed=1)
    assert len(few) == 5
    needed = {row for rows in few.candidates for row in rows}
    assert len(few.passages) == max(12, len(needed))
    for query, rows in zip(few.queries, few.candidates, strict=True):
        before = mined.candidates[mined.queries.index(query)]
        assert [few.passages[row] for row in rows] == [mined.passages[row] for row in before]


def test_mined_negatives_are_hard_new_and_the_same_for_a_seed(
    tmp_path: Path, topics: TrainingSet, mined: TrainingSet, student: Student
) -> None:
    for row in range(len(topics)):
        assert mined.candidates[row][:1] == topics.candidates[row]
        assert len(set(mined.candidates[row])) == 4
        assert mined.labels[row] == [1.0, 0.0, 0.0, 0.0]
    told: list[int] = []
    again = mine(topics, student, count=3, depth=10, work=tmp_path, on_progress=told.append)
    assert again.candidates == mined.candidates
    other = mine(topics, student, count=3, depth=10, work=tmp_path, seed=1)
    assert other.candidates != mined.candidates
    assert sum(told) == len(topics.passages)
    assert len(list(tmp_path.iterdir())) == 1


class Judge:
    """Stands where a teacher's scores come from, with scores chosen for the test."""

    def __init__(self, probabilities: list[float]) -> None:
        clipped = np.clip(probabilities, 1e-6, 1 - 1e-6)
        self.scores = TeacherScores(
            np.log(clipped / (1 - clipped)).astype(np.float32),
            np.arange(len(probabilities), dtype=np.float16)[:, None],
        )

    def score(self, *_: Any) -> TeacherScores:
        return self.scores


def test_negatives_that_the_teacher_takes_for_positives_are_dropped(topics: TrainingSet) -> None:
    data = replace(
        topics.select([0, 1]),
        candidates=[[0, 5, 6], [1, 7]],
        labels=[[1.0, 0.0, 0.0], [1.0, 0.0]],
    )
    cache: Any = Judge([0.8, 0.79, 0.1, 0.5, 0.4])
    taught = ask(data, object(), cache, DistillConfig())  # type: ignore[arg-type]
    assert taught.data.candidates == [[0, 6], [1, 7]]
    assert taught.probability == pytest.approx([0.8, 0.1, 0.5, 0.4], abs=1e-5)
    assert taught.feature is not None
    assert taught.feature[:, 0].tolist() == [0, 2, 3, 4]


def test_labels_and_teacher_are_mixed_by_weight() -> None:
    cache: Any = Judge([0.5] * 8)
    taught = ask(PAIRS, object(), cache, DistillConfig(label_weight=0.5))  # type: ignore[arg-type]
    labels = np.array([label for own in PAIRS.labels for label in own])
    assert taught.probability == pytest.approx(0.25 + 0.5 * labels, abs=1e-5)
    alone = ask(PAIRS, None, cache, LABELS)
    assert alone.probability == pytest.approx(labels)
    assert np.isfinite(alone.logit).all()


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    batch=st.integers(2, 8),
    steps=st.integers(1, 40),
)
def test_every_planned_batch_has_distinct_queries_of_one_set(
    sizes: list[int], batch: int, steps: int
) -> None:
    drawn = plan(sizes, batch, steps, seed=0)
    assert len(drawn) == steps
    for place, rows in drawn:
        assert len(rows) == len(set(rows)) == min(batch, sizes[place])
        assert max(rows) < sizes[place]
    assert plan(sizes, batch, steps, seed=0) == drawn


def test_a_batch_has_each_querys_candidates_and_the_others_as_in_batch_negatives() -> None:
    total = sum(map(len, PAIRS.candidates))
    probability = np.linspace(0.1, 0.9, total).astype(np.float32)
    taught = Taught(PAIRS, probability, probability * 2, None)
    lists = gather(taught, [2, 0])
    assert lists.passages == [0, 1, 4, 5]
    assert lists.places.tolist() == [[2, 3], [0, 1]]
    assert lists.positive.tolist() == [[True, False], [True, False]]
    assert lists.in_batch.tolist() == [[True, True, False, False], [False, False, True, True]]
    assert torch.allclose(lists.probability[0], torch.from_numpy(probability[4:6]))
    assert torch.allclose(lists.logit, lists.probability * 2)


def test_token_states_come_from_disk_as_the_backbone_gives_them(
    tmp_path: Path, student: Student, texts: list[str]
) -> None:
    backbone, some = student.backbone, texts[:5]
    states = TokenStates.of(some, backbone, tmp_path, max_tokens=64)
    done: list[int] = []
    again = TokenStates.of(some, backbone, tmp_path, max_tokens=64, on_progress=done.append)
    assert len(list(tmp_path.iterdir())) == 1
    assert done == [5]
    model = DistillationModel(student.heads, LABELS, backbone.model)
    ids = TokenIds(some, backbone, max_tokens=64)
    with torch.inference_mode():
        live = model.encode(ids.batch([3, 0]))
    cached = again.batch([3, 0])
    assert torch.equal(cached.mask, live.mask)
    assert cached.states is not None
    assert torch.allclose(cached.states, live.states * live.mask.unsqueeze(-1), atol=5e-3)
    assert len(states) == 5


def test_other_texts_prompts_and_lengths_have_other_states(
    tmp_path: Path, student: Student
) -> None:
    for texts, options in (
        (["one text"], {"max_tokens": 16}),
        (["another"], {"max_tokens": 16}),
        (["one text"], {"max_tokens": 8}),
        (["one text"], {"max_tokens": 16, "prompt": "query: "}),
    ):
        TokenStates.of(texts, student.backbone, tmp_path, **options)
    assert len(list(tmp_path.iterdir())) == 4


def test_training_scores_pairs_as_search_does(
    tmp_path: Path, student: Student, texts: list[str]
) -> None:
    """The model trains the very functions that are searched with."""
    queries, passages = ["what is a lambda?", "how do loops end?"], texts[:6]
    read = [TokenStates.of(own, student.backbone, tmp_path, max_tokens=256) for own in
            (queries, passages)]  # fmt: skip
    model = DistillationModel(student.heads, LABELS).eval()
    with torch.inference_mode():
        query, passage = (model.encode(own.batch(range(len(own)))) for own in read)
        scores = model.score(query, passage, "asymmetric")
    [vectors] = student.encode_queries(queries)
    [stored] = student.encode_passages(passages, tokens=True)
    assert stored.tokens is not None
    assert stored.segments is not None
    assert vectors.segments is not None
    segments, halves = StackedSegments(stored.segments), stored.iem.astype(np.float32)
    for row in range(2):
        match = segments.match(vectors.segments[row])
        iem = student.iem_scores(vectors.iem[row], halves, "asymmetric", match)
        calibration = student.heads.calibration
        fresh = calibration(scores.iem[row], "asymmetric").detach().numpy()
        assert fresh == pytest.approx(iem, abs=2e-3)
        recall = stored.recall @ vectors.recall[row]
        assert scores.recall[row].numpy() == pytest.approx(recall, abs=2e-3)
        maxsim = np.array(
            [(vectors.tokens[row] @ own.astype(np.float32).T).max(axis=1).sum() for own in
             stored.tokens], np.float32,
        )  # fmt: skip
        late = student.late_scores(maxsim, recall.astype(np.float32), match)
        fresh = calibration(scores.tokens[row], "late").detach().numpy()
        assert fresh == pytest.approx(late, abs=2e-3)


def losses_of(record: list[Progress]) -> int:
    return sum(one.step == "training" for one in record)


@pytest.mark.slow
def test_a_student_learns_from_labels_and_keeps_its_best_step(
    tmp_path: Path, student: Student, topics: TrainingSet, dev: RetrievalSet
) -> None:
    told: list[Progress] = []
    start = fresh(student)
    done = distill(
        start, [topics, PAIRS], [dev], teacher=None, work=tmp_path / "work", config=LABELS,
        on_progress=told.append,
    )  # fmt: skip
    assert losses_of(told) == LABELS.steps
    assert done.record["dev_after"]["dev"] >= done.record["dev_before"]["dev"]
    assert done.record["sets"] == {"topics": 40, "pairs": 4}
    before, after = student.heads.calibration, done.student.heads.calibration
    changed = dict(zip(SCORERS, (before.log_slope != after.log_slope).tolist(), strict=True))
    # No dev set judges the symmetric task.
    assert changed == {"asymmetric": True, "symmetric": False, "late": True}
    done.student.save(tmp_path / "student", record=done.record)
    loaded = Student.load(tmp_path / "student", dtype="float32")
    assert loaded.fingerprint == done.student.fingerprint
    assert (tmp_path / "student" / checkpoint.RECORD_FILE).exists()
    save_losses_plot(done.losses, tmp_path / "losses.png")
    assert (tmp_path / "losses.png").stat().st_size > 10_000


@pytest.mark.slow
def test_frozen_heads_stay_as_they_are(
    tmp_path: Path, student: Student, topics: TrainingSet, dev: RetrievalSet
) -> None:
    frozen = ("mha_pma", "recall", "segments")
    done = distill(
        fresh(student), [topics], [dev], teacher=None, work=tmp_path,
        config=replace(LABELS, frozen=frozen),
    )  # fmt: skip
    trained = dict(done.student.heads.named_parameters())
    for name, weight in student.heads.named_parameters():
        if name.startswith(frozen):
            assert torch.equal(weight, trained[name]), name


class KilledError(Exception):
    pass


@pytest.mark.slow
def test_a_training_killed_half_way_ends_as_one_that_was_not(
    tmp_path: Path, student: Student, topics: TrainingSet, dev: RetrievalSet
) -> None:
    def run(work: Path, stop_after: int | None) -> dict[str, torch.Tensor]:
        def tell(progress: Progress) -> None:
            if progress.step == "training" and progress.done == stop_after:
                raise KilledError

        done = distill(
            fresh(student), [topics], [dev], teacher=None, work=work, config=LABELS,
            on_progress=tell,
        )  # fmt: skip
        steps = [line.split(",") for line in done.losses.read_text().splitlines()]
        assert len(steps) > 3
        return done.student.heads.state_dict()

    whole = run(tmp_path / "whole", None)
    with pytest.raises(KilledError):
        run(tmp_path / "killed", 5)
    resumed = run(tmp_path / "killed", None)
    for name, weight in whole.items():
        assert torch.allclose(resumed[name], weight, atol=1e-6), name


@pytest.mark.slow
def test_adapters_of_a_decoder_learn_with_the_heads(
    tmp_path: Path, texts: list[str], topics: TrainingSet, dev: RetrievalSet
) -> None:
    backbone = save_decoder(tmp_path / "llama", "llama", texts)
    start = Student.from_backbone(str(backbone), lora_rank=2, max_tokens=64, dtype="float32")
    before = {
        name: weight.clone()
        for name, weight in start.backbone.model.named_parameters()
        if "lora" in name
    }
    config = replace(LABELS, lora_rank=2, steps=2, lora_learning_rate=1e-2, evaluate_steps=1)
    distill(start, [topics], [dev], teacher=None, work=tmp_path / "work", config=config)
    [checkpoints] = (tmp_path / "work").glob("training-*")
    saved = max(checkpoints.glob("checkpoint-*/model.safetensors"))
    assert saved.stat().st_size < (backbone / "model.safetensors").stat().st_size
    assert before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DistillConfig(), "asks for a teacher"),
        (replace(LABELS, lora_rank=4), "make the student with the same lora_rank"),
    ],
)
def test_a_training_that_cannot_work_is_refused_before_it_starts(
    tmp_path: Path,
    student: Student,
    topics: TrainingSet,
    dev: RetrievalSet,
    config: DistillConfig,
    message: str,
) -> None:
    with pytest.raises(InputError, match=message):
        distill(student, [topics], [dev], teacher=None, work=tmp_path, config=config)
    with pytest.raises(InputError, match="0 dev sets"):
        distill(student, [topics], [], teacher=None, work=tmp_path, config=LABELS)


def test_a_configuration_is_read_from_json_and_unknown_fields_are_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"steps": 7, "weights": {"feature": 0}}')
    assert DistillConfig.read(path) == DistillConfig(steps=7, weights=LossWeights(feature=0))
    path.write_text('{"stepz": 7}')
    with pytest.raises(InputError, match="stepz"):
        DistillConfig.read(path)


@pytest.mark.slow
@pytest.mark.parametrize("lora_rank", [None, 4])
def test_a_teacher_learns_labels_and_is_loaded_as_any_other(
    tmp_path: Path, texts: list[str], lora_rank: int | None
) -> None:
    model = save_causal_lm(tmp_path / "llm", texts)
    teacher = load_teacher(str(model), dtype="float32")
    pairs = [(query, PAIRS.passages[row]) for query, rows in
             zip(PAIRS.queries, PAIRS.candidates, strict=True) for row in rows]  # fmt: skip
    labels = np.array([label for own in PAIRS.labels for label in own])

    def loss(scores: TeacherScores) -> float:
        return float(np.logaddexp(0, scores.logit).mean() - (labels * scores.logit).mean())

    before = loss(teacher.score(pairs, "symmetric"))
    config = TeachConfig(epochs=20, batch_size=4, learning_rate=1e-2, lora_rank=lora_rank)
    teach(teacher, [PAIRS], tmp_path / "taught", config, work=tmp_path / "work")
    loaded = load_teacher(str(tmp_path / "taught"), dtype="float32")
    after = loaded.score(pairs, "symmetric")
    assert loss(after) < before - 0.05
    assert after.logit == pytest.approx(teacher.score(pairs, "symmetric").logit, abs=1e-4)
    with ScoreCache(tmp_path / "scores.db") as cache:
        taught = ask(PAIRS, loaded, cache, DistillConfig())
    assert taught.probability == pytest.approx(after.probability, abs=1e-5)


def test_a_teacher_is_not_taught_from_positives_alone(
    tmp_path: Path, texts: list[str], topics: TrainingSet
) -> None:
    teacher = load_teacher(str(save_causal_lm(tmp_path / "llm", texts)), dtype="float32")
    with pytest.raises(InputError, match="mine negatives first"):
        teach(teacher, [topics], tmp_path / "out", TeachConfig(), work=tmp_path / "work")
