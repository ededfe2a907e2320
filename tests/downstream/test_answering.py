"""Questions about scenes and their balance; answers' accuracy; users' own questions; the task's targets, loss, answers and figures."""

import json
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from PIL import Image
from scene_truth import WORLD, drawn_facts, facts_of, scene

from wholegrain.data.scenes.build import make_record
from wholegrain.data.scenes.captions import say
from wholegrain.data.scenes.world import relation
from wholegrain.downstream.answering.accuracy import accuracy, normalised
from wholegrain.downstream.answering.answerer import Answerer
from wholegrain.downstream.answering.balance import Question, ask_scenes, scene_questions
from wholegrain.downstream.answering.forms import KINDS, candidates
from wholegrain.downstream.answering.measure import Answers, answer_all, result_of, wrong_first
from wholegrain.downstream.answering.reader import FolderPictures, read_questions
from wholegrain.downstream.answering.scene_facts import FoundThing, SceneFacts, clear_relation, scene_facts
from wholegrain.downstream.answering.settings import AskSettings, Decoder, VisualTokens
from wholegrain.downstream.answering.task import AskTask
from wholegrain.downstream.settings import load_settings
from wholegrain.errors import UserError
from wholegrain.towers.base import RawImage

NOUNS = frozenset(WORLD.nouns)
SMALL = Decoder(width=32, layers=1, heads=2)


# ---- facts and questions ----------------------------------------------------------------------------------------------------


def test_facts_of_a_record_are_the_scene():
    compared = several = 0
    for index in range(40):
        drawn = scene(index)
        record, _ = make_record(drawn, say(drawn, WORLD.rng("words", index)), "train", 64)
        found, true = scene_facts(record, NOUNS), facts_of(drawn, record.key)
        assert found is not None
        looks = [sorted((t.noun, t.colour, t.fill, t.size, t.count, t.centre is None) for t in facts.things) for facts in (found, true)]
        assert looks[0] == looks[1]
        several += any(thing.count > 1 for thing in found.things)
        place = {thing.noun: thing for thing in drawn.things}
        for a in found.things:
            for b in found.things:
                side = clear_relation(a, b) if a is not b else None
                if side is not None:
                    compared += 1
                    assert side == relation(place[a.noun], place[b.noun])
    assert compared > 40
    assert several > 3


def test_a_record_without_its_detail_has_no_facts():
    drawn = scene(0)
    record, _ = make_record(drawn, say(drawn, WORLD.rng("words", 0))[:1], "train", 64)
    assert scene_facts(record, NOUNS) is None
    whole, _ = make_record(drawn, say(drawn, WORLD.rng("words", 0)), "train", 64)
    assert scene_facts(whole, frozenset({"nothing"})) is None  # of another world


def test_known_answers_of_a_hand_made_scene():
    cup, hat = FoundThing("cup", "red", "striped", "large", 1, (10.0, 32.0)), FoundThing("cat", "blue", "striped", "small", 1, (50.0, 30.0))
    answer = {(c.form, c.words): c.answer for c in candidates(SceneFacts("k", (cup, hat)), ("cup", "cat", "key"), np.random.default_rng(0))}
    known = {
        ("noun", ("a cup",)): "yes", ("noun", ("a key",)): "no", ("both", ("a red cup",)): "yes", ("both", ("a blue cup",)): "no",
        ("of", ("cup",)): "red", ("of", ("small thing",)): "blue", ("of", ("red thing", "blue thing")): "left",
        ("of", ("blue thing", "red thing")): "right", ("of", ("cat", "other thing")): "right", ("all", ()): "2", ("of", ("cups",)): "1",
        ("of", ("striped things",)): "2", ("of", ("green things",)): "0", ("larger", ("blue thing", "red thing")): "red",
        ("same", ("pattern",)): "yes", ("same", ("colour",)): "no", ("same", ("size",)): "no",
    }  # fmt: skip
    assert {about: answer.get(about) for about in known} == known
    assert ("of", ("striped thing",)) not in answer  # there are two
    three = SceneFacts("k", (FoundThing("cup", "red", "solid", "small", 2), hat))
    answer = {(c.form, c.words): c.answer for c in candidates(three, ("cup", "cat"), np.random.default_rng(0))}
    assert answer["all", ()] == "3"
    assert answer["of", ("cups",)] == "2"
    assert not [about for about in answer if about[0] == "same" or "other thing" in about[1] or about[1] == ("cup",)]
    more = {words: said for (form, words), said in answer.items() if form == "more"}
    assert set(more.values()) == {"yes", "no"}
    frequent = ("red things", "small things", "solid things")
    assert all(said == ("yes" if words[0] in frequent else "no") for words, said in more.items() if "blue things" not in words[0])


