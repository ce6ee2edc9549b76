"""Registration of pairs with a known affine motion, side by side with other tools.

    python benchmarks/register.py
    python benchmarks/register.py --motion easy --pairs 20 --border zero
    python benchmarks/register.py --ndim 3 --data $DASKREG_DATA
    python benchmarks/register.py --ndim 3 --data $DASKREG_DATA --side 256 --pairs 3 --tools daskreg "elastix affine"
    python benchmarks/register.py --noise 0.05

2D: photographs of scikit-image, 512x512, registered to themselves; hard is up to 30 degrees, 15 %
shift, scales of 0.9 to 1.1, shear 0.15; easy a third of it. 3D: the MNI152 brain at
94x116x98 with up to 20 degrees, 10 % shift, scales 0.9 to 1.1. Motions are drawn from a seed
and made by cubic interpolation. The error is the largest distance of the corners between
found and true map, in voxels; success is below 1. The tools run one after the other on every pair, so
that the ratios of the medians are valid on a busy machine. With noise, which is white in
both images, the Cramer-Rao bound of the median error is computed from J^T J as well.
Tools that are not installed are left out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

import daskreg as dr
from daskreg.geometry import Affine, Grid
from daskreg.registration.pose import Pose

IMAGES = ("camera", "moon", "coins", "astronaut", "coffee", "chelsea")
Tool = Callable[[np.ndarray, np.ndarray], np.ndarray]


def photograph(name: str, side: int = 512) -> np.ndarray:
    from skimage import data, transform

    image = np.asarray(getattr(data, name)(), dtype=np.float64)
    image = image.mean(-1) if image.ndim == 3 else image
    if image.shape != (side, side):
        image = transform.resize(image, (side, side), anti_aliasing=True)
    return image.astype(np.float32)


def brain(folder: Path, side: int | None = None) -> np.ndarray:
    """The MNI152 template at 2 mm, (94, 116, 98) as z, y, x, or stretched to a cube."""
    import nibabel

    path = next((folder / "volumes3d/mni152").glob("*.nii*"))
    volume = np.asarray(nibabel.load(path).dataobj, dtype=np.float32)[:196, :232, :188]
    small = volume.reshape(98, 2, 116, 2, 94, 2).mean((1, 3, 5)).transpose(2, 1, 0).copy()
    if side is None:
        return small
    large = ndimage.zoom(small, [side / n for n in small.shape], order=3)
    large[large < 1e-3 * large.max()] = 0  # cubic interpolation makes zeros slightly different from zero
    return np.asarray(large, dtype=np.float32)


def motion(grid: Grid, seed: int, amount: float) -> Affine:
    """A random affine motion; `amount` 1 is the hard set."""
    rng = np.random.default_rng(seed)

    def draw(limit: float) -> float:
        return float(rng.uniform(-limit, limit) * amount)

    size = dict(zip("zyx"[-grid.ndim :], grid.shape, strict=True))
    if grid.ndim == 2:
        named = {"theta": np.radians(draw(30)), "shx": draw(0.15)}
        named |= {f"t{a}": draw(0.15) * size[a] for a in "xy"} | {f"s{a}": 1 + draw(0.1) for a in "xy"}
    else:
        named = {f"r{a}": np.radians(draw(20)) for a in "xyz"}
        named |= {f"t{a}": draw(0.1) * size[a] for a in "xyz"} | {f"s{a}": 1 + draw(0.1) for a in "xyz"}
    return Affine.from_parameters(named, ndim=grid.ndim, centre=grid.centre)


def moved(image: np.ndarray, truth: Affine, border: str) -> np.ndarray:
    """`image` moved by `truth`; the border is filled with zeros or reflected."""
    pad = 0 if border == "reflect" else 24
    padded = np.pad(image, pad) if image.ndim == 3 else image
    pad = pad if image.ndim == 3 else 0
    m = truth.inverse().matrix
    mode = "reflect" if border == "reflect" else "constant"
    out = ndimage.affine_transform(padded, m[:-1, :-1], m[:-1, -1] + pad, output_shape=image.shape, order=3, mode=mode)
    return np.asarray(out, dtype=np.float32)


def corner_error(found: np.ndarray, truth: Affine, shape: tuple[int, ...]) -> float:
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(len(shape), -1).T
    return float(np.linalg.norm(Affine(found)(ends) - truth(ends), axis=1).max())


def cramer_rao(image: np.ndarray, truth: Affine, variance: float) -> float:
    """The median corner error of the best unbiased estimator, for white noise of this variance in all."""
    grid, pose = Grid(image.shape), Pose.of("affine", image.ndim)
    change = pose.motions(pose.from_matrices(truth.matrix[None], grid.centre).numpy(), grid.centre)[1][0, :, :-1]
    slopes = np.linalg.inv(truth.linear).T @ np.stack([g.ravel() for g in np.gradient(image.astype(np.float64))])
    points = np.concatenate([np.indices(image.shape).reshape(image.ndim, -1), np.ones((1, image.size))])
    jacobian = np.stack([(slopes * (d @ points)).sum(0) for d in change])
    jacobian -= jacobian.mean(1, keepdims=True)
    covariance = np.linalg.inv(jacobian @ jacobian.T) * variance
    draws = np.random.default_rng(0).multivariate_normal(np.zeros(len(change)), covariance, 2000)
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in image.shape], indexing="ij")).reshape(image.ndim, -1)
    ends = np.concatenate([ends, np.ones((1, ends.shape[1]))])
    shifts = np.einsum("kp,pij,jc->kic", draws, change, ends)
    return float(np.median(np.linalg.norm(shifts, axis=1).max(1)))


def with_daskreg(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    return dr.register(fixed, moving).moving_from_fixed.matrix


def with_pystackreg(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    from pystackreg import StackReg

    return dr.convert.from_pystackreg(StackReg(StackReg.AFFINE).register(fixed, moving)).matrix


def with_simpleitk(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Mattes mutual information on 20 % of the voxels, moments to start with, four levels."""
    import SimpleITK as sitk  # noqa: N813

    f, m = (sitk.GetImageFromArray(i) for i in (fixed, moving))
    how = sitk.ImageRegistrationMethod()
    how.SetMetricAsMattesMutualInformation(32)
    how.SetMetricSamplingStrategy(how.REGULAR)
    how.SetMetricSamplingPercentage(0.2)
    how.SetOptimizerAsGradientDescentLineSearch(1.0, 200, 1e-7, 10)
    how.SetOptimizerScalesFromPhysicalShift()
    how.SetShrinkFactorsPerLevel([8, 4, 2, 1])
    how.SetSmoothingSigmasPerLevel([4, 2, 1, 0])
    how.SetInterpolator(sitk.sitkLinear)
    start = sitk.AffineTransform(fixed.ndim)
    how.SetInitialTransform(
        sitk.CenteredTransformInitializer(f, m, start, sitk.CenteredTransformInitializerFilter.MOMENTS)
    )
    return dr.convert.from_itk(how.Execute(f, m)).matrix


