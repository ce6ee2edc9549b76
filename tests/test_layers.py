"""Imports go only downwards: which module may import which, and which libraries where.

The package's files are read, not imported. A folder is one layer, within which modules import each other, but
never in a circle. A module that is not listed fails, so that it gets a place.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Set
from functools import cache
from itertools import groupby
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "daskreg"

# From the bottom up; what shares a line does not import each other. A folder inside a folder is a layer too.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("geometry", "runtime"),
    ("sampling", "sources.storage", "formats", "cluster"),
    ("sources",),
    ("sources.readers", "blocks.record"),
    ("sources.readers.dicom", "sources.readers.hdf5", "sources.readers.n5", "sources.readers.tiff"),
    ("sources.readers.nd2", "sources.readers.oif", "sources.readers.txrm"),
    ("sources.readers.bdv", "sources.readers.imaris", "sources.readers.vtkhdf"),
    ("reporting", "blocks"),
    ("runs",),
    ("volumes", "flat"),
    ("fields",),
    ("registration.pyramids",),
    ("registration.normal_equations",),
    ("registration.verdict",),
    ("registration",),
    ("registration.local_contrast",),
    ("registration.deformable",),
    ("registration.blockwise",),
    ("clouds", "stacks", "landmarks"),
    ("lazy_warp",),
    ("warping",),
    ("contents",),
    ("writing", "tomography", "viewing"),
    ("convert", "kernels", "accessor", "readers", "plot", "output_page", "apply"),
    ("reg_torch", "demo", "warm_up"),
    ("cli",),
    ("__main__",),
)
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# (importer, imported): what may point upwards or sideways, each with its reason.
SANCTIONED = {
    # Names that are looked up when they are first used; the root itself has no logic.
    ("", "*"),
    # The entry chooses between images in memory and blocks, which are estimated by the parts of `registration`.
    ("registration.pair", "registration.blockwise"),
    # The entry chooses between affine maps and layers of B-splines, which begin with an affine map.
    ("registration.pair", "registration.deformable"),
}

# Libraries that a layer, or a file of it, must not import, not even inside a function.
FORBIDDEN = {
    "errors": {"numpy", "dask", "zarr", "xarray", "torch"},
    "sampling": {"dask", "zarr", "xarray", "distributed"},
    "sampling.arrays_numba": {"torch"},
    "sampling.arrays": {"torch"},
    "blocks": {"torch"},
    "blocks.record": {"torch"},
    "sources": {"torch"},
    "sources.readers": {"torch"},
    "sources.readers.bdv": {"torch"},
    "sources.readers.dicom": {"torch"},
    "sources.readers.imaris": {"torch"},
    "sources.readers.hdf5": {"torch"},
    "sources.readers.n5": {"torch"},
    "sources.readers.tiff": {"torch"},
    "sources.readers.nd2": {"torch"},
    "sources.readers.oif": {"torch"},
    "sources.readers.txrm": {"torch"},
    "sources.readers.vtkhdf": {"torch"},
    "sources.storage": {"torch"},
    "runs": {"torch"},
    "writing": {"torch"},
}

# In these folders, only the entry and its inputs know of xarray and dask; the rest computes in memory.
IN_MEMORY = {
    "registration": {"register", "pair", "batch", "images"},
    "registration.pyramids": set(),
    "registration.normal_equations": set(),
    "registration.verdict": set(),
    "registration.deformable": set(),
    "stacks": {"inputs"},
    "clouds": {"inputs"},
}

# What imports no torch, also not through another module: workers that warp on a CPU, and clouds of points there.
WITHOUT_TORCH = {
    "errors", "geometry", "runtime", "sampling.sample", "sampling.arrays", "sampling.cast", "sampling.downsample",
    "sources", "sources.readers", "sources.storage", "formats", "cluster", "reporting", "blocks", "volumes",
    "warping", "writing", "accessor", "convert", "clouds", "landmarks", "kernels", "cli", "blocks.record", "runs",
    "sources.readers.bdv", "sources.readers.dicom", "sources.readers.hdf5", "sources.readers.imaris",
    "sources.readers.n5", "sources.readers.tiff", "sources.readers.nd2", "sources.readers.oif", "sources.readers.txrm",
    "sources.readers.vtkhdf", "fields", "flat", "plot", "output_page", "contents", "viewing",
}  # fmt: skip
NEEDS_TORCH = {"runtime.triton_support", "clouds.brute_force_triton", "clouds.soft_correspondence"}

# What imports neither dask nor xarray nor zarr, also not through another module, as their import takes a second:
# warps and registrations of NumPy arrays.
FOR_NUMPY = ("warping", "registration.register", "registration.pair", "registration.deformable", "fields")
MOST_FILES, MOST_LINES = 25, 5500

# Not at the top of a module, since `import daskreg` and CPU workers must stay light.
HEAVY = {
    "nd2",
    "oiffile",
    "olefile",
    "pydicom",
    "torch",
    "matplotlib",
    "pandas",
    "distributed",
    "h5py",
    "SimpleITK",
    "nibabel",
    "mrcfile",
    "skimage",
}


def modules() -> dict[str, Path]:
    """Dotted names below the package (the root is ""), by file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def imports(path: Path, module: str = "", *, inside: bool = True) -> frozenset[str]:
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
    return frozenset(found)


