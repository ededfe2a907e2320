"""Captions against scenes: hand-made captions with exact counts, scenes' own captions without a fault, scores, the page's marks."""

import math
from collections import Counter

import pytest

from wholegrain.data.record import Record, Region
from wholegrain.data.scenes.build import make_record
from wholegrain.data.scenes.captions import say
from wholegrain.data.scenes.world import SPARSE, World, draw_scene
from wholegrain.downstream.captioning.claims import ClaimReader
from wholegrain.downstream.captioning.examples import CaptionExample
from wholegrain.downstream.captioning.measure import Pictures, captioning_result
from wholegrain.downstream.captioning.scene_truth import KINDS, SceneTruth, judge, truth_of
from wholegrain.downstream.captioning.scores import cider
from wholegrain.errors import UserError
from wholegrain.report.caption_page import marked

READER = ClaimReader(World())
TRUTH = SceneTruth(
    counts={"cup": 1, "sun": 1, "key": 2},
    looks={"cup": frozenset({"red", "solid", "large"}), "sun": frozenset({"blue", "dotted", "small"}), "key": frozenset({"pink", "solid", "small"})},
    background={"ground": "mint", "texture": "plain", "style": "clean"},
    centres={"cup": (10.0, 30.0), "sun": (50.0, 20.0)},
)


def faults(caption):
    """Kind -> the wrong words, of kinds that have some; and what is left out."""
    found = judge(READER(caption), TRUTH)
    return {kind: [caption[a:b] for a, b in found.wrong[kind]] for kind in KINDS if found.wrong[kind]}, set(found.left_out)


@pytest.mark.parametrize(
    ("caption", "wrong", "left_out"),
    [
        ("a large solid red cup and two small pink keys and a small dotted blue sun on a plain mint background", {}, set()),
        ("a blue cup and a sun", {"wrong_attributes": ["blue"]}, {"key"}),
        ("a small striped red cup", {"wrong_attributes": ["small", "striped"]}, {"sun", "key"}),
        ("a red anchor and a cup", {"hallucinated_objects": ["anchor"]}, {"sun", "key"}),
        ("three keys", {"wrong_numbers": ["three"]}, {"cup", "sun"}),
        ("a key", {}, {"cup", "sun"}),  # one is there, and another one
        ("two red cups", {"wrong_numbers": ["two"]}, {"sun", "key"}),
        ("the cup is left of the sun", {}, {"key"}),
        ("the cup is to the right of the sun", {"wrong_relations": ["to the right of"]}, {"key"}),
        ("a sun over a cup", {}, {"key"}),
        ("a sun under a red cup", {"wrong_relations": ["under"]}, {"key"}),
        ("a cup above a key", {}, {"sun"}),  # two keys: not judged
        ("a cup above an anchor", {"hallucinated_objects": ["anchor"]}, {"sun", "key"}),
        ("a cup on a ruled grey background", {"wrong_background": ["ruled", "grey"]}, {"sun", "key"}),
        ("a cup on a red background", {"wrong_background": ["red"]}, {"sun", "key"}),
        ("a grainy picture , plain", {"wrong_background": ["grainy"]}, {"cup", "sun", "key"}),
        ("a cup on the left", {}, {"sun", "key"}),
        ("a blue zebra and a cup", {"hallucinated_objects": ["zebra"]}, {"sun", "key"}),
        ("a picture of a blue", {}, {"cup", "sun", "key"}),
        ("blue and a cup", {}, {"sun", "key"}),  # said of nothing
        ("", {}, {"cup", "sun", "key"}),
    ],
)
def test_hand_made_captions(caption, wrong, left_out):
    assert faults(caption) == (wrong, left_out)


def test_shares_of_a_caption():
    found = judge(READER("a large blue cup left of an anchor and two keys on a plain grey background"), TRUTH).figures()
    assert found.pop("wrong_relations") != found  # an anchor has no place
    assert math.isnan(judge(READER("a cup left of an anchor"), TRUTH).figures()["wrong_relations"])
    assert found == {
        "hallucinated_objects": pytest.approx(1 / 3), "wrong_attributes": 0.5, "wrong_numbers": 0.0, "wrong_background": 0.5,
        "left_out": pytest.approx(1 / 3), "wholly_true": 0.0,
    }  # fmt: skip
    assert judge(READER("a cup"), TRUTH).figures()["wholly_true"] == 1.0
    assert judge(READER("a picture"), TRUTH).figures()["wholly_true"] == 0.0


@pytest.fixture(scope="module", params=["A", "B"])
def scenes(request):
    """Scenes with their records, without pictures drawn twice."""
    world, found = World(request.param), []
    for index in range(60):
        rng = world.rng("test", index)
        scene = draw_scene(world, rng, SPARSE, unseen=False)
        found.append((scene, make_record(scene, say(scene, rng), "test", world.size)[0]))
    return ClaimReader(world), found


