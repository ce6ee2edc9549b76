"""The public names, and that importing them costs little. Held in fresh processes."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import daskreg as dr
from daskreg import errors

PUBLIC = [
    "Affine",
    "Box",
    "CloudFit",
    "Composite",
    "DeformableFit",
    "DisplacementField",
    "ElasticStackFit",
    "Grid",
    "PairFit",
    "PointsFit",
    "Run",
    "SliceAffines",
    "SliceDisplacements",
    "StackFit",
    "Written",
    "align_stack",
    "attach",
    "connect",
    "convert",
    "errors",
    "fit_points",
    "grid",
    "icp",
    "landmarks",
    "load",
    "open",
    "plan",
    "plot",
    "points_from",
    "read_points",
    "register",
    "register_many",
    "register_transform_stack",
    "save",
    "serve",
    "tomography",
    "warp",
    "write",
]
CONVERTERS = ("skimage", "scipy", "itk", "pystackreg", "torch", "ngff")


def loaded_after(code: str, *names: str) -> set[str]:
    """Which of the modules `names` a fresh interpreter has loaded after `code`."""
    check = f"import sys; {code}; print(*(n for n in {names!r} if n in sys.modules))"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_all_holds_the_public_names() -> None:
    assert dr.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(dr))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_name_is_there(name: str) -> None:
    value = getattr(dr, name)
    if callable(value):
        assert value.__module__.startswith("daskreg.")
        assert value.__doc__
    namespace: dict[str, object] = {}
    exec(f"from daskreg import {name}", namespace)
    assert namespace[name] is value


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'wrap'"):
        dr.wrap  # noqa: B018


@pytest.mark.parametrize("tool", CONVERTERS)
def test_converters_go_both_ways(tool: str) -> None:
    for direction in ("from", "to"):
        assert callable(getattr(dr.convert, f"{direction}_{tool}"))


def test_import_is_light() -> None:
    heavy = ("torch", "matplotlib", "pandas", "distributed", "dask", "zarr", "xarray", "numba", "scipy", "h5py")
    assert loaded_after("import daskreg", *heavy) == set()


def test_geometry_is_numpy_only() -> None:
    code = "import daskreg; daskreg.Grid((4, 5)).downsample(2); daskreg.Affine.rotation(0.1).inverse()"
    assert loaded_after(code, "scipy", "dask", "zarr", "xarray", "numba", "torch") == set()


def test_converting_and_loading_need_no_torch() -> None:
    code = "import daskreg as dr; dr.convert.to_scipy(dr.Affine.identity(2)); dr.load"
    heavy = ("torch", "SimpleITK", "skimage", "h5py", "dask", "distributed", "matplotlib", "pandas")
    assert loaded_after(code, *heavy) == set()


@pytest.mark.slow
def test_warping_arrays_needs_no_torch() -> None:
    code = (
        "import daskreg as dr, numpy as np; "
        "dr.warp(np.zeros((4, 5), 'f4'), pull=dr.Affine.translation(x=0.5)); dr.open; dr.write"
    )
    assert loaded_after(code, "torch", "matplotlib", "distributed") == set()


def test_errors_are_one_tree_that_its_page_draws() -> None:
    """Every class is in the docstring's tree, below its parent, and of the builtin kind it says."""
    classes = {
        n: c
        for n, c in vars(errors).items()
        if isinstance(c, type) and issubclass(c, errors.DaskregError) and c is not errors.DaskregError
    }
    path: dict[int, str] = {}
    drawn = {}
    for line in (errors.__doc__ or "").splitlines():
        words = line.replace("├── ", "").replace("└── ", "").replace("│", " ").split()
        if not words or not words[0].endswith("Error"):
            continue
        depth = len(line) - len(line.lstrip(" │├└─"))
        path[depth] = words[0]
        drawn[words[0]] = path.get(depth - 4)
    for name, cls in classes.items():
        assert drawn[name] in [base.__name__ for base in cls.__bases__], name
    assert set(drawn) == {*classes, "DaskregError"}
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.MissingExtraError, ImportError)


def test_version() -> None:
    assert dr.__version__.count(".") == 2


def flags() -> Iterator[tuple[Callable[..., Any], str]]:
    """Public functions and methods, with each option that is true or false."""
    named = [getattr(dr, name) for name in dr.__all__]
    functions = [dr.DisplacementField, dr.SliceDisplacements, *filter(inspect.isroutine, named)]
    for home in (dr.convert, dr.landmarks, dr.tomography, *(each for each in named if isinstance(each, type))):
        members = (getattr(home, name) for name in vars(home) if not name.startswith("_"))
        own = home.__module__ if isinstance(home, type) else home.__name__
        functions += [each for each in members if inspect.isroutine(each) and each.__module__.startswith(own)]
    for function in functions:
        parameters = inspect.signature(function).parameters.values()
        yield from ((function, p.name) for p in parameters if p.annotation == "bool")


@pytest.mark.slow  # it imports everything
def test_what_is_neither_true_nor_false_is_refused() -> None:
    """Before anything else is looked at: the text "no" is true to Python."""
    seen = set()
    for function, flag in flags():
        parameters = inspect.signature(function).parameters.values()
        needed = [None for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
        with pytest.raises(errors.OptionError, match=f"{flag}='no': use True or False"):
            function(*needed, **{flag: "no"})
        seen.add(f"{function.__qualname__} {flag}")
    assert {"write wait", "write overwrite", "open allow_outside", "register check_inverse", "Run.wait progress"} < seen


def test_progress_is_true_false_or_a_function(tmp_path: Path) -> None:
    image = np.zeros((4, 5), np.float32)
    with pytest.raises(errors.OptionError, match="progress='no': use True or False"):
        dr.write(image, tmp_path / "out.zarr", progress="no")  # type: ignore[call-overload]
    with pytest.raises(errors.OptionError, match="progress=0: use True or False"):
        dr.register(image, image, progress=0)
    dr.write(image, tmp_path / "out.zarr", progress=np.False_, resume=np.True_)  # type: ignore[call-overload]
