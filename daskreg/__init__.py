"""daskreg: align and warp image volumes larger than memory.

    import daskreg as dr

    volume = dr.open("stack.ome.zarr")
    fit = dr.align_stack(volume)
    dr.write(dr.warp(volume, pull=fit.raw_from_aligned), "aligned.ome.zarr")

The public names below are imported when they are first used, so that `import daskreg`
is quick and a worker that only warps on a CPU never loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from daskreg.runtime.when_imported import when_imported

if TYPE_CHECKING:
    from daskreg import convert as convert
    from daskreg import errors as errors
    from daskreg import landmarks as landmarks
    from daskreg import plot as plot
    from daskreg import tomography as tomography
    from daskreg.apply import register_transform_stack as register_transform_stack
    from daskreg.clouds.fit import CloudFit as CloudFit
    from daskreg.clouds.inputs import points_from as points_from
    from daskreg.clouds.register import icp as icp
    from daskreg.cluster import connect as connect
    from daskreg.fields import Composite as Composite
    from daskreg.fields import DisplacementField as DisplacementField
    from daskreg.fields import SliceDisplacements as SliceDisplacements
    from daskreg.formats.points import read_points as read_points
    from daskreg.formats.transforms import load as load
    from daskreg.formats.transforms import save as save
    from daskreg.geometry import Affine as Affine
    from daskreg.geometry import Box as Box
    from daskreg.geometry import Grid as Grid
    from daskreg.geometry import SliceAffines as SliceAffines
    from daskreg.landmarks.fit import PointsFit as PointsFit
    from daskreg.landmarks.fitting import fit_points as fit_points
    from daskreg.registration.batch import register_many as register_many
    from daskreg.registration.deformable.fit import DeformableFit as DeformableFit
    from daskreg.registration.fit import PairFit as PairFit
    from daskreg.registration.register import register as register
    from daskreg.runs.run import Run as Run
    from daskreg.runs.run import attach as attach
    from daskreg.stacks.align import StackFit as StackFit
    from daskreg.stacks.align import align_stack as align_stack
    from daskreg.stacks.elastic.fit import ElasticStackFit as ElasticStackFit
    from daskreg.viewing.serve import serve as serve
    from daskreg.volumes import grid as grid
    from daskreg.volumes import open as open
    from daskreg.warping import warp as warp
    from daskreg.writing import Written as Written
    from daskreg.writing import plan as plan
    from daskreg.writing import write as write

__version__ = "0.2.0"

_HOMES = {
    "Affine": "geometry",
    "Box": "geometry",
    "CloudFit": "clouds.fit",
    "Composite": "fields",
    "DeformableFit": "registration.deformable.fit",
    "ElasticStackFit": "stacks.elastic.fit",
    "DisplacementField": "fields",
    "Grid": "geometry",
    "PairFit": "registration.fit",
    "PointsFit": "landmarks.fit",
    "Run": "runs.run",
    "SliceAffines": "geometry",
    "SliceDisplacements": "fields",
    "StackFit": "stacks.align",
    "Written": "writing",
    "align_stack": "stacks.align",
    "attach": "runs.run",
    "connect": "cluster",
    "convert": "",
    "errors": "",
    "fit_points": "landmarks.fitting",
    "grid": "volumes",
    "icp": "clouds.register",
    "landmarks": "",
    "load": "formats.transforms",
    "open": "volumes",
    "plan": "writing",
    "plot": "",
    "points_from": "clouds.inputs",
    "read_points": "formats.points",
    "register": "registration.register",
    "register_many": "registration.batch",
    "register_transform_stack": "apply",
    "save": "formats.transforms",
    "serve": "viewing.serve",
    "tomography": "",
    "warp": "warping",
    "write": "writing",
}

__all__ = [
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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'daskreg' has no attribute {name!r}")
    home = _HOMES[name]
    if not home:
        return importlib.import_module(f"daskreg.{name}")
    value = getattr(importlib.import_module(f"daskreg.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _add_accessor() -> None:
    from daskreg.accessor import register

    register()


when_imported("xarray", _add_accessor)
