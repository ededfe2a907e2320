"""The commands and code of README.md and docs/photos.md are run, those of all other pages are parsed.

Run on 20 drawn pictures, with :data:`STAND_INS` in place of what must be downloaded or takes long: that is all that differs from the text.
"""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from base_model.__main__ import base, gates
from PIL import Image
from tiny_models import save_transformers, transformers_clip

from benchmarks.loading import loading
from benchmarks.losses import losses
from benchmarks.step.__main__ import step
from wholegrain.cli import main as cli
from wholegrain.cli.arguments import bind
from wholegrain.errors import UserError
from wholegrain.objectives.recipe import load_recipe, recipe_names
from wholegrain.text.trained import train_tokenizer

HOME = Path(__file__).parents[2]
PAGES = sorted([HOME / "README.md", *HOME.glob("docs/**/*.md")])
STAND_INS = {
    "ViT-B-32:openai": "tiny-clip",  # a folder with a CLIP of two small layers, saved by the test
    "MODEL": "tiny-clip",
}
FURTHER = {  # options that are added; the last of two counts
    "train": ["--steps", "2", "--batch", "4", "--quiet", "--device", "cpu"],
    "compete": ["--steps", "2", "--batch", "4"],
    "doctor": ["--optimiser.batch", "4", "--optimiser.steps", "40", "--device", "cpu"],
    "enrich": ["--workers", "1"],
    "audit": ["--pictures", "1"],
}
PARSED_ALONE = {  # why a command of the pages that are run is not
    "wholegrain demo --quick": "takes over a minute",
    "wholegrain explore base": "serves until it is stopped",
}


def blocks(page, language):
    """The fenced or indented blocks of a page that are in a language; "" is a block of commands."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)


def commands(page):
    """Every ``wholegrain ...`` of a page's blocks, and of its running text, in order; comments and continued lines as a shell reads them."""
    block, running = r"^ *(wholegrain (?:[^\n]*\\\n)*[^\n]*)$", r"`(wholegrain [^`]+)`"
    return [first or second for first, second in re.findall(f"{block}|{running}", page.read_text(encoding="utf-8"), re.M)]


def words(command):
    """The words of a command, as a shell reads them."""
    return shlex.split(command.replace("\\\n", " "), comments=True)


def parsed(command):
    """Raises :class:`UserError` for a command that does not exist, or options that are wrong."""
    _, name, *rest = words(command)
    assert name in cli.COMMANDS, name
    call = bind(cli.function_of(name), f"wholegrain {name}", rest)
    given = cli._given(call)
    for recipe in [given["recipe"]] if given.get("recipe") else given.get("recipes", ()):
        if recipe in recipe_names():
            load_recipe(recipe, given.get("overrides", ()))  # dotted options


ALL = [(page, command) for page in PAGES for command in commands(page)]


@pytest.mark.parametrize(("page", "command"), ALL, ids=[f"{page.name}: {command[:60]}" for page, command in ALL])
def test_every_command_of_the_docs_exists_with_its_options(page, command):
    if "…" in command:
        pytest.skip("an abbreviation")
    try:
        parsed(command)
    except UserError as error:
        if " needs " not in str(error) or f"`{command}`" not in page.read_text(encoding="utf-8"):
            raise  # running text may name a command or an option alone