@pytest.fixture(scope="module")
def many():
    return drawn_facts(500), drawn_facts(500, "other")


def best_blind(questions, learnt=None):
    """kind -> accuracy of the commonest answer to each text, learnt on the same questions or on others."""
    count = defaultdict(Counter)
    for one in learnt or questions:
        count[one.text][one.answers[0]] += 1
    right = defaultdict(list)
    for one in questions:
        right[one.kind].append(bool(count[one.text]) and count[one.text].most_common(1)[0][0] == one.answers[0])
    return {kind: (float(np.mean(hits)), len(hits)) for kind, hits in right.items()}


def test_no_answer_to_a_text_alone_is_right_more_often_than_chance(many):
    questions, others = (ask_scenes(facts, sorted(NOUNS), 400) for facts in many)
    chance = {kind: np.mean([one.chance for one in questions if one.kind == kind]) for kind in KINDS}
    blind = best_blind(questions)
    assert set(blind) == set(KINDS)
    assert all(count > 150 for _, count in blind.values())
    for kind, (value, _) in blind.items():
        assert value == pytest.approx(chance[kind])  # by count, on the very same questions
    for kind, (value, count) in best_blind(questions, others).items():
        assert value <= chance[kind] + 3 * (0.25 / count) ** 0.5
    # without balance it would be far above
    raw = [Question(f"{n}", facts.key, " ".join(c.asked[2]), (c.answer,), c.kind) for n, facts in enumerate(many[0])
           for c in candidates(facts, sorted(NOUNS), np.random.default_rng(n)) if c.form in ("of", "both")]  # fmt: skip
    assert best_blind(raw)["count"][0] > chance["count"] + 0.2
    assert best_blind(raw)["exists"][0] > 0.8


def test_questions_are_true_whole_blocks_and_a_function_of_the_seed(many):
    facts = many[0]
    first = ask_scenes(facts, sorted(NOUNS), 100)
    assert first == ask_scenes(facts, sorted(NOUNS), 100)
    assert first != ask_scenes(facts, sorted(NOUNS), 100, seed=1)
    assert len({one.item for one in first}) == len(first)
    assert max(Counter(one.kind for one in first).values()) <= 100
    by_key = {one.key: one for one in facts}
    counts = defaultdict(Counter)
    for one in first:
        counts[one.text][one.answers[0]] += 1
        colour = next((c for c in ("red", "teal") if one.text == f"is anything {c} ?"), None)
        if colour:
            assert one.answers == ("yes" if by_key[one.key].count(colour=colour) else "no",)
        if one.text == "how many things are there ?":
            assert one.answers == (str(by_key[one.key].total),)
    assert all(len(set(count.values())) == 1 and len(count) >= 2 for count in counts.values())
    assert len({one.text.split()[0] for one in first if one.kind == "exists"}) > 1  # wordings
    with pytest.raises(UserError, match=r"no balanced question of the kind 'exists'.*draw more"):
        ask_scenes(facts[:1], sorted(NOUNS), 10)


def test_other_data_cannot_be_asked_about(scenes, tmp_path):
    from tiny_training import make_dataset

    with pytest.raises(UserError, match="no scenes to ask about"):
        scene_questions(make_dataset(tmp_path / "halves", count=4), "train", 10)
    with pytest.raises(UserError, match="no split 'nothing'"):
        scene_questions(scenes, "nothing", 10)
    assert {one.key for one in scene_questions(scenes, "train", 50, kinds=("exists",))} <= set(scenes.keys("train"))


# ---- when an answer is right ------------------------------------------------------------------------------------------------


def test_soft_accuracy_is_the_mean_over_people_left_out():
    rng = np.random.default_rng(0)
    for _ in range(50):
        answers = rng.choice(["red", "The blue.", "two"], size=int(rng.integers(4, 12))).tolist()
        for given in ("Red", "blue", "2", "green"):
            want = 0.0
            for n in range(len(answers)):
                matches = 0
                for m, other in enumerate(answers):
                    if m != n and {"red": "Red", "The blue.": "blue", "two": "2"}[other] == given:
                        matches += 1
                want += min(matches / 3, 1) / len(answers)
            assert accuracy(given, answers) == pytest.approx(want)
    ten = [0, 0.3, 0.6, 0.9, 1, 1]  # of ten people so many agree
    assert [accuracy("yes", ["yes"] * n + ["no"] * (10 - n)) for n in range(6)] == pytest.approx(ten)
    assert [accuracy("yes", ["no"] * (n - 1) + ["yes"]) for n in (1, 2, 3)] == [1, 1, 1]
    assert normalised("A red, striped cup!") == normalised("red striped cup")
    assert normalised("cup") != normalised("cups")


