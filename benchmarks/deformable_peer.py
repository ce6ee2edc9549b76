"""One deformable registration by another tool: where each voxel of a fixed image lies in the moving one.

    python benchmarks/deformable_peer.py greedy|ants|ants-cc|elastix|bigstream CASE.npz MAP.npy

CASE.npz has `fixed` and `moving` (float32, one shape, aligned by an affine map before) and `spacing`, in array order.
MAP.npy becomes (D, *shape) float32, voxels of `moving`. It is not read from the files of the tool, whose conventions
differ: each tool warps images that hold coordinates, which linear interpolation gives back exactly. These reach beyond
the image, so that points that leave it a little are no folds. Prints seconds and seconds of processor time. Settings
are those of the documentation of each tool, written at its function.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Singles = NDArray[np.float32]
Warp = Callable[[Singles], Any]
THREADS = 2
BEYOND = 24
"""Voxels by which the images of coordinates reach beyond the moving image."""


def first_voxel(values: Singles, fixed: Singles, spacing: Any) -> list[float]:
    """(D,) the position, x first, of the first voxel of an image whose middle is that of `fixed`."""
    return [-float(s) * (n - m) / 2 for n, m, s in zip(values.shape, fixed.shape, spacing, strict=True)][::-1]


def greedy(fixed: Singles, moving: Singles, spacing: Any) -> Warp:
    """As in its manual: local NCC of radius 2 (in 2D 4), 100 x 50 x 10 iterations, its own smoothing."""
    import SimpleITK as sitk  # noqa: N813
    from picsl_greedy import Greedy2D, Greedy3D

    ndim = fixed.ndim
    tool = (Greedy2D if ndim == 2 else Greedy3D)()

    def image(values: Singles) -> Any:
        made = sitk.GetImageFromArray(values)
        made.SetSpacing(spacing[::-1].tolist())
        made.SetOrigin(first_voxel(values, fixed, spacing))
        return made

    radius = "x".join(["4" if ndim == 2 else "2"] * ndim)
    options = f"-d {ndim} -i fixed moving -o warp -m NCC {radius} -n 100x50x10 -threads {THREADS}"
    tool.execute(options, fixed=image(fixed), moving=image(moving), warp=None)

    def apply(values: Singles) -> Any:
        command = f"-d {ndim} -rf fixed -rm values resliced -r warp -threads {THREADS}"
        tool.execute(command, values=image(values), resliced=None)
        return sitk.GetArrayFromImage(tool["resliced"])

    return apply


def ants(fixed: Singles, moving: Singles, spacing: Any, **options: Any) -> Warp:
    """`SyNOnly` with the defaults of antspyx: mutual information, 40 x 20 x 0 iterations."""
    import ants as library

    def image(values: Singles) -> Any:
        where = {"origin": first_voxel(values, fixed, spacing), "spacing": tuple(float(s) for s in spacing[::-1])}
        return library.from_numpy(np.ascontiguousarray(values.T), **where)

    f = image(fixed)
    options = {"type_of_transform": "SyNOnly", "initial_transform": "Identity", **options}
    found = library.registration(f, image(moving), **options)

    def apply(values: Singles) -> Any:
        return library.apply_transforms(f, image(values), found["fwdtransforms"], interpolator="linear").numpy().T

    return apply


def ants_cc(fixed: Singles, moving: Singles, spacing: Any) -> Warp:
    """The same with local correlation of radius 4, for images of one modality, and 40 x 20 x 10 iterations."""
    return ants(fixed, moving, spacing, syn_metric="CC", syn_sampling=4, reg_iterations=(40, 20, 10))


def elastix(fixed: Singles, moving: Singles, spacing: Any) -> Warp:
    """Its default parameter map `bspline`: mutual information, four resolutions, control points 16 voxels apart."""
    import itk

    def image(values: Singles) -> Any:
        made = itk.image_from_array(np.ascontiguousarray(values))
        made.SetSpacing(spacing[::-1].astype(float).tolist())
        made.SetOrigin(first_voxel(values, fixed, spacing))
        return made

    parameters = itk.ParameterObject.New()
    distance = 16.0 * float(np.mean(spacing))
    parameters.AddParameterMap(parameters.GetDefaultParameterMap("bspline", 4, distance))
    _, transform = itk.elastix_registration_method(image(fixed), image(moving), parameter_object=parameters)
    transform.SetParameter("ResampleInterpolator", "FinalLinearInterpolator")

    def apply(values: Singles) -> Any:
        return itk.array_from_image(itk.transformix_filter(image(values), transform))

    return apply


def bigstream(fixed: Singles, moving: Singles, spacing: Any) -> Warp:
    """The step "deform" of bigstream's `easifish_registration_pipeline`, which is SimpleITK, over the whole image.

    Mattes' mutual information, control points 50 world units apart, smoothing 0.25, 25 steps of regular gradient
    descent at a rate of 0.25. Its blocks of 256 voxels are left out, for the image is hardly larger.
    """
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(THREADS)

    def image(values: Singles) -> Any:
        made = sitk.GetImageFromArray(values)
        made.SetSpacing(spacing[::-1].tolist())
        made.SetOrigin(first_voxel(values, fixed, spacing))
        return made

    f, m = image(fixed), image(moving)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(learningRate=0.25, minStep=0.0, numberOfIterations=25)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel((1,))
    method.SetSmoothingSigmasPerLevel((0.25,))
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    cells = [max(1, round(n * s / 50)) for n, s in zip(f.GetSize(), f.GetSpacing(), strict=True)]
    method.SetInitialTransformAsBSpline(sitk.BSplineTransformInitializer(f, cells, 3), inPlace=True, scaleFactors=(1,))
    found = method.Execute(f, m)

    def apply(values: Singles) -> Any:
        return sitk.GetArrayFromImage(sitk.Resample(image(values), f, found, sitk.sitkLinear, 0.0))

    return apply


PEERS = {"greedy": greedy, "ants": ants, "ants-cc": ants_cc, "elastix": elastix, "bigstream": bigstream}
_MODULES = {"greedy": "picsl_greedy", "ants": "ants", "ants-cc": "ants", "elastix": "itk", "bigstream": "SimpleITK"}


def installed(name: str) -> bool:
    """Whether a tool can be imported here."""
    return importlib.util.find_spec(_MODULES[name]) is not None


def main() -> None:
    name, case, out = sys.argv[1:]
    data = np.load(case)
    fixed, moving, spacing = data["fixed"], data["moving"], data["spacing"]
    wall, processor = time.perf_counter(), time.process_time()
    apply = PEERS[name](fixed, moving, spacing)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    around = np.indices([n + 2 * BEYOND for n in fixed.shape], dtype=np.float32) - np.float32(BEYOND)
    np.save(out, np.stack([apply(axis) for axis in around]).astype(np.float32))
    print(f"{wall:.1f} s, {processor:.1f} s of processor")


if __name__ == "__main__":
    main()
