"""Scenes that the tests of tasks share."""

import pytest
from every_file_operation import tree

from wholegrain.data.scenes.build import SceneCounts, build_scenes
from wholegrain.data.scenes.world import World


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """40 scenes to train on, 12 to measure on, to read only."""
    made = build_scenes(tmp_path_factory.mktemp("scenes") / "scenes", World(), SceneCounts(40, 2, 12, 0, 0), workers=1)
    before = tree(made.folder)
    yield made
    assert tree(made.folder) == before, "a test wrote into the scenes that all share"
