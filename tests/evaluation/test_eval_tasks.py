"""Encoding, the branch x role matrix, classification, linear probe, and the suite that runs them."""

import numpy as np
import pytest
import torch
from eval_fakes import FakeDataset, FakeModel, caption, encoded, record, vector

from wholegrain.errors import UserError
from wholegrain.evaluation.features.encode import encode_keys, encode_texts
from wholegrain.evaluation.features.split import encode_split
from wholegrain.evaluation.suite import EvaluationOptions, evaluate, expand
from wholegrain.evaluation.tasks.branches import branches, specialisation
from wholegrain.evaluation.tasks.linear_probe import fit_logistic, linear_probe
from wholegrain.evaluation.tasks.zero_shot import zero_shot
from wholegrain.features import TextFeatures

QUIET = EvaluationOptions(progress=False)


def small_data():
    same = caption("the same words")
    return FakeDataset(
        [record(n, [same, caption(f"only {n}" + "!" * n, "detail")]) for n in range(5)] + [record(9, ["x"], split="train")]
    )


# --- encoding ---------------------------------------------------------------------------------------------------------


def test_split_features_belong_to_their_images_and_texts():
    model, data = FakeModel(vector, vector), small_data()
    found = encode_split(model, data, batch=2)
    assert found.keys == tuple(data.keys("test"))
    for b, key in enumerate(found.keys):
        assert torch.equal(found.image.pooled_BD[b], vector(key))
    for n, text in enumerate(found.texts):
        assert torch.equal(found.text.pooled_ND[n], vector(text))
    assert found.owner_N.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert found.role_N[:2] == ("web", "detail")


def test_each_distinct_text_is_encoded_once_in_batches_of_like_length():
    model, data = FakeModel(vector, vector), small_data()
    encode_split(model, data, batch=1)  # four texts a step
    seen = [text for call in model.tokenizer.calls for text in call]
    assert len(seen) == len(set(seen)) == 6
    assert [len(t) for t in seen] == sorted(len(t) for t in seen)
    again = encode_texts(model, ["b", "a", "b"])
    assert torch.equal(again.pooled_ND, torch.stack([vector("b"), vector("a"), vector("b")]))


def test_known_features_are_not_made_again():
    model, data = FakeModel(vector, vector), small_data()
    known = encode_split(model, data)
    decoded, calls = data.decoded, len(model.tokenizer.calls)
    image = encode_keys(model, data, ["key00003", "key00009", "key00003"], known=known)
    assert data.decoded == decoded + 1
    assert torch.equal(image.pooled_BD, torch.stack([vector("key00003"), vector("key00009"), vector("key00003")]))
    text = encode_texts(model, ["only 0", "new", "the same words"], known=known)
    assert model.tokenizer.calls[calls:] == [["new"]]
    assert torch.equal(text.pooled_ND, torch.stack([vector("only 0"), vector("new"), vector("the same words")]))


def test_the_model_is_put_back_into_training_and_features_can_be_changed():
    model = FakeModel(vector, vector)
    model.training = True
    found = encode_split(model, small_data())
    assert model.training
    found.image.pooled_BD.add_(1)  # an inference tensor would refuse


def test_the_cache_is_read_for_the_same_model_and_data_only(tmp_path):
    data = small_data()
    first = encode_split(FakeModel(vector, vector), data, cache=tmp_path)
    decoded = data.decoded
    second = encode_split(FakeModel(vector, vector), data, cache=tmp_path)
    assert data.decoded == decoded
    assert torch.equal(first.text.pooled_ND, second.text.pooled_ND)
    assert torch.equal(first.image.pooled_BD, second.image.pooled_BD)
    encode_split(FakeModel(vector, vector, content_hash="other"), data, cache=tmp_path)
    assert data.decoded > decoded
    assert not list(tmp_path.glob(".*"))


def test_token_features_are_padded_together():
    class Reader(FakeModel):
        def encode_texts(self, tokens_NL, length_N, needs=frozenset()):
            mask = torch.arange(tokens_NL.shape[1])[None] < length_N[:, None]
            return TextFeatures(torch.ones(len(tokens_NL), 4), tokens_NL[..., None].float(), mask)

    found = encode_texts(Reader(vector, vector), ["ab", "abcd", "a"], batch=1)
    assert found.mask_NL.sum(1).tolist() == [2, 4, 1]
    assert found.tokens_NLD[0, :2, 0].tolist() == [97, 98]


