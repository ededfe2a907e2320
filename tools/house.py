"""How large and how plain the source is: ``python tools/house.py [FOLDER of src/wholegrain]``.

Prints lines and files, lengths of functions, functions with many parameters, ``Any`` and suppressions, circles between modules, and lines by room.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

MOST_PARAMETERS = 8
LONG_FUNCTION = 40
LONG_FILE = 400
SUPPRESSION = re.compile(r"#\s*(type:\s*ignore|pyright:\s*ignore|noqa)")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.Module) -> Iterator[Function]:
    """Every function and method, nested ones included."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def parameters(function: Function) -> int:
    """How many it takes, ``self`` and ``cls`` not counted, ``*args`` and ``**kwargs`` counted as one each."""
    a = function.args
    named = [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
    return len([name for name in named if name not in ("self", "cls")]) + (a.vararg is not None) + (a.kwarg is not None)


def body_length(function: Function) -> int:
    """Lines of a function without its docstring."""
    first = function.body[0]
    said = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    return (function.end_lineno or 0) - function.lineno + 1 - ((first.end_lineno or 0) - first.lineno + 1 if said else 0)


def imports(tree: ast.Module, known: set[str]) -> set[str]:
    """Known modules that a module imports anywhere, also for types alone."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {name if (name := f"{node.module}.{part.name}") in known else node.module for part in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found & known


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other (strongly connected, of two or more), by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    sys.setrecursionlimit(10_000)
    for node in graph:
        if node not in index:
            visit(node)
    return found


def main(source: Path) -> None:
    """Prints the figures of one tree."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(source.rglob("*.py"))}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    names = {path: ".".join([source.name, *path.relative_to(source).with_suffix("").parts]).removesuffix(".__init__") for path in trees}
    every = [(names[path], function) for path, tree in trees.items() for function in functions(tree)]
    lengths = [body_length(function) for _, function in every]
    lines = {names[path]: text.count("\n") for path, text in texts.items()}
    wide = [(name, f.name, parameters(f)) for name, f in every if parameters(f) > MOST_PARAMETERS]
    anys = Counter(
        names[path] for path, tree in trees.items() for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "Any"
    )
    known = set(names.values())
    graph = {names[path]: imports(tree, known) - {names[path]} for path, tree in trees.items()}
    print(f"files {len(texts)}, lines {sum(lines.values()):,}, over {LONG_FILE} lines: {[n for n, k in lines.items() if k > LONG_FILE]}")
    deciles = quantiles(lengths, n=10)
    print(f"functions {len(lengths):,}: median {median(lengths):.0f} lines, p90 {deciles[8]:.0f}, max {max(lengths)}", end="")
    print(f", over {LONG_FUNCTION}: {sum(length > LONG_FUNCTION for length in lengths)}")
    print(f"functions with over {MOST_PARAMETERS} parameters: {len(wide)}")
    for name, function, count in sorted(wide, key=lambda row: -row[2]):
        print(f"  {count:3d} {name}.{function}")
    print(f"Any {anys.total()}, suppressions {sum(len(SUPPRESSION.findall(text)) for text in texts.values())}")
    print(f"  Any by module: {', '.join(f'{name.removeprefix(source.name + chr(46))} {k}' for name, k in anys.most_common(12))}")
    groups = circles(graph)
    print(f"circles of imports: {len(groups)}")
    for group in groups:
        print(f"  {', '.join(group)}")
    rooms = Counter(name.split(".")[1] for name, k in lines.items() if "." in name for _ in range(k))
    print("lines by room: " + ", ".join(f"{room} {k:,}" for room, k in rooms.most_common()))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "src" / "wholegrain"))
