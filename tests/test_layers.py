"""Imports run one way, and light modules stay light."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import stillhouse

ROOT = Path(stillhouse.__file__).parent
LAYERS = [
    {"errors", "kinds"},
    {"engine"},
    {"objectives", "networks", "taps", "views", "teachers", "students", "sources", "store"},
    {"methods"},
    {"evaluation"},
    {"catalog", "report"},
    {"recipe"},
    {"cli"},
]
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}


def imported_modules(file: Path) -> set[str]:
    """Every stillhouse module a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.startswith("stillhouse.")}


def modules() -> dict[str, set[str]]:
    names = {}
    for file in ROOT.rglob("*.py"):
        dotted = ".".join(("stillhouse", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        names[dotted] = file
    return {name: imported_modules(file) & names.keys() - {name} for name, file in names.items()}


def package(module: str) -> str:
    return module.split(".")[1]


def test_every_package_has_a_level():
    packages = {p.stem for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert packages - {"__init__", "__main__", "recipes"} == LEVEL.keys()


def test_imports_point_downwards():
    wrong = [
        f"{name} imports {other}"
        for name, others in modules().items()
        if name.count(".") and package(name) in LEVEL
        for other in others
        if other.count(".") and LEVEL[package(other)] > LEVEL[package(name)]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_through_others():
    graph = {name: others for name, others in modules().items() if name.count(".") > 1}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle


def test_no_package_imports_itself_through_others():
    graph: dict[str, set[str]] = {}
    for name, others in modules().items():
        if name.count("."):
            graph.setdefault(package(name), set()).update(package(other) for other in others if other.count("."))
    tuple(TopologicalSorter({name: others - {name} for name, others in graph.items()}).static_order())


def test_no_dumping_ground_modules():
    bad = {"utils", "util", "common", "misc", "helpers"}
    assert not [file for file in ROOT.rglob("*.py") if file.stem in bad]


@pytest.mark.parametrize(
    "module", ["stillhouse", "stillhouse.recipe.schema", "stillhouse.cli.main", "stillhouse.catalog"]
)
def test_light_modules_import_no_torch(module: str):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
