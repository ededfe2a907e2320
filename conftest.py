"""Modules that need an extra are collected for their doctests where it is installed."""

import importlib.util

collect_ignore = (
    []
    if importlib.util.find_spec("gradio")
    else [f"src/wholegrain/workflows/explore/{name}.py" for name in ("app", "fields", "theme", "twin_fields")]
)
