"""The audit: a model that knows words but no order is found out, and the page and files hold what was measured."""

from __future__ import annotations

import json

import pytest
import torch
from eval_fakes import FakeDataset, FakeModel, record, vector

from wholegrain.errors import UserError
from wholegrain.evaluation.result import Figure, load_results
from wholegrain.evaluation.statistics.blind import words
from wholegrain.report.audit_page import ScorecardRow, finding
from wholegrain.workflows.audit import AuditOptions, SplitWithQuestions, audit

COLOURS = ("white", "brown", "black")
THINGS = ("dog", "cat", "horse", "cow")


def captions() -> list[str]:
    found = []
    for n in range(48):
        one, other = COLOURS[n % 3], COLOURS[(n + 1 + n % 2) % 3]
        thing, second = THINGS[n // 3 % 4], THINGS[(n // 3 + 1 + n // 16) % 4]
        found.append(f"a {one} {thing} chases a {other} {second} .")
    return found


def bag(text: str) -> torch.Tensor:
    return torch.stack([vector(word, 256) for word in words(text)]).sum(0)


@pytest.fixture
def data() -> FakeDataset:
    return FakeDataset([record(n, [text]) for n, text in enumerate(captions())])


@pytest.fixture
def model(data) -> FakeModel:
    return FakeModel(lambda key: bag(data.record(key).captions[0].text), bag)


def test_a_bag_of_words_sees_words_and_not_who_does_what(model, data, tmp_path):
    found = audit(model, data, tmp_path, options=AuditOptions(progress=False, pictures=0))
    by_kind = {line.kind: line for line in found.lines}
    assert by_kind["attribute_colour"].verdict == by_kind["object_being"].verdict == "sees"
    assert by_kind["swap_attribute"].verdict == by_kind["swap_object"].verdict == "guesses"
    assert by_kind["swap_object"].figure.value == 0.5
    assert found.lines[0].even <= found.lines[-1].even
    said = finding(found.lines)
    unseen, seen = said.split("; it mostly sees ")
    assert all(title in unseen for title in ("“whose attribute”", "“who does it to whom”"))
    assert "“colour”" in seen
    assert 0.3 < by_kind["attribute_colour"].figure.shuffled < 0.75


def test_the_finding_names_the_weakest_where_nothing_is_unseen_and_nothing_where_questions_are_few():
    def line(title, verdict, value):
        figure = Figure(title, value, 0.0, 1.0, count=50, unit="share", chance=0.5)
        return ScorecardRow("action", title, "", figure, {}, verdict, "", value)

    part, whole, few = line("Action", "partly", 0.625), line("Who", "sees", 0.9), line("Size", "few", 0.0)
    assert finding([part, whole, few]) == "It is weakest at “action” (62.5%); it mostly sees “who”."
    assert finding([few]).startswith("There are too few questions of any kind")


def test_every_photo_is_encoded_once(model, data, tmp_path):
    seen, encode = [], model.encode_images
    model.encode_images = lambda pixels, needs=frozenset(): (seen.append(len(pixels)), encode(pixels, needs))[1]
    page = audit(model, data, tmp_path, options=AuditOptions(progress=False, pictures=0)).page
    assert sum(seen) == 48
    assert page.stat().st_size > 0


def test_files_say_the_same(model, data, tmp_path):
    found = audit(model, data, tmp_path, name="my model", options=AuditOptions(progress=False))
    page, told = found.page.read_text(), json.loads((tmp_path / "audit.json").read_text())
    assert "my model" in page
    assert all(word not in page for word in ('src="http', "http://", "@import"))
    assert [line["kind"] for line in told["scorecard"]] == [line.kind for line in found.lines]
    results, meta = load_results(tmp_path)
    assert {result.task for result in results} == {"retrieval", "negatives", "hard_positives"}
    assert meta["facts"]["photos"] == 48
    assert "no patch vectors" in page  # said, not passed over


def test_the_sample_is_drawn_and_stated(model, data, tmp_path):
    found = audit(model, data, tmp_path, options=AuditOptions(images=20, progress=False))
    assert found.facts["photos"] == 20
    assert "20 of 48 photos" in found.page.read_text()


def test_repeated_and_cut_texts_are_counted(model, tmp_path):
    data = FakeDataset([record(n, ["a red dog ." if n < 3 else f"a blue cat number {n} ."]) for n in range(6)])
    facts = audit(model, data, tmp_path, options=AuditOptions(progress=False)).facts
    assert facts["texts under several photos"] == 1
    assert facts["captions that stand under several photos"] == 3
    assert facts["most repeated"] == [["a red dog .", 3]]


def test_too_little_or_a_wrong_split_is_refused(model, data, tmp_path):
    with pytest.raises(UserError, match="at least two"):
        audit(model, FakeDataset([record(0, ["a red dog"])]), tmp_path)
    with pytest.raises(UserError, match="no split 'dev'"):
        audit(model, data, tmp_path, options=AuditOptions(split="dev"))


def test_what_is_asked_leaves_the_data_set_as_it_is(data):
    asked = SplitWithQuestions(data, "test", ["key00001"], {}, ())
    assert asked.keys("test") == ["key00001"]
    assert asked.record("key00001") == data.record("key00001")
    assert len(data.keys("test")) == 48
