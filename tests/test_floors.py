"""The house stands: every package imports lower floors only, no module imports itself in a circle, and no room is crowded."""

import ast
from pathlib import Path

import scoresde

ROOT = Path(scoresde.__file__).parent
# From the ground up; rooms on one floor do not know each other.
FLOORS = (
    {"deprecation", "numerics", "networks"},
    {"sde", "data"},
    {"models", "grids"},
    {"tableau", "losses", "likelihood"},
    {"solvers", "diagnostics", "train"},
    {"loops"},
    {"tuning"},
    {"sampling"},
    {"guidance", "inverse", "sbi", "report"},
    {"audit", "legacy", "interop", "sharing"},
    {"cli"},
)
# The package's own file and the script stand outside.
FRONT = {"__init__", "__main__"}


def modules() -> dict[str, Path]:
    """Every module by its dotted name below scoresde; a package by its own name."""
    names = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return names


def imports(name: str, path: Path, known: set[str]) -> set[str]:
    """The modules of ours that a module imports when it is loaded or when a function of it runs; type checking aside."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                full = ".".join([*base, alias.name])
                found.add(full if full in known else ".".join(base))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return {module for module in found if module}


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(name, path, set(known)) for name, path in known.items() if name not in FRONT}


def room(module: str) -> str:
    return module.split(".")[0]


def test_every_room_has_a_floor():
    assert {room(name) for name in graph()} == set().union(*FLOORS)


def test_every_floor_imports_lower_floors_only():
    height = {name: k for k, floor in enumerate(FLOORS) for name in floor}
    upward = [
        f"{name} -> {target}"
        for name, targets in graph().items()
        for target in targets
        if room(target) != room(name) and height[room(target)] >= height[room(name)]
    ]
    assert not upward


def test_no_module_is_in_a_circle():
    edges, done = graph(), set[str]()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"a circle: {' -> '.join([*above, name])}"
        if name not in done:
            for target in edges.get(name, ()):
                # A package's own file hands on what its modules hold.
                if target != name:
                    visit(target, (*above, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def test_no_room_is_crowded():
    """At most 15 % of the lines in one room, and no file above 320 lines."""
    lines = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    share = {r: sum(n for name, n in lines.items() if room(name) == r) / sum(lines.values()) for r in set().union(*FLOORS)}
    largest = max(share, key=lambda r: share[r])
    assert share[largest] <= 0.15, f"{largest} has {share[largest]:.0%} of the lines"
    longest = max(lines, key=lambda name: lines[name])
    assert lines[longest] <= 320, f"{longest} has {lines[longest]} lines"
