"""The objective: which loss, which texts, which state, and what is said when something is missing."""

import pytest
import torch
from tiny_training import make_recipe

from wholegrain.errors import UserError
from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.clip import ClipLoss
from wholegrain.losses.cmr import CmrLoss
from wholegrain.objectives.objective import Objective, choose_terms
from wholegrain.objectives.recipe import load_recipe
from wholegrain.objectives.schema import Term

SCALE = torch.tensor(10.0)


def features(seed=0):
    """Four images; a web caption, its negative, and a phrase for each."""
    random = torch.Generator().manual_seed(seed)
    owner = torch.arange(4).repeat_interleave(3)
    first = torch.arange(0, 12, 3)
    negative_of = torch.full((12,), -1)
    negative_of[first + 1] = first
    role = torch.tensor([0, 0, 1] * 4)
    kind = torch.where(negative_of >= 0, 0, -1)
    pairing = Pairing(owner, negative_of, role, kind, torch.arange(12), torch.arange(4), ("web", "phrase"), ("swap",))
    return ImageFeatures(torch.randn(4, 8, generator=random)), TextFeatures(torch.randn(12, 8, generator=random)), pairing


def test_a_weighted_sum_with_named_parts():
    image, text, pairing = features()
    one = ClipLoss()(image, text, pairing, SCALE).value
    output = Objective([Term("clip", 2.0), Term("clip", 0.5, name="again")])(image, text, pairing, SCALE)
    torch.testing.assert_close(output.value, 2.5 * one)
    torch.testing.assert_close(output.parts["again"], one)
    assert {"clip", "again", "clip/image_to_text"} <= output.parts.keys()


def test_a_term_sees_the_texts_of_its_roles_alone():
    image, text, pairing = features()
    phrase = (pairing.role_N == 1).nonzero().squeeze(1)
    alone = ClipLoss()(image, text.select(phrase), pairing.select_texts(phrase), SCALE).value
    torch.testing.assert_close(Objective([Term("clip", roles=("phrase",))])(image, text, pairing, SCALE).value, alone)
    torch.testing.assert_close(Objective([Term("clip", roles=("-web",))])(image, text, pairing, SCALE).value, alone)
    changed = TextFeatures(text.pooled_ND + torch.where(pairing.role_N == 1, 0.0, 1.0)[:, None])
    torch.testing.assert_close(Objective([Term("clip", roles=("phrase",))])(image, changed, pairing, SCALE).value, alone)


def test_state_is_carried_saved_and_put_back():
    objective = Objective([Term("cmr")])
    image, text, pairing = features()
    image = ImageFeatures(text.pooled_ND[0::3] + 0.1 * image.pooled_BD)  # positives above negatives: the margin moves
    first = objective(image, text, pairing, SCALE)
    state = {key: value.clone() for key, value in objective.state_dict().items()}
    assert state.keys() == {"cmr/margin_K"}
    assert state["cmr/margin_K"].item() > 0
    second = objective(*features(1), SCALE).value
    direct = CmrLoss()(*features(1), SCALE, None, {"margin_K": state["cmr/margin_K"]}).value
    torch.testing.assert_close(second, direct)
    assert not torch.allclose(CmrLoss()(*features(1), SCALE, None, CmrLoss().initial_state(("swap",))).value, direct)
    fresh = Objective([Term("cmr")])
    fresh.load_state_dict(state)
    torch.testing.assert_close(fresh(*features(1), SCALE).value, second)
    assert not first.parts["cmr"].requires_grad
    with pytest.raises(UserError, match="imc/margin_K"):
        fresh.load_state_dict({"imc/margin_K": state["cmr/margin_K"]})


def test_losses_from_outside(tmp_path, monkeypatch):
    (tmp_path / "own_losses.py").write_text(
        "from dataclasses import dataclass\nfrom wholegrain.losses.clip import ClipLoss\n"
        "@dataclass(frozen=True)\nclass Double(ClipLoss):\n    factor: float = 2.0\n"
        "    def __call__(self, *a, **k):\n        from dataclasses import replace\n        o = super().__call__(*a, **k)\n"
        "        return replace(o, value=self.factor * o.value)\n"
        "def no_loss():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    plain = Objective([Term("clip")])(*features(), SCALE).value
    for name in ("own_losses:Double", "own_losses.py:Double"):
        torch.testing.assert_close(Objective([Term(name, settings={"factor": 3.0})])(*features(), SCALE).value, 3 * plain)
    for name, said in [
        ("own_losses:Tripple", 'no "Tripple"'),
        ("own_loses:Double", r"There is no module .own_loses"),
        ("own_losses:no_loss", "is not a loss"),
    ]:
        with pytest.raises(UserError, match=said):
            Objective([Term(name)])


@pytest.mark.parametrize(
    ("term", "said"),
    [
        (Term("clipp"), r'no loss "clipp".*"clip"'),
        (Term("contract"), "no loss"),
        (Term("sparc", settings={"sgima": 0.1}), r'"sgima".*"sigma"'),
    ],
)
def test_wrong_names_are_explained(term, said):
    with pytest.raises(UserError, match=said):
        Objective([term])


def test_missing_things_are_named_with_their_remedy():
    with pytest.raises(UserError, match=r'"negclip" of recipe ce_clip.*negatives.*data\.negatives\.count'):
        choose_terms(load_recipe("ce_clip"), ["web"], set())
    with pytest.raises(UserError, match=r'"text_conditioned".*roles phrase.*have web'):
        choose_terms(load_recipe("text_conditioned"), ["web"], {"patches", "tokens"})
    with pytest.raises(UserError, match=r"many_to_many.*branches"):
        choose_terms(load_recipe("holistic"), ["web"], {"patches", "tokens"})


def test_optional_terms_are_left_out_and_said():
    recipe = make_recipe("mgca")
    terms, notes = choose_terms(recipe, ["web", "style"], {"patches", "tokens"})
    assert [term.name for term in terms] == ["clip", "mgca"]
    assert len(notes) == 1
    assert "mgca_prototypes" in notes[0]


def test_the_combination_has_all_of_its_terms_or_does_not_train():
    all_there = {"patches", "tokens", "negatives", "branches"}
    terms, notes = choose_terms(load_recipe("wholegrain"), ["web", "style"], all_there)
    assert [term.name for term in terms] == ["negclip", "imc", "cmr", "text_conditioned", "many_to_many"]
    assert not notes
    with pytest.raises(UserError, match=r'"text_conditioned".*phrase, web'):
        choose_terms(load_recipe("wholegrain"), ["style"], all_there)
    with pytest.raises(UserError, match=r'"many_to_many".*branches'):
        choose_terms(load_recipe("wholegrain"), ["web"], all_there - {"branches"})
