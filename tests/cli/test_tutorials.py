"""The tutorials, and the page on other programs: every command and every block of Python is run, page after page, on tiny data.

As for README.md (``test_readme.py``), what differs from the text is what stands in for downloads, and the options that make it quick.
"""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from test_readme import STAND_INS, blocks, commands, place, run, words  # noqa: F401 (place is a fixture)

HOME = Path(__file__).parents[2]
TUTORIALS = HOME / "docs/tutorials"
CHAINS = {
    "scenes": ("scenes", "read_a_report"),
    "photos": ("your_photos", "hard_negatives", "fine_tune", "which_method"),
}
"""Pages that go on where the one before them ended."""
QUICK = {"scenes": "--train 40 --val 8 --test 12 --twins 4", "compete": "--seeds 0 --suite retrieval", "audit": "--images 4"}
NOT_RUN = {  # why a command of the text is not
    "wholegrain new loss my_loss": "writes into the package",
    "wholegrain compete scenes/clip scenes/ce_clip scenes/wholegrain --data data/scenes --model base --steps 60": "as in which_method, and slower",
    "wholegrain methods": "has a test of its own",
    "wholegrain train --resume runs/photos": "goes on with a run that was stopped, and this one was not",
}


def programs(page):
    """Commands and blocks of Python in the order of the page; those of a block marked ``skip`` are left out."""
    text = page.read_text(encoding="utf-8")
    found = [(text.index(command), "command", command) for command in dict.fromkeys(commands(page))]
    found += [(match.start(), "python", match[1]) for match in re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S)]
    return [(kind, what) for _, kind, what in sorted(found)]


def follow(pages, place, capfd, left_out):  # noqa: F811
    """Runs pages, one after another, as their reader would."""
    names: dict[str, object] = {}
    for page in pages:
        for kind, what in programs(page):
            if kind == "python":
                for old, new in STAND_INS.items():
                    what = what.replace(f'"{old}"', f'"{new}"')
                exec(compile(what.replace("steps=300", "steps=2, batch=4"), page.name, "exec"), names)
            elif what not in left_out and "…" not in what:
                quick = QUICK.get(words(what)[1], "")
                run(f"{shlex.join(words(what))} {quick}", capfd)


def test_every_tutorial_is_in_a_chain_and_in_the_list():
    pages = {path.stem for path in TUTORIALS.glob("*.md")} - {"index"}
    assert pages == {page for chain in CHAINS.values() for page in chain}
    listed = set(re.findall(r"\]\((\w+)\.md\)", (TUTORIALS / "index.md").read_text(encoding="utf-8")))
    assert listed == pages


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS)
def test_the_tutorials(chain, place, capfd):  # noqa: F811
    follow([TUTORIALS / f"{page}.md" for page in CHAINS[chain]], place, capfd, NOT_RUN)
    written = {"scenes": ["found.html", "why.html", "scenes.html"], "photos": ["audit/audit.html", "tuned.html", "compete/standings.html"]}
    for name in written[chain]:
        assert (place / name).is_file(), name


NOT_RUN_THERE = {
    "wholegrain classify": "named alone",
    "wholegrain embed": "named alone",
    "wholegrain prepare hf:NAME": "named alone",
    "wholegrain prepare hf:nlphuji/flickr30k data/flickr            # a data set of the Hub, or a folder of save_to_disk": "must be downloaded",
    "wholegrain prepare 'shards-{000..009}.tar'": "named alone",
    "wholegrain prepare 'shards-{000..009}.tar' data/shards": "has no shards",
    "wholegrain export runs/latest models/for-onnx --to onnx": "slow, and has tests of its own",
    "wholegrain export runs/latest models/for-onnx-int8 --to onnx --int8 --data data/photos": "slow, and has tests of its own",
    "wholegrain export runs/latest models/for-optimum --to optimum": "slow, and has tests of its own",
    "wholegrain export --to transformers": "named alone",
}


@pytest.mark.slow
def test_the_page_on_other_programs(place, capfd):  # noqa: F811
    pytest.importorskip("sentence_transformers", minversion="5.4")
    shutil.copytree(place / "images", place / "photos")
    for name, number in (("beach", 0), ("park", 1)):
        shutil.copy(place / "images" / f"{number}.jpg", place / "photos" / f"{name}.jpg")
    run("wholegrain prepare photos.csv data/photos", capfd)
    run("wholegrain train clip --data data/photos --model ViT-B-32:openai", capfd)
    follow([HOME / "docs/works_with.md"], place, capfd, NOT_RUN_THERE)
    written = ["vectors.parquet", "vectors.npy", "vectors.csv", "models/for-open-clip/open_clip_config.json", "models/for-transformers/config.json"]
    for name in (*written, "models/for-peft/adapter_config.json"):
        assert (place / name).is_file(), name