PROGRAMS = {  # of developers: their functions
    "benchmarks.losses": losses,
    "benchmarks.loading": loading,
    "benchmarks.step": step,
    "base_model": base,
    "base_model gates": gates,
}
FOR_DEVELOPERS = [
    found for page in PAGES for found in re.findall(r"python -m ((?:benchmarks\.\w+|base_model)(?: gates)?)([^`\n]*)", page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("program", "rest"), FOR_DEVELOPERS)
def test_every_program_of_developers_in_the_docs_exists_with_its_options(program, rest):
    if program in PROGRAMS:
        bind(PROGRAMS[program], f"python -m {program}", shlex.split(rest, comments=True))
    else:
        assert (HOME / program.replace(".", "/")).with_suffix(".py").is_file(), program


def test_programs_of_developers_are_in_the_docs():
    assert set(PROGRAMS) <= {program for program, _ in FOR_DEVELOPERS}


def test_a_command_that_does_not_exist_would_be_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Use `wholegrain methods`.\n\n```\nwholegrain train clip --dta x \\\n    --lr 3   # fast\n```\n")
    first, second = commands(page)
    parsed(first)
    assert words(second)[-2:] == ["--lr", "3"]
    with pytest.raises(UserError, match="did you mean --data"):
        parsed(second)


def test_targets_of_make_exist():
    for line in re.findall(r"^(make [a-z]+)", (HOME / "README.md").read_text(encoding="utf-8"), re.M):
        done = subprocess.run([*line.split(), "--dry-run"], cwd=HOME, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with photos.csv, 20 pictures, and what stands in for downloads."""
    (tmp_path / "images").mkdir()
    rows = ["filepath,caption,split"]  # the split column can be dropped once prepare gives splits of its own
    for number in range(20):
        draw = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(draw).resize((80, 64), Image.Resampling.BICUBIC).save(tmp_path / "images" / f"{number}.jpg")
        thing, other = ("dog", "cat", "boat", "tree", "child")[number % 5], ("house", "table", "river")[number % 3]
        split = "train" if number < 10 else "val" if number < 14 else "test"
        colour = ("red", "blue", "green", "black")[number % 4]
        texts = f"A {colour} {thing} near a {other} number {number}.", f"Two {thing}s are at the {other} {number}."
        rows += [f"images/{number}.jpg,{text},{split}" for text in texts]
    (tmp_path / "photos.csv").write_text("\n".join(rows) + "\n")
    pytest.importorskip("transformers")
    save_transformers(transformers_clip(), tmp_path / "tiny-clip")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command, capfd):
    """Runs a command with the stand-ins; fails with what it said."""
    _, name, *rest = words(command)
    for old, new in STAND_INS.items():
        rest = [new if word == old else word for word in rest]
    further = list(FURTHER.get(name, [])) if "--resume" not in rest else ["--quiet", "--device", "cpu"]
    if name == "doctor" and (len(rest) < 2 or rest[1].startswith("-")):
        further = []
    with pytest.raises(SystemExit) as stop:
        cli.main([name, *rest, *further])
    said = capfd.readouterr()
    fine = (0, 2) if name == "doctor" and "to stop for" in said.out else (0,)  # 10 pictures are few, and it says so
    assert stop.value.code in fine, f"{command}\n{said.out}\n{said.err}"
    return said


@pytest.mark.slow
def test_the_readme(place, capfd):
    page = HOME / "README.md"
    left = dict(PARSED_ALONE)
    shutil.copytree(place / "images", place / "photos")
    for name, number in (("beach", 0), ("park", 1)):
        shutil.copy(place / "images" / f"{number}.jpg", place / "photos" / f"{name}.jpg")
    for command in commands(page):
        if command in PARSED_ALONE:
            left.pop(command, None)
        else:
            run(command, capfd)
    for code in blocks(page, "python"):
        for old, new in STAND_INS.items():
            code = code.replace(f'"{old}"', f'"{new}"')
        exec(compile(code, "README.md", "exec"), {})
    assert not left
    for written in ("report.html", "found.html", "why.html", "why.png"):
        assert (place / written).exists(), written


def test_the_readme_is_read_in_two_minutes():
    text = re.sub(r"<!-- results.*end of results -->", "", (HOME / "README.md").read_text(encoding="utf-8"), flags=re.S)
    assert len(text.split()) < 500


def test_a_loss_by_itself():
    found: dict[str, torch.Tensor] = {}
    for code in blocks(HOME / "docs/methods/index.md", "python"):
        exec(compile(code, "index.md", "exec"), found)
    assert found["loss"].isfinite()


@pytest.mark.slow
def test_the_page_on_photos(place, capfd, monkeypatch):
    page = HOME / "docs/photos.md"
    (pair,) = blocks(page, "toml")
    (place / "pair.toml").write_text(pair)
    stand_in_towers(place, tomllib.loads(pair))
    rows = [line.split(",")[0] for text in blocks(page, "") for line in text.splitlines() if line.startswith("filepath,")]
    assert rows == ["filepath"]  # the table that it shows is the table that the test makes
    for command in commands(page):
        run(command, capfd)


def stand_in_towers(folder, pair):
    """The files that pair.toml names: a network with random weights, a text tower of two small layers."""
    import timm
    import transformers
    from safetensors.torch import save_file

    net = timm.create_model(pair["image"]["timm"], **pair["image"]["kwargs"])
    save_file(net.state_dict(), folder / pair["image"]["weights"])
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=300, max_position_embeddings=128, **sizes)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder / pair["text"]["hf"])
    train_tokenizer(["a red dog near a house"], 300, 64).save(folder / pair["text"]["hf"])
    (folder / pair["text"]["hf"] / "wholegrain_tokenizer.json").unlink()