def test_an_unknown_split_is_named():
    with pytest.raises(UserError, match=r"no split 'val'.*test, train"):
        encode_split(FakeModel(vector, vector), small_data(), "val")


# --- branches ---------------------------------------------------------------------------------------------------------


def branch_case(count=60, separate=True):
    """Branch 0 holds what the details say, branch 1 what the overviews say."""
    eye = torch.eye(2 * count)
    detail, overview = eye[:count], eye[count:]
    views = torch.stack([detail, overview], 1) if separate else torch.stack([detail + overview] * 2, 1)
    owner = torch.arange(count).repeat(2)
    return encoded(
        views.mean(1), torch.cat([detail, overview]), owner, roles=["detail"] * count + ["overview"] * count, branches=views
    )


def test_each_role_finds_its_branch():
    found = branches(branch_case())
    metrics = found.metrics
    assert metrics["detail/branch_0_recall@1"] == metrics["overview/branch_1_recall@1"] == 1
    assert metrics["detail/branch_1_recall@1"] < 0.1
    assert metrics["detail/mean_recall@1"] == 1
    assert metrics["detail/specialisation"] == pytest.approx(0.5, abs=0.02)
    assert found.figure("detail/specialisation").low > 0.4
    assert found.figure("detail/branch_0_recall@1").chance == pytest.approx(1 / 60)
    assert found.figure("detail/branch_0_recall@1").shuffled < 0.2


def test_equal_branches_do_not_specialise():
    found = branches(branch_case(separate=False))
    assert found.metrics["detail/specialisation"] == 0
    rng = np.random.default_rng(0)
    noise = [specialisation((rng.random((400, 5)) < 0.5).astype(float), np.arange(400) % 2).mean() for _ in range(200)]
    assert np.mean(noise) == pytest.approx(0, abs=0.006)  # the plain maximum would be about 0.03 too good


def test_a_single_vector_model_has_one_row():
    case = branch_case()
    names = branches(encoded(case.image.pooled_BD, case.text.pooled_ND, case.owner_N, roles=case.role_N)).metrics
    assert "detail/single_recall@1" in names
    assert not any("branch_" in name or "specialisation" in name for name in names)


# --- classification ---------------------------------------------------------------------------------------------------

CLASSES = ("cup", "hand", "star")


def labelled_data(count=30, splits=("test",), classes=CLASSES):
    n, records = 0, []
    for split in splits:
        for _ in range(count):
            records.append(record(n, ["x"], split=split, label=classes[n % len(classes)]))
            n += 1
    return FakeDataset(records)


def sees_labels(data, noise=0.3):
    return lambda key: vector(data.record(key).label) + noise * vector(key)


def reads_labels(text):
    return vector(next((c for c in CLASSES if c in text), text))


def test_zero_shot():
    data = labelled_data()
    found = zero_shot(FakeModel(sees_labels(data), reads_labels), data)
    assert found.metrics["acc1"] == found.metrics["mean_per_class_recall"] == 1
    assert found.figure("acc1").chance == pytest.approx(1 / 3)
    assert found.figure("acc1").shuffled == pytest.approx(1 / 3, abs=0.3)
    assert found.figure("acc5").value == found.figure("acc5").chance == 1
    constant = zero_shot(FakeModel(lambda key: torch.ones(8), lambda text: torch.ones(8)), data)
    assert constant.metrics["acc1_expected"] == pytest.approx(1 / 3)
    assert constant.metrics["mean_per_class_recall"] == pytest.approx(1 / 3)
    assert constant.metrics["acc1"] == 0


def test_mean_per_class_weighs_classes_not_images():
    data = FakeDataset([record(n, ["x"], label="cup" if n < 9 else "star") for n in range(10)])
    always_cup = FakeModel(lambda key: vector("cup"), reads_labels)
    found = zero_shot(always_cup, data)
    assert found.metrics["acc1"] == 0.9
    assert found.metrics["mean_per_class_recall"] == 0.5


def test_templates_are_averaged_as_unit_vectors():
    data = labelled_data(6)

    def text_of(text):  # the loud template would drown the quiet one if its vector were not made unit first
        return 100 * vector("noise" + text) if text.startswith("loud") else reads_labels(text)

    assert zero_shot(FakeModel(sees_labels(data), text_of), data, templates=("a {}", "b {}", "loud {}")).metrics["acc1"] == 1
    with pytest.raises(UserError, match=r"\{\}"):
        zero_shot(FakeModel(vector, vector), data, templates=("a photo",))
    with pytest.raises(UserError, match="labels"):
        zero_shot(FakeModel(vector, vector), small_data())


