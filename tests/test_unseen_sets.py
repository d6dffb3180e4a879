"""Collections that are made of what a machine carries."""

from __future__ import annotations

from pathlib import Path

import pytest
import unseen_sets

from d2llm_vdb.evaluate import RetrievalSet, load_set

FAQ = """=head1 DESCRIPTION

About files.

=head2 How do I count C<lines>?
X<lines> X<count>

With L<wc|wc(1)>, or in I<Perl>:

=over

    $. at the end

=back

=head2 Why?

Because.
"""


def test_questions_of_a_faq_and_their_answers_are_read_without_markup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "5.36" / "pod" / "perlfaq5.pod"
    page.parent.mkdir(parents=True)
    page.write_text(FAQ)
    monkeypatch.setattr(unseen_sets, "PERL", tmp_path)
    assert list(unseen_sets.perl_questions()) == [
        ("How do I count lines?", "With wc(1), or in Perl: $. at the end"),
        ("Why?", "Because."),
    ]


def test_no_question_and_no_opening_comes_twice() -> None:
    opening = "These are the Python bindings of a library that draws graphs of functions."
    pairs = [
        ("a", opening + " For 3.11."),
        ("b", opening + " For 3.12."),
        ("a", "Else."),
        ("", "An answer nobody asks for."),
        ("", "Another."),
        ("c", ""),
    ]
    assert [query for query, _ in unseen_sets.distinct(pairs)] == ["a", "", ""]


def test_what_is_written_is_a_set_whose_queries_have_their_own_passage(tmp_path: Path) -> None:
    pairs = [(f"question {n}" if n % 2 else "", f"passage {n}") for n in range(20)]
    unseen_sets.write(tmp_path / "made", pairs)
    made = load_set(tmp_path / "made", "test")
    assert isinstance(made, RetrievalSet)
    assert len(made.documents) == 20
    assert len(made.queries) == 10
    for key, judged in made.qrels.items():
        assert made.documents[next(iter(judged))] == made.queries[key].replace(
            "question", "passage"
        )
