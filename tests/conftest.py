"""Data sets that tests share: made once, and whole at the end."""

import pytest
import quick_processes  # noqa: F401  (before a server of processes is started)
from every_file_operation import tree
from halves import make_halves
from hypothesis import settings
from tiny_training import make_dataset

settings.register_profile("repeatable", derandomize=True)  # what fails fails again; new cases are the business of tools/fuzz
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """24 two-coloured pictures for training and as many for validation, to read only; a test that writes makes its own."""
    made = make_dataset(tmp_path_factory.mktemp("dataset"))
    before = tree(made.folder)
    yield made
    assert tree(made.folder) == before, "a test wrote into the data set that all share"


@pytest.fixture(scope="session")
def halves(tmp_path_factory):
    """Ten pictures of two halves with everything that a report shows, to read only."""
    return make_halves(tmp_path_factory.mktemp("halves"))
