"""The code of the pages runs: Python and `daskreg` commands, from top to bottom; YAML is read. Names on them exist."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
import shutil
from functools import cached_property
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

import daskreg as dr
from daskreg.cli import run
from daskreg.cluster.config import read_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "cluster/README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))]
TEXTS = [*PAGES, "CONTRIBUTING.md"]
FILE_NAME = re.compile(r"\b((?:daskreg|tests|benchmarks|cluster|docs|notebooks)/[\w./-]*\w)")
DOTTED_NAME = re.compile(r"\bdaskreg(?:\.[A-Za-z_]\w*)+")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages use."""
    folder = tmp_path_factory.mktemp("samples")
    rng = np.random.default_rng(0)
    large = gaussian_filter(rng.normal(size=(128, 128)), 3)
    large = ((large - large.min()) / np.ptp(large) * 50_000 + 1000).astype(np.float32)
    motion = dr.Affine.from_parameters(theta=np.radians(2), tx=2, ty=-1, centre=(63.5, 63.5))
    drift = rng.uniform(-2, 2, (8, 2))
    slices = [dr.warp(large, push=dr.Affine.translation(y=y, x=x))[16:-16, 16:-16] for y, x in drift]
    stack = dr.open(np.stack(slices).astype(np.uint16), spacing=(5, 1, 1), unit="nm")
    dr.write(stack, folder / "stack.ome.zarr", levels=2, progress=False)
    tifffile.imwrite(folder / "fixed.tif", large[16:-16, 16:-16])
    tifffile.imwrite(folder / "moving.tif", dr.warp(large, push=motion)[16:-16, 16:-16])
    points = rng.uniform(size=(300, 3)) * (1, 2, 3)
    np.savetxt(folder / "source.csv", points, delimiter=",")
    np.savetxt(folder / "target.csv", points + np.array([0.1, 0.2, 0.1]), delimiter=",")
    (folder / "slurm.yaml").write_text((ROOT / "cluster" / "slurm.yaml").read_text().replace("eth0", "lo"))
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_runs(
    page: str, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(shutil.copytree(samples, tmp_path / "page"))
    capsys = request.getfixturevalue("capsys")
    if page.endswith("object-stores.md"):
        for name, value in request.getfixturevalue("s3_server").environment.items():
            monkeypatch.setenv(name, value)
    mpl.use("agg")
    names: dict[str, object] = {"__name__": "__main__"}
    text = (ROOT / page).read_text()
    for match in FENCE.finditer(text):
        kind, code = match.groups()
        where = f"{page}:{text.count(chr(10), 0, match.start()) + 2}"
        if kind == "python":
            exec(compile(code, where, "exec", dont_inherit=True), names)
        elif kind == "yaml":
            Path("page.yaml").write_text(code)
            read_config("page.yaml")
        elif kind == "console":
            for command in re.findall(r"^\$ daskreg (?!demo)(.*)", code, re.MULTILINE):
                assert run(shlex.split(command)) == 0, f"{where}: {command}\n{capsys.readouterr().err}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!\w+:|#)([^)#]+)", (ROOT / page).read_text()):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", TEXTS)
def test_files_that_a_page_names_exist(page: str) -> None:
    for name in FILE_NAME.findall((ROOT / page).read_text()):
        assert (ROOT / name).exists(), f"{page}: {name}"


@pytest.mark.parametrize("page", TEXTS)
def test_modules_and_names_that_a_page_names_exist(page: str) -> None:
    for name in DOTTED_NAME.findall((ROOT / page).read_text()):
        assert exists(name), f"{page}: {name}"


def exists(dotted: str) -> bool:
    """Whether this is a module of the package, or an attribute of one."""
    path, *parts = dotted.split(".")
    value: object = dr
    for part in parts:
        path = f"{path}.{part}"
        try:
            value = importlib.import_module(path)
        except ModuleNotFoundError:
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
    return True


PUBLIC = ("convert", "errors", "kernels", "landmarks", "plot", "readers", "reg_torch", "tomography")
"""Modules whose public names are part of the interface."""


def public_names() -> list[str]:
    """Every name that a user may import: `daskreg.NAME`, and `daskreg.MODULE.NAME` of the public modules."""
    found = [f"daskreg.{name}" for name in dr.__all__ if not inspect.ismodule(getattr(dr, name))]
    for module in (importlib.import_module(f"daskreg.{name}") for name in PUBLIC):
        own = [n for n, v in vars(module).items() if n[0] != "_" and getattr(v, "__module__", "") == module.__name__]
        found += [f"{module.__name__}.{name}" for name in getattr(module, "__all__", own)]
    return found


def test_the_api_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    directives = re.findall(r"^\.\. auto\w+:: ([\w.]+)\n(?:   :members:(.*))?", page, re.MULTILINE)
    shown = {value_of(name) for name, _ in directives}
    for name, members in directives:
        module = value_of(name)
        if inspect.ismodule(module) and re.search(rf"automodule:: {name}\n   :members:", page):
            listed = members.replace(",", " ").split() or [n for n in public_names() if n.startswith(f"{name}.")]
            shown |= {value_of(n if "." in n else f"{name}.{n}") for n in listed}
    assert [name for name in public_names() if value_of(name) not in shown] == []


def value_of(dotted: str) -> object:
    """The module, or the attribute of a module, of this name."""
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError:
        module, _, name = dotted.rpartition(".")
        return getattr(importlib.import_module(module), name)


def test_every_public_name_and_method_says_what_it_is() -> None:
    """Or what it overrides does, as for the methods that every transform has."""
    silent = [name for name in public_names() if callable(v := value_of(name)) and not inspect.getdoc(v)]
    for name in public_names():
        if inspect.isclass(owner := value_of(name)):
            silent += [f"{name}.{method}" for method in public_methods(owner) if not doc_of(owner, method)]
    assert silent == []


def public_methods(owner: type) -> list[str]:
    """Names of the methods and properties of a class that daskreg defines, in it or in a class that it derives from."""
    own = {name for base in owner.__mro__ if base.__module__.startswith("daskreg") for name in vars(base)}
    found = []
    for name in sorted(own):
        member = inspect.getattr_static(owner, name)
        member = getattr(member, "__func__", member)  # of a class method
        if name[0] != "_" and (isinstance(member, property | cached_property) or inspect.isfunction(member)):
            found.append(name)
    return found


def doc_of(owner: type, name: str) -> str | None:
    """What is said of a method where it is defined, or in the nearest class of daskreg that it overrides."""
    members = [vars(base)[name] for base in owner.__mro__ if name in vars(base) and "daskreg" in base.__module__]
    members = [getattr(member, "__func__", member) for member in members]
    return next((member.__doc__ for member in members if member.__doc__), None)