def with_elastix(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """elastix's default affine parameters: mutual information, adaptive stochastic descent, four resolutions."""
    import itk

    parameters = itk.ParameterObject.New()
    parameters.AddParameterMap(parameters.GetDefaultParameterMap("affine", 4))
    method = itk.ElastixRegistrationMethod.New(
        itk.image_view_from_array(fixed),
        itk.image_view_from_array(moving),
        parameter_object=parameters,
        log_to_console=False,
    )
    method.UpdateLargestPossibleRegion()
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/transform.txt"
        method.GetTransformParameterObject().WriteParameterFile(file)
        return dr.load(file).matrix


def with_ants(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """antspyx's "Affine", with its defaults. ANTs stores x first."""
    import ants

    found = ants.registration(
        *(ants.from_numpy(np.ascontiguousarray(i.T)) for i in (fixed, moving)), type_of_transform="Affine"
    )
    transform = ants.read_transform(found["fwdtransforms"][0])
    n = fixed.ndim
    linear = np.asarray(transform.parameters[: n * n]).reshape(n, n)
    shift, centre = np.asarray(transform.parameters[n * n :]), np.asarray(transform.fixed_parameters)
    m = np.eye(n + 1)
    m[:n, :n], m[:n, n] = linear[::-1, ::-1], (shift + centre - linear @ centre)[::-1]
    return m


def with_adam(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """The method of nDTomo's reg_torch: Adam on the parameters at full size, in a world of [-1, 1], 200 iterations."""
    import torch
    from torch.nn import functional

    n = fixed.ndim
    f, m = (torch.as_tensor(i / np.ptp(i), dtype=torch.float32)[None, None] for i in (fixed, moving))
    theta = torch.eye(n, n + 1)[None].requires_grad_()
    adam = torch.optim.Adam([theta], lr=0.01)
    for _ in range(200):
        adam.zero_grad()
        grid = functional.affine_grid(theta, list(f.shape), align_corners=False)
        warped = functional.grid_sample(m, grid, align_corners=False)
        (f - warped).square().mean().backward()
        adam.step()
    return dr.convert.from_torch(theta.detach()[0].numpy(), fixed=Grid(fixed.shape), moving=Grid(moving.shape)).matrix


def with_ecc(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """OpenCV's enhanced correlation coefficient over a pyramid of five."""
    import cv2

    m = np.eye(2, 3, dtype=np.float32)
    for level in range(4, -1, -1):
        small = [
            cv2.resize(i, None, fx=0.5**level, fy=0.5**level, interpolation=cv2.INTER_AREA) for i in (fixed, moving)
        ]
        scaled = m.copy()
        scaled[:, 2] *= 0.5**level
        _, scaled = cv2.findTransformECC(
            small[0], small[1], scaled, cv2.MOTION_AFFINE, (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-7)
        )
        m = scaled
        m[:, 2] /= 0.5**level
    return _xy(m)


def with_sift(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """OpenCV's SIFT features, ratio test, RANSAC."""
    import cv2

    bytes_ = [cv2.normalize(i, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8) for i in (fixed, moving)]
    (k0, d0), (k1, d1) = (cv2.SIFT_create().detectAndCompute(i, None) for i in bytes_)
    pairs = cv2.BFMatcher().knnMatch(d0, d1, k=2)
    good = [a for a, b in pairs if a.distance < 0.75 * b.distance]
    source = np.float32([k0[g.queryIdx].pt for g in good])
    target = np.float32([k1[g.trainIdx].pt for g in good])
    return _xy(cv2.estimateAffine2D(source, target, ransacReprojThreshold=1.0)[0])


def _xy(m: np.ndarray) -> np.ndarray:
    """(2, 3) in x, y order to (3, 3) in array order."""
    out = np.eye(3)
    out[:2, :2], out[:2, 2] = np.asarray(m)[:, :2][::-1, ::-1], np.asarray(m)[::-1, 2]
    return out


TOOLS: dict[str, tuple[Tool, tuple[int, ...], str]] = {
    "daskreg": (with_daskreg, (2, 3), "daskreg"),
    "pystackreg affine": (with_pystackreg, (2,), "pystackreg"),
    "SimpleITK MI + moments": (with_simpleitk, (2, 3), "SimpleITK"),
    "elastix affine": (with_elastix, (2, 3), "itk"),
    "ANTs Affine": (with_ants, (2, 3), "ants"),
    "Adam, as nDTomo": (with_adam, (2, 3), "torch"),
    "cv2 ECC": (with_ecc, (2,), "cv2"),
    "cv2 SIFT + RANSAC": (with_sift, (2,), "cv2"),
}


def installed(ndim: int) -> dict[str, Tool]:
    import importlib.util

    found = {}
    for name, (tool, dimensions, module) in TOOLS.items():
        if ndim not in dimensions:
            continue
        if importlib.util.find_spec(module) is None:
            print(f"{name}: left out, {module} is not installed")
        else:
            found[name] = tool
    return found


def measure(tools: dict[str, Tool], cases: list[tuple[np.ndarray, np.ndarray, Affine]]) -> dict[str, Any]:
    """Errors and seconds of each tool, one after the other on each pair; one unmeasured round first."""
    errors: dict[str, list[float]] = {name: [] for name in tools}
    seconds: dict[str, list[float]] = {name: [] for name in tools}
    for number, (fixed, moving, truth) in enumerate([cases[0], *cases]):
        for name, tool in tools.items():
            began = time.perf_counter()
            try:
                error = corner_error(tool(fixed, moving), truth, fixed.shape)
            except Exception as problem:
                print(f"  {name} on pair {number}: {type(problem).__name__}")
                error = float("inf")
            if number:
                errors[name].append(error)
                seconds[name].append(time.perf_counter() - began)
    return {"errors": errors, "seconds": seconds}


def many_at_once(count: int) -> None:
    """`register_many` and a loop over `register`, alternately."""
    images, grid = [photograph(n, 256) for n in IMAGES], Grid((256, 256))
    fixed = np.stack([images[k % len(images)] for k in range(count)])
    truth = [motion(grid, k, 0.2) for k in range(count)]
    moving = np.stack([moved(i, t, "reflect") for i, t in zip(fixed, truth, strict=True)])
    dr.register_many(fixed[:2], moving[:2])
    seconds: list[tuple[float, float]] = []
    for _ in range(3):
        began = time.perf_counter()
        fits = dr.register_many(fixed, moving)
        middle = time.perf_counter()
        for f, m in zip(fixed, moving, strict=True):
            dr.register(f, m)
        seconds.append((middle - began, time.perf_counter() - middle))
    errors = [corner_error(fit.moving_from_fixed.matrix, t, grid.shape) for fit, t in zip(fits, truth, strict=True)]
    together, loop = np.median(seconds, axis=0)
    print(f"{count} pairs at once: {together:.2f} s, loop {loop:.2f} s, {loop / together:.1f} times; ", end="")
    print(f"median error {np.median(errors):.4f}, worst {max(errors):.4f}")


def attainable(image: np.ndarray, truth: Affine, variance: float) -> float:
    """The bound where both images are noisy: frequencies count by their coherence (Knapp & Carter 1976).

    With signal S and noise N in each image, a frequency has the information S^2 / (2 S N + N^2). With a noise-free
    template it would have S / 2 N, which is what J^T J counts. S is what rises above the noise in the
    spectrum of the noise-free image.
    """
    power = np.abs(np.fft.fftn(image - image.mean())) ** 2 / image.size
    signal, noise = power, variance / 2
    weight = signal / (signal + noise / 2)
    shaped = np.fft.ifftn(np.fft.fftn(image) * np.sqrt(weight)).real
    return cramer_rao(shaped, truth, variance)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ndim", type=int, choices=(2, 3), default=2)
    parser.add_argument("--motion", choices=("hard", "easy"), default="hard")
    parser.add_argument("--border", choices=("reflect", "zero"), default="reflect")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation, fraction of the range")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tools", nargs="*", help="some of them by name; all by default")
    parser.add_argument("--many", type=int, default=0, help="also this many pairs of 256x256 at once, beside a loop")
    parser.add_argument("--side", type=int, help="resample the brain to a cube of so many voxels a side")
    parser.add_argument("--data", type=Path, help="folder of real data, for the brain of --ndim 3")
    options = parser.parse_args()
    if options.ndim == 3 and options.data is None:
        parser.error("--ndim 3 needs --data")
    images = [photograph(n) for n in IMAGES] if options.ndim == 2 else [brain(options.data, options.side)]
    cases, bounds, noisy = [], [], []
    for k in range(options.pairs):
        image = images[k % len(images)]
        truth = motion(Grid(image.shape), options.seed + k, 1.0 if options.motion == "hard" else 1 / 3)
        rng, deviation = np.random.default_rng(options.seed + k), options.noise * float(np.ptp(image))
        pair = [
            (i + deviation * rng.standard_normal(i.shape)).astype(np.float32)
            for i in (image, moved(image, truth, options.border if options.ndim == 2 else "zero"))
        ]
        cases.append((pair[0], pair[1], truth))
        if options.noise:
            bounds.append(cramer_rao(image, truth, 2 * deviation**2))
            noisy.append(attainable(image, truth, 2 * deviation**2))
    tools = installed(options.ndim)
    found = measure({name: tools[name] for name in options.tools or tools if name in tools}, cases)
    ours = float(np.median(found["seconds"]["daskreg"]))
    print(
        f"\n{options.ndim}D {options.motion}, {options.pairs} pairs, border {options.border}, noise {options.noise:g}"
    )
    print(f"{'tool':24} {'success':>8} {'median':>9} {'worst':>9} {'s / pair':>9} {'time ratio':>11}")
    for name, errors in found["errors"].items():
        good = [e for e in errors if e < 1]
        median, worst = (np.median(good), max(good)) if good else (np.nan, np.nan)
        spent = float(np.median(found["seconds"][name]))
        rate = len(good) / len(errors)
        print(f"{name:24} {rate:8.0%} {median:9.4f} {worst:9.4f} {spent:9.3f} {spent / ours:11.1f}")
    if bounds:
        print(f"Cramer-Rao bound at full overlap: {np.median(bounds):.4f}")
        ratio = np.array(found["errors"]["daskreg"]) / np.array(bounds)
        print(f"daskreg / bound, pair by pair: median {np.median(ratio):.2f}")
        print(f"the bound with noise in both images: {np.median(noisy):.4f}; daskreg / it: ", end="")
        print(f"median {np.median(np.array(found['errors']['daskreg']) / np.array(noisy)):.2f}")
    if options.many:
        many_at_once(options.many)


if __name__ == "__main__":
    main()
