"""The package as it is published: what users need, and nothing that is for developers; the archive of sources makes the same wheel."""

import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
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


LARGEST = 7 * 2**20
"""Bytes of an archive; most of them are the base model."""


def built(folder, out, target):
    """The archive that hatchling makes of a folder."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", target, "-d", out], cwd=folder, check=True, capture_output=True)
    return next(out.glob("*.whl" if target == "wheel" else "*.tar.gz"))


def names_in(wheel):
    """Names of the package's files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return [name for name in archive.namelist() if ".dist-info/" not in name]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling")
    return built(HOME, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    pytest.importorskip("hatchling")
    return built(HOME, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="module")
def files(request):
    """Names of the files in the wheel; by pyproject.toml where hatchling, which builds it, is not installed."""
    if find_spec("hatchling"):
        return names_in(request.getfixturevalue("wheel"))
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


def test_the_archive_of_sources_holds_what_the_wheel_is_built_from_and_no_more(sdist, files, tmp_path):
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
        archive.extractall(tmp_path / "sources", filter="data")
    beside = {name for name in names if not name.startswith("src/wholegrain/")}
    assert beside == {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "PKG-INFO", ".gitignore"}
    assert not [name for name in names if name.endswith((".ipynb", ".pyc"))]
    again = built(next((tmp_path / "sources").iterdir()), tmp_path / "wheel", "wheel")
    assert sorted(names_in(again)) == sorted(files)


def test_archives_are_small_and_fit_for_the_index(wheel, sdist):
    assert max(path.stat().st_size for path in (wheel, sdist)) < LARGEST
    pytest.importorskip("twine")
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", wheel, sdist], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_it_runs_where_it_is_installed(wheel, tmp_path):
    """In an environment of its own, beside the packages of this one, and far from the sources."""
    venv.create(tmp_path / "env", with_pip=False)
    place = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "env"), "platbase": str(tmp_path / "env")}))
    (place / "those_of_the_tests.pth").write_text(sysconfig.get_path("purelib"))
    with zipfile.ZipFile(wheel) as archive:  # a pure wheel is installed by unpacking it
        archive.extractall(place)
    python = tmp_path / "env/bin/python"
    code = "import wholegrain as wg; print(wg.__file__); print(wg.load('base').embed_texts(['a red cup']).shape)"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([python, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    file, shape = done.stdout.splitlines()
    assert Path(file).is_relative_to(place)
    assert shape.startswith("(1, ")