def inner(names: Set[str]) -> set[str]:
    """Those of the package, without its name ("" is the root itself)."""
    return {n.removeprefix("daskreg").removeprefix(".") for n in names if n.split(".")[0] == "daskreg"}


def outer(names: Set[str]) -> set[str]:
    """Top names of the other libraries."""
    return {n.split(".")[0] for n in names} - {"daskreg"}


def layer(module: str) -> str:
    """The folder of a module (or the module, at the top of the package): what has a place in LAYERS."""
    first = ".".join(module.split(".")[:2])
    return first if first in RANKS else module.split(".", maxsplit=1)[0]


def without_torch(module: str) -> bool:
    return bool({module, layer(module)} & WITHOUT_TORCH) and module not in NEEDS_TORCH


def sanctioned(module: str, imported: str) -> bool:
    mine = {module, layer(module)}
    theirs = {imported, layer(imported), "*"}
    return any(a in mine and b in theirs for a, b in SANCTIONED)


def first(module: str) -> str:
    return module.partition(".")[0]


FOLDERS = {top: sorted(names) for top, names in groupby(sorted(MODULES, key=first), first)}
"""Modules of the package by the folder at its top that they are in, or their own name there."""
in_each_folder = pytest.mark.parametrize("modules", FOLDERS.values(), ids=FOLDERS)


@pytest.mark.slow
@in_each_folder
def test_imports_go_downwards(modules: list[str]) -> None:
    for module in modules:
        check_that_imports_go_downwards(module)


def check_that_imports_go_downwards(module: str) -> None:
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


@pytest.mark.slow
@in_each_folder
def test_libraries_stay_in_their_layers(modules: list[str]) -> None:
    for module in modules:
        check_libraries(module)


def check_libraries(module: str) -> None:
    names = outer(imports(MODULES[module], module))
    if layer(module) == "geometry":
        allowed = set(sys.stdlib_module_names) | {"numpy"}
        assert names <= allowed, f"{module}: geometry needs numpy only, not {sorted(names - allowed)}"
    for place, forbidden in FORBIDDEN.items():
        if place in (module, layer(module)):
            assert not names & forbidden, f"{module} must not import {sorted(names & forbidden)}"
    if layer(module) in IN_MEMORY and module.rpartition(".")[2] not in IN_MEMORY[layer(module)]:
        assert not names & {"dask", "zarr", "xarray", "distributed"}, f"{module} computes in memory only"


