"""Imports what commands need, once, in the server whose forks run them; it computes nothing, so that forks have sound threads.

The package's modules are those that it happens to have: their names may change.
"""

import gc
from contextlib import suppress
from importlib import import_module
from pkgutil import walk_packages

for library in ("pandas", "pyarrow.parquet", "torch.utils.tensorboard", "torchvision", "open_clip", "matplotlib.pyplot"):
    with suppress(Exception):
        import_module(library)

import wholegrain  # noqa: E402

for found in walk_packages(wholegrain.__path__, "wholegrain.", onerror=lambda _: None):
    if not found.name.endswith("__main__"):
        with suppress(Exception):  # an extra is not installed, say: the command that needs it will tell
            import_module(found.name)

gc.collect()
gc.freeze()  # or every fork's collector would copy the pages of all these modules
