"""The command line: commands, overrides, exit codes, and one real run."""

import errno
import json
import os
import subprocess
import sys
import time

import pytest
from tiny_training import make_dataset

from wholegrain.cli import main as cli
from wholegrain.errors import MachineError, UserError
from wholegrain.objectives.recipe import load_recipe, recipe_names

QUICK = ["--steps", "4", "--batch", "8", "--quiet", "--device", "cpu", "--workers", "0"]
TINY = "small:image_size=16,patch=8,image_width=16,image_layers=1,heads=2,text_width=16,text_layers=1,width=8"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"), count=16)


def exit_of(*args):
    with pytest.raises(SystemExit) as caught:
        cli.main([str(arg) for arg in args])
    return caught.value.code


def test_help_is_quick_and_imports_little():
    command = "import sys, wholegrain.cli.main as m\ntry: m.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert time.perf_counter() - started < 5  # well under a second on an idle machine
    assert done.stdout.rstrip().endswith("False")
    assert all(name in done.stdout for name in cli.COMMANDS)


def test_version_and_unknown_names(capsys):
    assert exit_of("--version") == 0
    assert capsys.readouterr().out.startswith("wholegrain 0")
    assert exit_of("trian") == 2
    assert 'did you mean "train"' in capsys.readouterr().err
    assert exit_of("train", "clip", "--dtaa", "x") == 2
    assert "--dtaa" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (UserError("what, where, do this"), 2),
        (MachineError("the device is lost"), 1),
        (OSError(errno.ENOSPC, "No space left on device", "file"), 1),
        (KeyboardInterrupt(), 130),
        (SystemExit(143), 143),
    ],
)
def test_errors_are_one_sentence_and_an_exit_code(monkeypatch, capsys, raised, code):
    def fail(_):
        raise raised

    monkeypatch.setattr(cli, "_run", fail)
    assert exit_of("train") == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 1


def test_overrides_reach_the_command(monkeypatch):
    seen = {}

    def train(recipe: str = "", *, lr: float = 1.0, overrides: tuple[str, ...] = ()) -> None:
        """Trains."""
        seen.update(recipe=recipe, lr=lr, overrides=overrides)

    monkeypatch.setattr(cli, "function_of", lambda _: train)
    assert exit_of("train", "--recipe", "clip", "--data.negatives.count", "2", "--lr", "3", "--terms.cmr.weight=.5") == 0
    assert seen == {"recipe": "clip", "lr": 3.0, "overrides": ("--data.negatives.count", "2", "--terms.cmr.weight=.5")}


def test_a_run_from_the_command_line_and_its_resumption(dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "ce_clip", "--data", dataset.folder, "--model", TINY, "--terms.cmr.weight", "0.3", *QUICK]
    assert exit_of(*arguments, "--saving.every", "2") == 0
    model = capsys.readouterr().out.strip().splitlines()[-1]
    run = tmp_path / "runs" / "latest"
    assert (tmp_path / model).samefile(run / "model")
    recipe = (run / "recipe.toml").read_text()
    assert "weight = 0.3" in recipe
    assert "lr = 0.001" in recipe  # from scratch
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert sum("evaluation" in line for line in found) == 2  # at the end of both epochs
    assert "recall@1" in found[-1]["evaluation"]
    assert json.loads((run / "run.json").read_text())["data"] == os.path.realpath(dataset.folder)
    assert exit_of("train", "--resume", run, "--quiet", "--device", "cpu") == 0
    assert exit_of("train", "clip", "--resume", run) == 2
    assert "--resume goes on" in capsys.readouterr().err


def test_wrong_input_is_explained(dataset, tmp_path, capsys):
    assert exit_of("train") == 2
    assert "needs a recipe and --data" in capsys.readouterr().err
    assert exit_of("train", "clip", "--data", tmp_path / "none") == 2
    assert "does not exist" in capsys.readouterr().err
    assert exit_of("train", "clip", "--data", dataset.folder, "--optimiser.lrr", "1") == 2
    assert '"optimiser.lrr"' in capsys.readouterr().err
    assert exit_of("train", "clip", "--data", dataset.folder, "--model", TINY, "--batch", "99", "--out", tmp_path / "run") == 2
    assert "optimiser.batch to 16" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()  # nothing half-begun


def test_methods_lists_every_recipe(capsys):
    assert exit_of("methods") == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("ce_clip", "sparc", "holistic", "ICML", "negatives", "branches"))


def test_methods_fits_80_columns_and_cuts_no_name(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert exit_of("methods") == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert "…" not in said
    rows = [line.split()[0] for line in said.splitlines() if line and line[0] != " "]
    assert set(recipe_names()) <= set(rows)
    losses = {term.name for name in recipe_names() for term in load_recipe(name).terms}
    assert losses <= set(said.replace("?", " ").split())
    assert "wholegrain train " in said  # what to do next


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "clip", "--batchsize", "3"], "wholegrain train has no option --batchsize; did you mean --batch?"),
        (["train", "clip", "--Lr=3"], "did you mean --lr?"),
        (["inspect", "data", "--no-shet"], "did you mean --no-sheet?"),
        (["evaluate", "m", "--foo.bar", "1"], "wholegrain evaluate has no option --foo.bar"),
        (["train", "clip", "--batch", "x"], "--batch needs a whole number, not 'x'"),
        (["train", "clip", "--lr", "fast"], "--lr needs a number, not 'fast'"),
        (["train", "clip", "--seed"], "--seed needs a whole number"),
        (["enrich", "data", "--prices", "1"], "--prices needs 2 values, not '1'"),
        (["export", "a", "b", "--to", "open-clip"], '--to is not "open-clip": did you mean "open_clip"?'),
        (["audit"], "wholegrain audit needs MODEL and PHOTOS"),
        (["compete", "clip"], "wholegrain compete needs --data"),
        (["train", "clip", "sparc", "--data", "x"], '"sparc" is one word too many: wholegrain train takes RECIPE'),
        (["bench", "losses", "--rounds", "1"], "wholegrain bench losses is for developers and has left the package"),
        (["bench", "data", "--help"], "python -m benchmarks.loading"),
        (["bench", "step"], "python -m benchmarks.step"),
        (["bench"], "python -m benchmarks.losses (or"),
        (["gates"], "in a checkout of its source: PYTHONPATH=tools python -m base_model gates"),
        (["base", "models/base"], "PYTHONPATH=tools python -m base_model OUT"),
        (["--batch", "3", "train"], "There is no option --batch before a command"),
    ],
)
def test_a_command_line_that_is_wrong_is_one_sentence(capsys, arguments, says):
    assert exit_of(*arguments) == 2
    out, said = capsys.readouterr()
    assert out == ""
    assert says in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_fits_80_columns_and_says_what_is_required(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    assert exit_of(*name.split(), "--help") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: wholegrain {name} ")
    assert max(map(len, said.splitlines())) <= 80
    assert f"wholegrain {name}" in said.partition("\n\n")[2]  # an example
    assert "{None}" not in said.replace("{None}|{", "")


def test_an_error_of_the_command_itself_is_not_taken_for_a_wrong_option(monkeypatch, capsys):
    def fail(data: str) -> None:
        """Fails."""
        raise ValueError("deep inside")

    monkeypatch.setattr(cli, "function_of", lambda _: fail)
    assert exit_of("train", "--data", "x") == 70
    assert "ValueError: deep inside" in capsys.readouterr().err
