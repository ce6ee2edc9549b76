"""What modules load when they are imported: workers on CPUs never load torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "daskreg"

# What only a GPU, tensors or threads of compiled code need; nothing else in these folders imports it at its top.
FOR_TENSORS = {
    "daskreg.sampling.displaced_tensors",
    "daskreg.sampling.displaced_triton",
    "daskreg.sampling.tensors",
    "daskreg.sampling.tensors_triton",
    "daskreg.sampling.tile_pipeline",
    "daskreg.runtime.triton_support",
}
FOLDERS = ("blocks", "cluster", "formats", "geometry", "runtime", "sampling", "sources")
MODULES = sorted(
    {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for f in FOLDERS
        for path in (PACKAGE / f).rglob("*.py")
    }
    - FOR_TENSORS
    | {"daskreg.volumes", "daskreg.warping", "daskreg.writing", "daskreg.convert"}
)


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)})


@pytest.mark.slow
def test_modules_of_blocks_load_no_torch() -> None:
    names = [name.removesuffix(".__init__") for name in MODULES]
    assert len(names) > 60
    run(
        "import importlib, sys\n"
        f"for name in {names}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
    )


@pytest.mark.parametrize("name", ["daskreg", "daskreg.cli", "daskreg.kernels"])
def test_what_is_imported_first_is_light(name: str) -> None:
    heavy = {"torch", "distributed", "matplotlib", "pandas", "zarr", "xarray"}
    run(f"import sys, {name}; assert not set(sys.modules) & {heavy}, set(sys.modules) & {heavy}")


@pytest.mark.slow
def test_a_warp_on_the_cpu_loads_no_torch(tmp_path: Path) -> None:
    run(
        "import sys, numpy as np, daskreg as dr\nfrom daskreg.writing import verify\n"
        "image = np.random.default_rng(0).random((8, 40, 50)).astype('f4')\n"
        "warped = dr.warp(dr.open(image), pull=dr.Affine.rotation(0.1, centre=(20, 25)), device='cpu')\n"
        f"dr.write(warped, {str(tmp_path / 'out.zarr')!r}, client=False, progress=False)\n"
        f"assert verify({str(tmp_path / 'out.zarr')!r}) == []\n"
        "assert 'torch' not in sys.modules\n"
    )
