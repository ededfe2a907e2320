"""Modules that need a package that is no part of the tests' own are collected for their doctests where it is installed."""

import importlib.util

NEED = {
    "gradio": [f"src/wholegrain/workflows/explore/{name}.py" for name in ("app", "fields", "theme", "twin_fields")],
    "mteb": ["tests/support/mteb_task.py"],
}
collect_ignore = [path for package, paths in NEED.items() if importlib.util.find_spec(package) is None for path in paths]