@pytest.mark.slow
@in_each_folder
def test_heavy_libraries_are_imported_where_they_are_used(modules: list[str]) -> None:
    holders = ("sampling", "registration", "stacks", "clouds", "reg_torch")
    own = {
        name: {"torch"}
        for name in (
            *holders,
            "registration.pyramids",
            "registration.normal_equations",
            "registration.verdict",
            "registration.blockwise",
            "registration.deformable",
        )
    }
    own |= {"runtime.triton_support": {"torch"}}
    own |= {"tomography.projector.posed": {"torch"}}
    own |= {"cluster": {"distributed"}, "reporting.figures": {"matplotlib"}}
    for module in modules:
        names = outer(imports(MODULES[module], module, inside=False))
        allowed = own.get(layer(module), set()) | own.get(module, set())
        assert not names & (HEAVY - allowed), f"{module} imports {sorted(names & (HEAVY - allowed))} at the top"


def reached(module: str) -> set[str]:
    """Modules of the package that are imported when `module` is: its own imports, theirs, and their packages."""
    found: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        todo += inner(imports(MODULES[name], name, inside=False)) & MODULES.keys()
        if "." in name:
            todo.append(name.rpartition(".")[0])
    return found


@pytest.mark.slow
@in_each_folder
def test_torch_is_not_reached_through_another_module(modules: list[str]) -> None:
    """Workers that warp on a CPU, and clouds of points there, never load torch."""
    for module in filter(without_torch, modules):
        for name in reached(module):
            names = outer(imports(MODULES[name], name, inside=False))
            assert "torch" not in names, f"importing {module} imports {name}, which imports torch"


@pytest.mark.parametrize("module", FOR_NUMPY)
def test_numpy_arrays_need_no_arrays_of_other_libraries(module: str) -> None:
    for name in reached(module):
        names = outer(imports(MODULES[name], name, inside=False))
        assert not names & {"dask", "xarray", "zarr"}, f"importing {module} imports {name}, which imports {names}"


def own_names(tree: ast.Module) -> set[str]:
    """Private names that a file itself defines: functions, methods, class attributes, fields, attributes of self."""
    found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    found |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return found | {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("self", "cls", "other")
    }


@pytest.mark.slow
@in_each_folder
def test_private_names_of_others_are_used_in_one_module(modules: list[str]) -> None:
    """`x._name` is of the file itself, or public in spite of its name (named tuples, numba's structures).

    The rest is in private_apis, and what there is of numba's compiler in callees.
    """
    for module in modules:
        if module not in ("runtime.private_apis", "runtime.callees"):
            check_private_names(module)


def check_private_names(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    public = {"_replace", "_fields", "_asdict", "_getvalue"} | own_names(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not node.attr.startswith("_") or node.attr.startswith("__"):
            continue
        if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
            continue
        assert node.attr in public, f"{module}:{node.lineno}: {ast.unparse(node)} is private to another module"


@pytest.mark.slow
def test_no_circles() -> None:
    """No module needs itself through others, inside a folder or between folders, also not inside functions."""
    graph = {name: inner(imports(path, name)) & MODULES.keys() - {name, ""} for name, path in MODULES.items() if name}

    def beyond(start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(graph[start])
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += graph[name]
        return seen

    everything = {name: beyond(name) for name in graph}
    circles = {
        tuple(sorted({name} | {other for other in everything[name] if name in everything[other]}))
        for name in graph
        if name in everything[name]
    }
    assert not circles


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES.values()}))
def test_folders_stay_small(folder: Path) -> None:
    files = [path for path in MODULES.values() if path.parent == folder]
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    assert len(files) <= MOST_FILES, f"{folder.name} has {len(files)} files"
    assert lines <= MOST_LINES, f"{folder.name} has {lines} lines"


@pytest.mark.slow
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
    assert "reporting.page" in inner(imports(MODULES["reporting.fit"], "reporting.fit"))
    folder = "formats.transforms"
    assert {"formats.transforms.itk", "formats.transforms.elastix"} <= inner(imports(MODULES[folder], folder))
    assert inner(imports(MODULES[""], "")) == {"accessor", "runtime.when_imported"}
