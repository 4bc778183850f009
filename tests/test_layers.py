"""The house: a file imports only from lower layers, siblings of L1 do not import each other, and two lone rules."""

import ast
from pathlib import Path

import pytest

import actprune

ROOT = Path(actprune.__file__).parent
LAYER = {
    "errors": 0, "types": 0, "scopes": 0, "nodes": 0, "state": 0, "atomic": 0,
    "evidence": 1, "criteria": 1, "rank": 1, "schedules": 1, "penalties": 1, "analysis": 1,
    "edit": 2, "accounting": 2, "ranked": 2, "repair": 2, "graph": 2, "recipes": 2, "program": 2,
    "structure": 2, "coupled": 2,
    "methods": 3, "pruner": 3,
    "compact": 4, "artifact": 4, "lowrank": 4, "runtime": 4,
    "lab": 5, "integrations": 5, "testing": 5,
}  # fmt: skip
SIBLINGS = {("criteria", "evidence")}  # a criterion says what it needs
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(path: Path) -> list[str]:
    """Rooms of actprune that a file imports, TYPE_CHECKING ones included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "actprune":
            parts = node.module.split(".")
            found += [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("actprune.")]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_from_lower_layers(path):
    here = room(path)
    assert here in LAYER, f"{here} has no layer: add it to the design and to this test"
    for other in imports(path):
        if other == here or other == "__version__":
            continue
        assert LAYER[other] <= LAYER[here], f"{here} (L{LAYER[here]}) imports {other} (L{LAYER[other]})"
        if LAYER[here] == 1 and (here, other) not in SIBLINGS:
            assert LAYER[other] == 0, f"L1 siblings do not import each other: {here} imports {other}"


def test_the_pruner_never_imports_methods():
    assert not [path for path in FILES if room(path) == "pruner" and "methods" in imports(path)]


def module(path: Path) -> str:
    return ".".join(("actprune", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def test_no_circle_of_files_also_not_for_types():
    """Each file after all that it imports, TYPE_CHECKING included."""
    names = {module(path) for path in FILES}
    edges: dict[str, set[str]] = {}
    for path in FILES:
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= (inner & names) or ({node.module} & names)
        edges[module(path)] = found - {module(path)}
    while leaves := {name for name, found in edges.items() if not found}:
        edges = {name: found - leaves for name, found in edges.items() if name not in leaves}
    assert not edges, f"these files import one another in circles: {edges}"


def test_no_file_of_the_core_knows_a_method_or_firing():
    """The mould holds them all: no word of one of them stands in it."""
    words = ("rigl", "synflow", "sparsegpt", "movement", "firing", "snip", "variational")
    for path in FILES:
        if room(path) in ("edit", "ranked", "rank", "pruner", "state"):
            code = "\n".join(ast.unparse(node) for node in _without_docstrings(path).body)
            assert not [word for word in words if word in code.lower()], path


def _without_docstrings(path: Path) -> ast.Module:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [
                item for item in body
                if not (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))
            ] or [ast.Pass()]  # fmt: skip
    return tree


def test_only_one_file_touches_torch_distributed():
    users = [
        str(path.relative_to(ROOT))
        for path in FILES
        if (
            "torch.distributed" in path.read_text()
            and LAYER[room(path)] < 5
            and "import torch.distributed" in path.read_text()
        )
        or "from torch.distributed" in path.read_text()
    ]
    assert users == ["pruner/distributed.py"]


def test_files_stay_small():
    large = {str(path.relative_to(ROOT)): n for path in FILES if (n := len(path.read_text().splitlines())) > 500}
    assert not large
