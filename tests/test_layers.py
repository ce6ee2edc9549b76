"""Imports go only downwards: which module may import which, and which libraries where.

The package's files are read, not imported. A folder is one layer, within which modules
import each other freely; a module that is not listed fails, so that it gets a place.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "daskreg"

# From the bottom up; what shares a line does not import each other. A folder inside a folder is a layer too.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("geometry", "runtime"),
    ("sampling", "sources.storage", "formats", "cluster"),
    ("sources",),
    ("sources.readers",),
    ("reporting", "blocks"),
    ("volumes",),
    ("registration",),
    ("clouds", "stacks"),
    ("warping", "tomography"),
    ("writing",),
    ("convert", "kernels"),
    ("reg_torch", "demo"),
    ("cli",),
)
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# (importer, imported): what may point upwards or sideways, each with its reason.
SANCTIONED = {
    # `t.save(path)` is what people type; files know transforms.
    ("geometry.transform", "formats"),
    # Names that are looked up when they are first used; the root itself has no logic.
    ("", "*"),
}

# Libraries that a layer, or a file of it, must not import, not even inside a function.
FORBIDDEN = {
    "errors": {"numpy", "dask", "zarr", "xarray", "torch"},
    "sampling": {"dask", "zarr", "xarray", "distributed"},
    "sampling.arrays_numba": {"torch"},
    "sampling.arrays": {"torch"},
    "blocks": {"torch"},
    "sources": {"torch"},
    "sources.readers": {"torch"},
    "sources.storage": {"torch"},
    "writing": {"torch"},
}

# In these folders, only the entry and its inputs know of xarray and dask; the rest computes in memory.
IN_MEMORY = {
    "registration": {"register", "batch", "images"},
    "stacks": {"align", "fit", "table", "inputs", "to_reference", "pairing", "estimate", "spans", "figures"},
    "clouds": {"register", "inputs"},
}

# Not at the top of a module, since `import daskreg` and CPU workers must stay light.
HEAVY = {"torch", "matplotlib", "pandas", "distributed", "h5py", "SimpleITK", "nibabel", "mrcfile", "skimage"}


def modules() -> dict[str, Path]:
    """Dotted names below the package (the root is ""), by file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path, module: str = "", *, inside: bool = True) -> set[str]:
    """Dotted names that a file imports; TYPE_CHECKING blocks are left out.

    `from a import b` counts as a.b where that is a module. `inside`: functions as well.
    """
    found: set[str] = set()
    package = module.split(".") if path.name == "__init__.py" and module else module.split(".")[:-1]

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                visit(child)
            return
        if not inside and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = ["daskreg", *package[: len(package) - node.level + 1]] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.add(whole if whole.removeprefix("daskreg.") in MODULES else base)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def inner(names: set[str]) -> set[str]:
    """Those of the package, without its name ("" is the root itself)."""
    return {n.removeprefix("daskreg").removeprefix(".") for n in names if n.split(".")[0] == "daskreg"}


def outer(names: set[str]) -> set[str]:
    """Top names of the other libraries."""
    return {n.split(".")[0] for n in names} - {"daskreg"}


def layer(module: str) -> str:
    """The folder of a module (or the module, at the top of the package): what has a place in LAYERS."""
    first = ".".join(module.split(".")[:2])
    return first if first in RANKS else module.split(".", maxsplit=1)[0]


def sanctioned(module: str, imported: str) -> bool:
    mine = {module, layer(module)}
    theirs = {imported, layer(imported), "*"}
    return any(a in mine and b in theirs for a, b in SANCTIONED)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_downwards(module: str) -> None:
    if module:
        assert layer(module) in RANKS, f"{module} has no place in LAYERS"
    for imported in sorted(inner(imports(MODULES[module], module))):
        if sanctioned(module, imported) or (imported and layer(imported) == layer(module)):
            continue
        if not imported:  # the root's lazy names
            assert layer(module) == "cli", f"{module} imports the root; import the module that holds the name"
            continue
        assert layer(imported) in RANKS, f"{module} imports {imported}, which has no place in LAYERS"
        assert RANKS[layer(imported)] < RANKS[layer(module)], f"{module} must not import {imported}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_libraries_stay_in_their_layers(module: str) -> None:
    names = outer(imports(MODULES[module], module))
    if layer(module) == "geometry":
        allowed = set(sys.stdlib_module_names) | {"numpy"}
        assert names <= allowed, f"{module}: geometry needs numpy only, not {sorted(names - allowed)}"
    for place, forbidden in FORBIDDEN.items():
        if place in (module, layer(module)):
            assert not names & forbidden, f"{module} must not import {sorted(names & forbidden)}"
    if layer(module) in IN_MEMORY and module.rpartition(".")[2] not in IN_MEMORY[layer(module)]:
        assert not names & {"dask", "zarr", "xarray", "distributed"}, f"{module} computes in memory only"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_heavy_libraries_are_imported_where_they_are_used(module: str) -> None:
    holders = ("sampling", "registration", "stacks", "clouds", "reg_torch")
    own = {name: {"torch"} for name in holders}
    own |= {"runtime.threads": {"torch"}, "runtime.triton_support": {"torch"}}
    own |= {"cluster": {"distributed"}, "reporting.plots": {"matplotlib"}}
    names = outer(imports(MODULES[module], module, inside=False))
    allowed = own.get(layer(module), set()) | own.get(module, set())
    assert not names & (HEAVY - allowed), f"{module} imports {sorted(names & (HEAVY - allowed))} at the top"


def test_the_sanctioned_exceptions_are_used() -> None:
    """An exception that nobody needs any more is taken off the list."""
    used = set()
    for module, path in MODULES.items():
        for imported in inner(imports(path, module)):
            for a, b in SANCTIONED:
                if a in (module, layer(module)) and b in (imported, layer(imported)):
                    used.add((a, b))
    assert SANCTIONED - {("", "*")} <= used


def test_the_reader_of_imports() -> None:
    """The judge is judged: every way to import is seen."""
    assert "torch" in outer(imports(MODULES["convert"], "convert"))
    assert "torch" not in outer(imports(MODULES["convert"], "convert", inside=False))
    assert "formats.transforms" in inner(imports(MODULES["geometry.transform"], "geometry.transform"))
    assert {"formats.itk", "formats.elastix"} <= inner(imports(MODULES["formats.transforms"], "formats.transforms"))
    assert not inner(imports(MODULES[""], ""))
