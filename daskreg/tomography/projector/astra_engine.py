"""Slices by the ASTRA toolbox (van Aarle et al. 2016, doi:10.1364/OE.24.025129), where it is installed.

Its rows of an image run upwards, along the negative y of daskreg.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import MissingExtraError
from daskreg.tomography.projector.reconstruction import angle_weights, ramp_filtered
from daskreg.tomography.projector.slices import SliceProjector

Array = NDArray[Any]

_ALGORITHMS = {"fbp": "BP", "sirt": "SIRT", "cgls": "CGLS"}
_LOCK = threading.Lock()
"""ASTRA numbers its objects for the whole process, and has threads of its own."""


def toolbox() -> Any:
    """The module.

    Raises: MissingExtraError.
    """
    try:
        import astra
    except ImportError as error:
        raise MissingExtraError("astra-toolbox", "astra") from error
    return astra


def slices_by_astra(
    projector: SliceProjector, sums: Array, method: str, *, window: str, iterations: int, minimum: float | None
) -> Array:
    """(Y, X, Z) slices of (A, U, Z) projections, as of `fbp`, `sirt` and `cgls` in `reconstruction`.

    FBP filters and weights as there, so that any angles and windows will do. On a GPU where ASTRA finds one.
    """
    astra = toolbox()
    if method == "fbp":
        weights = angle_weights(projector.radians).astype(sums.dtype)
        sums = ramp_filtered(sums, window) * weights[:, None, None]
    rows, columns = projector.shape
    found = np.empty((rows, columns, sums.shape[2]), np.float32)
    with _LOCK:
        gpu = bool(astra.use_cuda())
        seen = astra.create_proj_geom("parallel", 1.0, projector.columns, projector.radians)
        # The axis is at the middle of the detector, but for this shift of it.
        seen = astra.geom_postalignment(seen, (projector.columns - 1) / 2 - projector.axis)
        made = astra.create_vol_geom(rows, columns)
        numbers = [astra.data2d.create("-sino", seen), astra.data2d.create("-vol", made)]
        kind = astra.create_projector("cuda" if gpu else "linear", seen, made)
        options = {} if minimum is None else {"MinConstraint": float(minimum)}
        asked = {
            "type": _ALGORITHMS[method] + ("_CUDA" if gpu else ""), "ProjectorId": kind,
            "ProjectionDataId": numbers[0], "ReconstructionDataId": numbers[1], "option": options,
        }  # fmt: skip
        try:
            for z in range(sums.shape[2]):
                astra.data2d.store(numbers[0], np.ascontiguousarray(sums[..., z], np.float32))
                astra.data2d.store(numbers[1], 0)
                algorithm = astra.algorithm.create(asked)  # CGLS would go on from the slice before
                try:
                    astra.algorithm.run(algorithm, max(1, iterations))
                finally:
                    astra.algorithm.delete(algorithm)
                found[..., z] = astra.data2d.get(numbers[1])[::-1]
        finally:
            astra.projector.delete(kind)
            astra.data2d.delete(numbers)
    return found
