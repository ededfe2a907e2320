"""What is installed with the package: what users need, and nothing that is for developers."""

import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2]
NEEDED = (
    "wholegrain/cli/main.py",
    "wholegrain/assets/base/model.safetensors",
    "wholegrain/assets/base/origin.json",
    "wholegrain/assets/published.json",
    "wholegrain/py.typed",
    "wholegrain/recipes/wholegrain.toml",
    "wholegrain/report/report.html.j2",
)
FOR_DEVELOPERS = ("bench", "gates", "legibility", "oracle", "whiten", "base_crops", "base_scenes", "fuzz", "test_")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Names of the files in the wheel; by pyproject.toml where hatchling, which builds it, is not installed."""
    if find_spec("hatchling"):
        out = tmp_path_factory.mktemp("wheel")
        subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out], cwd=HOME, check=True, capture_output=True)
        with zipfile.ZipFile(next(out.glob("*.whl"))) as wheel:
            return [name for name in wheel.namelist() if ".dist-info/" not in name]
    project = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    found = [(package, path) for package in packages for path in (HOME / package).rglob("*") if "__pycache__" not in path.parts]
    return [path.relative_to((HOME / package).parent).as_posix() for package, path in found if path.is_file()]


def test_the_wheel_holds_the_package_alone(files):
    assert {name.partition("/")[0] for name in files} == {"wholegrain"}
    assert set(NEEDED) <= set(files)


def test_nothing_for_developers_is_in_the_wheel(files):
    assert [name for name in files if Path(name).name.startswith(FOR_DEVELOPERS)] == []
    assert not {"tests", "tools", "bench_step", "base_model"} & {part for name in files for part in Path(name).parts}
    assert not [name for name in files if Path(name).name in ("base.py", "make.py") and "towers" not in name]


def test_the_package_imports_nothing_of_developers():
    for path in (HOME / "src").rglob("*.py"):
        imports = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip().startswith(("import ", "from "))]
        assert not [line for line in imports if line.split()[1].partition(".")[0] in ("benchmarks", "base_model", "fuzz")], path
