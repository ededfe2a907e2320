"""What a command says at its end: what it wrote, and what to type next, which then works."""

import shlex

import pytest
from tiny_training import make_dataset

from wholegrain.cli.evaluate import EvaluateArguments, evaluate
from wholegrain.cli.interpolate import interpolate
from wholegrain.cli.train import TrainArguments, train
from wholegrain.errors import UserError


def test_what_train_says_to_type_next_measures_the_run(tmp_path, capsys):
    data, run = make_dataset(tmp_path / "my data", splits=("train", "val")).folder, tmp_path / "run"
    train(TrainArguments("clip", (str(data),), out=run, steps=1, batch=8, quiet=True, device="cpu"))
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == str(run / "model")
    line = next(line for line in printed.err.splitlines() if "measure it with: " in line)
    words = shlex.split(line.partition("measure it with: ")[2])
    assert words == ["wholegrain", "evaluate", str(run), "--data", str(data), "--split", "val"]
    evaluate(EvaluateArguments(model=words[2], data=data, split="val", suite="retrieval"))
    assert "retrieval" in capsys.readouterr().out
    with pytest.raises(UserError, match="leave out the recipe, --data, --model"):
        train(TrainArguments(resume=run, model="base"))
    interpolate(str(run), str(run), tmp_path / "between")
    printed = capsys.readouterr()
    assert f"written: {tmp_path / 'between'}" in printed.out
    assert f"wholegrain evaluate {tmp_path / 'between'}" in printed.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["between", "latest", "my data", "run"]