def test_a_record_holds_the_scene_s_truth(scenes):
    reader, found = scenes
    for scene, record in found:
        truth = truth_of(record, reader)
        assert truth.counts == Counter(thing.noun for thing in scene.things)
        assert all(truth.looks[thing.noun] == {thing.colour, thing.fill, thing.size} for thing in scene.things)
        assert truth.background == {"ground": scene.ground, "texture": scene.texture, "style": scene.style}
        alone = {thing.noun: thing for thing in scene.things if truth.counts[thing.noun] == 1}
        assert truth.centres.keys() == alone.keys()
        for noun, (x, y) in truth.centres.items():
            assert abs(x / 64 - alone[noun].x) < 0.08
            assert abs(y / 64 - alone[noun].y) < 0.08


def test_true_captions_have_no_fault_and_another_picture_s_have(scenes):
    reader, found = scenes
    wrong = relations = 0
    for (_, record), (_, other) in zip(found, [*found[1:], found[0]], strict=True):
        truth = truth_of(record, reader)
        for caption in record.captions:
            judged = judge(reader(caption.text), truth)
            assert not any(judged.wrong.values()), caption.text
            relations += judged.judged["wrong_relations"]
        wrong += any(judge(reader(other.captions[0].text), truth).wrong.values())
    assert wrong > 50
    assert relations > 60


def test_a_false_relation_is_found(scenes):
    reader, found = scenes
    turned = 0
    for _, record in found:
        text = next((caption.text for caption in record.captions if caption.role == "relation"), None)
        if text is None:
            continue
        for one, other in ((" left of ", " right of "), (" above ", " below "), (" over ", " under ")):
            if one in text or other in text:
                false = text.replace(one, other) if one in text else text.replace(other, one)
                assert len(judge(reader(false), truth_of(record, reader)).wrong["wrong_relations"]) == 1
                turned += 1
    assert turned > 20


def test_pictures_without_a_truth():
    record = Record("k", "k.png", (4, 4), regions=(Region((0, 0, 1, 1), "a red cup"),))
    assert truth_of(record, READER) is None


def test_cider_by_hand_and_its_order():
    # "a" is in both pictures and weighs nothing; "sun" and "blue" weigh the same, so half of the unigrams agree, and no longer ones
    assert cider(["a red cup", "a blue sun"], [["a red cup"], ["a green sun"]]).tolist() == pytest.approx([7.5, 1.25])
    texts = [f"a {noun} with a {noun} near one {noun}" for noun in ("cup", "sun", "key", "moon")]
    assert cider(texts, [[text] for text in texts]).tolist() == pytest.approx([10.0] * 4)
    assert cider(texts, [[text.upper() + "."] for text in texts]).tolist() == pytest.approx([10.0] * 4)
    assert cider(["", *texts[1:]], [[text] for text in texts]).tolist()[0] == 0
    shifted = cider([*texts[1:], texts[0]], [[text] for text in texts])
    assert (shifted < 1).all()
    longer = cider([f"{texts[0]} and so on and on and on", *texts[1:]], [[text] for text in texts])[0]
    assert longer < 10 * math.exp(-(7**2) / (2 * 6**2))  # the penalty of length alone
    with pytest.raises(UserError, match="two pictures or more"):
        cider(["a cup"], [["a cup"]])


def test_a_result_tells_perfect_captions_from_wrong_ones(scenes):
    reader, found = scenes
    records = [record for _, record in found]
    details = [next(caption.text for caption in record.captions if caption.role == "detail") for record in records]
    examples = [CaptionExample(record.key, (text,)) for record, text in zip(records, details, strict=True)]
    said = [tuple(caption.text for caption in record.captions) for record in records]
    pictures = Pictures(examples, said, [truth_of(record, reader) for record in records], reader)
    blind = f"a {reader.world.nouns[0]}"
    result = captioning_result(pictures, details, blind, "By hand.")
    for name, value in {"cider": 10, "k_precision_union": 1, "hallucinated_objects": 0, "wrong_attributes": 0, "left_out": 0, "wholly_true": 1}.items():
        figure = result.figure(name)
        assert figure.value == pytest.approx(value)
        assert figure.shuffled is not None
        assert abs(figure.shuffled - value) > 0.3
        assert figure.low <= figure.value + 1e-9 <= figure.high + 2e-9
        assert figure.count == 60
    assert result.figure("hallucinated_objects").chance > 0.9
    assert result.items["caption"].to_pylist() == details
    plain = captioning_result(Pictures(examples, said), details, blind, "By hand.")
    assert [figure.name for figure in plain.figures] == ["cider", "k_precision_union", "k_precision_max"]


def test_marks_of_the_page():
    examples, text = [CaptionExample("k", ("a red cup",))], "a blue cup left of the sun, a zebra"
    scene = Pictures(examples, [("a red cup",)], [TRUTH], READER)
    parts = marked(text, scene.wrong(0, text))
    assert "".join(part.text for part in parts) == text
    assert [(part.text, part.mark) for part in parts if part.mark] == [("blue", "wrong_attributes"), ("zebra", "hallucinated_objects")]
    assert set(scene.left_out(0, text)) == {"key"}
    photo = Pictures(examples, [("a red cup",)])
    assert [part.text for part in marked(text, photo.wrong(0, text)) if part.mark] == ["blue", "left", "of", "sun", "zebra"]
    assert photo.left_out(0, text) == ()