def test_logistic_regression_is_at_its_minimum():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 3, generator=g), torch.randint(0, 2, (200,), generator=g)
    x[:, 0] += 2.0 * y
    l2 = 0.1
    scores = fit_logistic(x, y, 2, l2)
    z = ((x - x.mean(0)) / x.std(0, correction=0)).requires_grad_()
    # gradient of the objective in the weights: z^T (p - onehot) / n + l2 W, with W read back from the scores
    with torch.no_grad():
        p = scores(x).softmax(1) - torch.nn.functional.one_hot(y, 2)
        base = scores(x.mean(0)[None])
        weight = scores(x.mean(0)[None] + torch.diag(x.std(0, correction=0))) - base
        gradient = z.T @ p / 200 + l2 * weight
    assert gradient.abs().max() < 1e-3
    assert p.mean(0).abs().max() < 1e-3


def test_linear_probe():
    data = labelled_data(60, ("train", "test"))
    found = linear_probe(FakeModel(sees_labels(data, 1.0), vector), data)
    assert found.metrics["acc1"] > 0.9
    assert found.figure("acc1").shuffled < 0.6
    constant = linear_probe(FakeModel(lambda key: torch.ones(8), vector), data).figure("acc1")
    assert constant.value == pytest.approx(constant.chance) == pytest.approx(1 / 3)
    with pytest.raises(UserError, match="another split"):
        linear_probe(FakeModel(vector, vector), data, "train")


# --- suite ------------------------------------------------------------------------------------------------------------


def test_the_suite_runs_what_it_can_and_says_what_it_cannot():
    data, reasons = small_data(), {}
    results = evaluate(FakeModel(vector, vector), data, QUIET, left_out=reasons)
    assert [r.task for r in results] == ["retrieval", "branches"]
    assert set(reasons) == {"composition", "hard_positives", "negatives", "grounding", "zero_shot", "linear_probe"}
    assert "twins" in reasons["composition"]
    for result in results:
        for figure in result.figures:
            assert figure.low <= figure.value <= figure.high
            assert figure.count > 0
        assert result.protocol.endswith(".")


def test_images_are_decoded_once_for_all_tasks():
    data = labelled_data()
    evaluate(FakeModel(sees_labels(data), reads_labels), data, QUIET, tasks="retrieval,zero_shot")
    assert data.decoded == 30


def test_same_seed_same_result_and_settings_reach_their_task():
    data = small_data()
    first, again = (
        evaluate(FakeModel(vector, vector), data, EvaluationOptions(seed=3, progress=False), tasks=("retrieval",))[0] for _ in range(2)
    )
    assert first == again
    single = evaluate(
        FakeModel(vector, vector), data, QUIET, tasks="retrieval", settings={"retrieval": {"one_caption": True}}
    )[0]
    assert single.figure("image_retrieval_recall@1").count == 5
    with pytest.raises(UserError, match="settings for zero_shot"):
        evaluate(FakeModel(vector, vector), data, QUIET, tasks="retrieval", settings={"zero_shot": {}})


def test_names_are_checked():
    assert expand("compositional,retrieval,negatives") == ("composition", "hard_positives", "negatives", "retrieval")
    with pytest.raises(UserError, match="'recall'"):
        expand("recall")
    with pytest.raises(UserError, match="No task"):
        evaluate(FakeModel(vector, vector), small_data(), QUIET, tasks="grounding")


def test_a_model_that_refuses_patches_is_left_out_of_grounding_alone():
    class Pooled(FakeModel):
        def encode_images(self, pixels_BCHW, needs=frozenset()):
            if "patches" in needs:
                raise UserError("this tower has no patches")
            return super().encode_images(pixels_BCHW, needs)

    regions = [((0, 0, 8, 8), "cup", ()), ((8, 8, 16, 16), "star", ())]
    data, reasons = FakeDataset([record(n, [f"x {n}"], regions=regions) for n in range(3)]), {}
    results = evaluate(Pooled(vector, vector), data, QUIET, tasks="retrieval,grounding", left_out=reasons)
    assert [r.task for r in results] == ["retrieval"]
    assert reasons == {"grounding": "this tower has no patches"}