# ---- users' own questions ---------------------------------------------------------------------------------------------------


def lines(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((8, 8, 3), 90, dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def test_questions_of_files(folder):
    said = [{"answer": "red", "answer_id": n} for n in range(10)]
    found = read_questions(lines(folder / "q.jsonl", {"picture": "a.png", "question": "what ?", "answer": " red "},
        {"image": "b.png", "question": "which ?", "answers": said, "kind": "vqa", "question_id": 77}), folder)  # fmt: skip
    assert found == [Question("1", "a.png", "what ?", ("red",)), Question("77", "b.png", "which ?", ("red",) * 10, "vqa")]
    (folder / "q.csv").write_text("picture,question,answers,id\na.png,what ?,red|dark red,x\n")
    assert read_questions(folder / "q.csv", folder) == [Question("x", "a.png", "what ?", ("red", "dark red"))]
    one = FolderPictures(folder, (folder / "q.csv",), ["a.png"])
    assert one.pixels("a.png").shape == (8, 8, 3)
    Image.fromarray(np.full((8, 8, 3), 91, dtype=np.uint8)).save(folder / "a.png")
    assert FolderPictures(folder, (folder / "q.csv",), ["a.png"]).content_hash != one.content_hash


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "q", "answer": "a"}, "no picture or image in row 1"),
        ({"picture": "a.png", "answer": "a"}, "no question in row 1"),
        ({"picture": "a.png", "question": "q"}, "no answer or answers in row 1"),
        ({"picture": "a.png", "question": 3, "answer": "a"}, "The question of row 1"),
        ({"picture": "../a.png", "question": "q", "answer": "a"}, "no file below a folder"),
        ({"picture": "c.png", "question": "q", "answer": "a"}, "c.png is not there"),
        ({"picture": "a.png", "question": "q", "answers": []}, "The answers of row 1"),
        ({"picture": "a.png", "question": "q", "answers": ["a", 3]}, "The answers of row 1"),
        ({"picture": "a.png", "question": "q", "answer": "a", "kind": [1]}, "The kind of row 1"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_by_row_and_field(folder, row, said):
    with pytest.raises(UserError) as caught:
        read_questions(lines(folder / "q.jsonl", row), folder)
    assert said in str(caught.value)
    assert "q.jsonl" in str(caught.value)


def test_files_that_are_no_questions(folder):
    (folder / "none.jsonl").write_text("\n")
    (folder / "odd.jsonl").write_text("{")
    same = {"picture": "a.png", "question": "q", "answer": "a", "id": "x"}
    for path, said in ((folder / "none.jsonl", "no questions"), (folder / "odd.jsonl", "line 1"), (lines(folder / "t.jsonl", same, same), "row 2.*taken")):
        with pytest.raises(UserError, match=said):
            read_questions(path, folder)


# ---- the task ---------------------------------------------------------------------------------------------------------------

COLOURS = ("red", "blue", "green")


class Given:
    """Pictures whose tokens are known: what the measuring needs of :class:`TowerTokens`."""

    def __init__(self, token):
        self.token = token

    def keep(self, keys, say, cache=None):
        pass

    def raw(self, keys):
        patches = torch.stack([self.token[key] for key in keys])
        return RawImage(patches.mean(1), patches, None, (1, patches.shape[1]))

    def batches(self, keys, batch, show):
        for start in range(0, len(keys), batch):
            yield keys[start : start + batch], self.raw(keys[start : start + batch])


@pytest.fixture(scope="module")
def taught():
    """A head that has learnt which of three colours the second token of a picture is."""
    torch.manual_seed(0)
    token = {f"{c}{n}": torch.stack([torch.randn(8), 3.0 * torch.eye(8)[c]]) for c in range(3) for n in range(8)}
    questions = [Question(key, key, text, (COLOURS[int(key[0])],), "colour", 1 / 3) for key in token for text in ("what colour ?", "and which colour is it ?")]
    questions = [Question(f"{n}", one.key, one.text, one.answers, one.kind, one.chance) for n, one in enumerate(questions)]
    task = AskTask(AskSettings(decoder=SMALL), questions)
    from wholegrain.downstream.answering.answerer import make_answerer

    head, given, rng = make_answerer(SMALL, VisualTokens(), task.words, 8), Given(token), np.random.default_rng(0)
    optimiser = torch.optim.AdamW(head.parameters(), lr=5e-3)
    for _ in range(60):
        batch = [questions[n] for n in rng.integers(len(questions), size=16)]
        term = task.loss(head, given.raw([one.key for one in batch]), task.targets(batch, [rng] * 16))["answer"]
        optimiser.zero_grad()
        (term.total / term.count).backward()
        optimiser.step()
    return head.eval(), task, given, questions


def test_a_head_learns_from_the_picture_and_is_at_chance_without(taught):
    head, _, given, questions = taught
    answers = answer_all(head, given, questions, 4, batch=10)
    result = result_of(questions, answers)
    assert result.figure("accuracy").value > 0.9
    blind = result.figure("accuracy_question_only")
    assert blind.value <= blind.chance + 1e-9 == pytest.approx(1 / 3)  # the same to all pictures of a text
    assert len({(one.text, said) for one, said in zip(questions, answers.blind, strict=True)}) == 2
    assert result.figure("accuracy").shuffled < 0.7
    assert result.figure("colour/accuracy").count == len(questions)
    assert result.items["answer"].to_pylist() == answers.given
    assert result.items["right"].to_pylist() == [one.answers[0] for one in questions]
    assert isinstance(head, Answerer)


def test_an_answer_is_the_same_in_any_batch(taught):
    head, _, given, questions = taught
    mixed = questions[:7]
    visual = head.sees(given.raw([one.key for one in mixed]))
    together = head.answers(visual, [one.text for one in mixed], 4)
    alone = [head.answers(visual[n : n + 1], [one.text], 4)[0] for n, one in enumerate(mixed)]
    assert len({len(one.text) for one in mixed}) > 1
    assert together == alone


def test_targets_ask_for_the_answer_and_its_end_alone():
    questions = [Question("1", "k", "is there a cup ?", ("yes",)), Question("2", "k", "what ?", ("dark red", "blue"))]
    task = AskTask(AskSettings(decoder=SMALL), questions)
    targets = task.targets(questions, [np.random.default_rng(0) for _ in questions])
    said = {tuple(row[row != -100].tolist()) for row in targets.wanted_BL}
    words = task.words
    assert tuple(words.answer("yes")) in said
    assert said - {tuple(words.answer("yes"))} <= {tuple(words.answer(answer)) for answer in questions[1].answers}
    for one, text, wanted in zip(questions, targets.text_BL, targets.wanted_BL, strict=True):
        first = int((wanted != -100).nonzero()[0])
        assert text[: first + 1].tolist() == words.question(one.text)
        inside = (wanted != -100).nonzero()[:-1, 0]
        assert torch.equal(wanted[inside], text[inside + 1])  # the next token
    drawn = {task.targets(questions[1:], [np.random.default_rng(n)]).wanted_BL.shape[1] for n in range(8)}
    assert len(drawn) == 2  # both answers are drawn
    assert words.texts([words.answer("dark red") + words.ids("blue")]) == ["dark red"]
    assert words.question("is there a GARGOYLE ?")[3] == words.tokenizer.unk_token_id


def test_wrong_ones_come_first():
    questions = [Question(f"{n}", "k", "q", ("yes",), "ab"[n % 2]) for n in range(12)]
    answers = Answers(["no" if n in (1, 4, 5, 9) else "yes" for n in range(12)], [""] * 12, None)
    order = list(wrong_first(questions, answers, 0))
    assert sorted(order[:4]) == [1, 4, 5, 9]
    assert {questions[n].kind for n in order[:2]} == {"a", "b"}  # the kinds in turn
    assert sorted(order) == list(range(12))


def test_settings_are_held_to_their_ranges():
    for override, said in (
        ('--data.kinds=["exits"]', "data.kinds"), ("--tokens.layer=first", "tokens.layer"), ("--decoder.width=30", "decoder.width"),
        ("--decoder.prompt={question}", "decoder.prompt"), ('--tokens.parts=["patches","patches"]', "tokens.parts"), ("--data.questions=0", "data.questions"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            load_settings("ask", AskSettings, None, [override])
    with pytest.raises(UserError, match="last, unless the patches"):
        load_settings("ask", AskSettings, None, ["--tokens.layer=penultimate", '--tokens.parts=["patches","pooled"]'])
    assert load_settings("ask", AskSettings).decoder.parts == ("", " ", "")
