"""A model between two."""

import pytest
import torch
from tiny_training import make_dataset, make_model

from wholegrain.cli import main as cli
from wholegrain.errors import UserError
from wholegrain.towers import HeadConfig, convert_head
from wholegrain.towers.interpolate import interpolate
from wholegrain.towers.io import load_model, save_model


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"), splits=("train",))


def test_the_ends_are_the_models_and_the_middle_is_their_mean(dataset):
    one, other = make_model(dataset, 1).state_dict(), make_model(dataset, 2).state_dict()
    for alpha in (0.0, 0.25, 1.0):
        found = interpolate(make_model(dataset, 1), make_model(dataset, 2), alpha).state_dict()
        for name, value in found.items():
            expected = (1 - alpha) * one[name].double() + alpha * other[name].double()
            torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
            if alpha in (0, 1):
                assert torch.equal(value, (other if alpha else one)[name])


def test_models_that_do_not_fit_are_refused(dataset):
    with pytest.raises(UserError, match=r"alpha is 1\.5 and must be between 0"):
        interpolate(make_model(dataset), make_model(dataset), 1.5)
    headed = make_model(dataset)
    convert_head(headed, HeadConfig("sparc"))
    with pytest.raises(UserError, match=r"differ at .*head.*same head"):
        interpolate(make_model(dataset), headed, 0.5)
    with pytest.raises(UserError, match="differ at"):
        interpolate(make_model(dataset), make_model(dataset, image_width=32), 0.5)


def test_the_command_writes_a_model(dataset, tmp_path, capsys):
    for seed in (1, 2):
        save_model(make_model(dataset, seed), tmp_path / str(seed))
    call = ["interpolate", str(tmp_path / "1"), str(tmp_path / "2"), str(tmp_path / "out"), "--alpha", "0.75"]
    with pytest.raises(SystemExit) as caught:
        cli.main(call)
    assert caught.value.code == 0
    assert capsys.readouterr().out.splitlines()[0] == f"written: {tmp_path / 'out'}"
    weight, one, other = (load_model(tmp_path / name).head.image.weight for name in ("out", "1", "2"))
    torch.testing.assert_close(weight, 0.25 * one + 0.75 * other)
    with pytest.raises(SystemExit) as caught:
        cli.main(call)
    assert caught.value.code == 2
    assert "is there already" in capsys.readouterr().err
