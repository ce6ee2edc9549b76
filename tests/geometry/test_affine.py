"""Affine maps: composition, inverses and named parameters."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import affines, ndims, parameters, vectors

from daskreg.errors import InvalidTransformError, OptionError, PixelUnitWarning, ShapeMismatchError, UnitError
from daskreg.geometry import Affine, SliceAffines, Transform, as_affine
from daskreg.geometry.parameters import identity_parameters, parameter_names

Floats = np.ndarray[Any, np.dtype[np.float64]]

three = ndims.flatmap(lambda n: st.tuples(affines(n), affines(n), affines(n), vectors(n)))
moved = ndims.flatmap(lambda n: st.tuples(parameters(n), vectors(n)))


@pytest.mark.slow
@given(three)
def test_composition_is_one_map_after_the_other(case: tuple[Affine, Affine, Affine, Floats]) -> None:
    a, b, c, p = case
    np.testing.assert_allclose((a @ b)(p), a(b(p)), rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(((a @ b) @ c).matrix, (a @ (b @ c)).matrix, rtol=1e-10, atol=1e-8)


@pytest.mark.slow
@given(three)
def test_inverse(case: tuple[Affine, Affine, Affine, Floats]) -> None:
    a, b, _, p = case
    np.testing.assert_allclose(a.inverse()(a(p)), p, rtol=0, atol=1e-9)
    np.testing.assert_allclose((a @ b).inverse().matrix, (b.inverse() @ a.inverse()).matrix, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose((a @ a.inverse()).matrix, np.eye(a.ndim + 1), rtol=0, atol=1e-9)


@pytest.mark.slow
@given(three)
def test_points_keep_their_shape(case: tuple[Affine, Affine, Affine, Floats]) -> None:
    a, _, _, p = case
    cloud = np.stack([p, p + 1, 2 * p])
    assert a(p).shape == p.shape
    np.testing.assert_array_equal(a(cloud[None])[0], a(cloud))
    np.testing.assert_array_equal(a(cloud, index=[0, 4, 2]), a(cloud))
    np.testing.assert_allclose(a(cloud)[1], a(p + 1), rtol=0, atol=1e-10)
    np.testing.assert_allclose(a(p), a.linear @ p + a.offset, rtol=0, atol=1e-10)


def test_named_arguments_are_array_order() -> None:
    np.testing.assert_array_equal(Affine.translation(x=1)((5, 7)), (5, 8))
    np.testing.assert_array_equal(Affine.translation(x=1, y=2, z=3)((5, 7, 9)), (8, 9, 10))
    np.testing.assert_array_equal(Affine.translation(y=2, ndim=3)((5, 7, 9)), (5, 9, 9))
    assert Affine.identity(3) == Affine.translation(ndim=3)


def test_theta_turns_x_towards_y() -> None:
    quarter = Affine.rotation(np.pi / 2)
    np.testing.assert_allclose(quarter((0, 1)), (1, 0), atol=1e-15)  # (y, x): x becomes y
    np.testing.assert_allclose(Affine.rotation(0.3).decompose()["theta"], 0.3)


@pytest.mark.parametrize(
    ("name", "before", "after"), [("rz", "x", "y"), ("rx", "y", "z"), ("ry", "z", "x")], ids=("rz", "rx", "ry")
)
def test_positive_angles_follow_the_right_hand(name: str, before: str, after: str) -> None:
    """In x, y, z: rz takes x to y, rx takes y to z, ry takes z to x."""
    unit = {"z": (1.0, 0, 0), "y": (0, 1.0, 0), "x": (0, 0, 1.0)}
    turn = Affine.rotation(**{name: np.pi / 2})
    np.testing.assert_allclose(turn(unit[before]), unit[after], atol=1e-15)


@pytest.mark.slow
@given(ndims.flatmap(lambda n: st.tuples(affines(n), vectors(n))))
def test_rotation_about_a_centre_leaves_it(case: tuple[Affine, Floats]) -> None:
    a, centre = case
    turn = Affine.rotation(0.7, centre=centre) if a.ndim == 2 else Affine.rotation(rx=0.1, rz=0.7, centre=centre)
    np.testing.assert_allclose(turn(centre), centre, atol=1e-10)


def elementary(named: dict[str, float], ndim: int) -> Floats:
    """The same map as products of single motions, written down in x, y(, z) order."""

    def turn(i: int, j: int, angle: float) -> Floats:
        m = np.eye(ndim)
        m[i, i] = m[j, j] = np.cos(angle)
        m[i, j], m[j, i] = -np.sin(angle), np.sin(angle)
        return m

    get = named.get
    if ndim == 2:
        rotation = turn(0, 1, get("theta", 0))
        shear = np.array([[1, get("shx", 0)], [get("shy", 0), 1]])
        scale, shift = np.diag([get("sx", 1), get("sy", 1)]), [get("tx", 0), get("ty", 0)]
    else:
        rotation = turn(0, 1, get("rz", 0)) @ turn(2, 0, get("ry", 0)) @ turn(1, 2, get("rx", 0))
        shear = np.array(
            [
                [1, get("shxy", 0), get("shxz", 0)],
                [get("shyx", 0), 1, get("shyz", 0)],
                [get("shzx", 0), get("shzy", 0), 1],
            ]
        )
        scale = np.diag([get("sx", 1), get("sy", 1), get("sz", 1)])
        shift = [get("tx", 0), get("ty", 0), get("tz", 0)]
    m = np.eye(ndim + 1)
    m[:-1, :-1] = rotation @ shear @ scale
    m[:-1, -1] = shift
    return m


@pytest.mark.slow
@given(ndims.flatmap(lambda n: st.tuples(parameters(n, upper=False), vectors(n), vectors(n))))
def test_parameters_are_the_product_of_single_motions(case: tuple[dict[str, float], Floats, Floats]) -> None:
    named, centre, point = case
    ndim = len(point)
    m = elementary(named, ndim)
    expected = (m @ np.append((point - centre)[::-1], 1))[:-1][::-1] + centre
    np.testing.assert_allclose(Affine.from_parameters(named, ndim=ndim, centre=centre)(point), expected, atol=1e-9)


@pytest.mark.slow
@given(moved)
def test_decompose_gives_the_parameters_back(case: tuple[dict[str, float], Floats]) -> None:
    named, centre = case
    found = Affine.from_parameters(named, ndim=len(centre), centre=centre).decompose(centre)
    assert list(found) == list(identity_parameters(len(centre)))
    for name, value in (identity_parameters(len(centre)) | named).items():
        assert found[name] == pytest.approx(value, abs=1e-8), name


@pytest.mark.slow
@given(ndims.flatmap(lambda n: st.tuples(affines(n), vectors(n))))
def test_decompose_of_any_map_builds_it_again(case: tuple[Affine, Floats]) -> None:
    a, centre = case
    again = Affine.from_parameters(a.decompose(centre), ndim=a.ndim, centre=centre)
    np.testing.assert_allclose(again.matrix, a.matrix, rtol=0, atol=1e-8)


@pytest.mark.parametrize("ry", [np.pi / 2, -np.pi / 2])
@pytest.mark.parametrize("rx", [0.0, 0.4, -2.0])
def test_gimbal_lock_still_builds_the_same_map(ry: float, rx: float) -> None:
    a = Affine.from_parameters(rx=rx, ry=ry, rz=0.7, tx=3.0, sx=1.5, shyz=0.2)
    found = a.decompose()
    assert found["rz"] == 0.0
    np.testing.assert_allclose(Affine.from_parameters(found).matrix, a.matrix, rtol=0, atol=1e-9)


def test_a_reflection_is_a_negative_scale_of_the_last_axis() -> None:
    assert Affine(np.diag([1.0, -1.0, 1.0])).decompose() == pytest.approx(
        identity_parameters(2) | {"theta": np.pi, "sy": -1.0}
    )
    found = Affine(np.diag([-1.0, 1.0, 1.0, 1.0])).decompose()  # z
    assert found == pytest.approx(identity_parameters(3) | {"sz": -1.0})


def test_dimensions_are_told_by_the_names() -> None:
    assert Affine.from_parameters(theta=0.1).ndim == 2
    assert Affine.from_parameters(tx=1).ndim == 2
    assert Affine.from_parameters(rz=0.1).ndim == Affine.from_parameters(shxy=0.1).ndim == 3
    assert Affine.from_parameters(sz=2).ndim == Affine.from_parameters(tx=1, ndim=3).ndim == 3
    assert Affine.from_parameters(tx=1, centre=(1, 2, 3)).ndim == 3
    assert Affine.from_parameters({"tx": 1.0}, ty=2) == Affine.translation(x=1, y=2)
    for ndim in (2, 3):
        assert set(identity_parameters(ndim)) == {n for group in parameter_names(ndim).values() for n in group}


def test_embed_acts_on_some_axes() -> None:
    turn = Affine.rotation(0.4, centre=(1, 2), unit="um")
    solid = turn.embed(3, (1, 2))
    np.testing.assert_allclose(solid((5, 6, 7)), (5, *turn((6, 7))))
    assert solid.unit == "micrometer"
    np.testing.assert_allclose(turn.embed(3, (2, 0))((5, 6, 7)), (turn((7, 5))[1], 6, turn((7, 5))[0]))


def test_identity_is_exact_to_rounding() -> None:
    assert Affine.identity(2).is_identity
    assert (Affine.rotation(0.3) @ Affine.rotation(-0.3)).is_identity
    assert not Affine(np.diag([1 + 1e-6, 1, 1])).is_identity  # 0.01 voxels on a long axis
    assert not Affine.translation(x=1e-9).is_identity


def test_units_meet() -> None:
    pixel, micro, free = (Affine.translation(x=1, unit=u) for u in ("pixel", "um", None))
    assert (micro @ free).unit == (free @ micro).unit == "micrometer"
    assert (free @ free).unit is None
    with pytest.warns(PixelUnitWarning, match="pixels are taken as micrometer"):
        assert (pixel @ micro).unit == "micrometer"
    with pytest.raises(UnitError, match="units differ"):
        micro @ Affine.translation(x=1, unit="mm")
    assert micro.inverse().unit == "micrometer"


def test_axes_meet() -> None:
    named, free = Affine(np.eye(3), axes=("y", "x")), Affine(np.eye(3))
    assert (named @ free).axes == (free @ named).axes == named.inverse().axes == ("y", "x")
    with pytest.raises(ShapeMismatchError, match="do not compose"):
        named @ Affine(np.eye(3), axes=("z", "x"))
    with pytest.raises(InvalidTransformError, match="2 axis names"):
        Affine(np.eye(3), axes=("z", "y", "x"))


def test_a_matrix_without_the_last_row_gets_it() -> None:
    m = np.array([[1, 2, 3], [4, 6, 6]])
    a = Affine(m)
    np.testing.assert_array_equal(a.matrix, [[1, 2, 3], [4, 6, 6], [0, 0, 1]])
    assert a == Affine(a.matrix.tolist())
    assert a.matrix.dtype == np.float64


def test_values_are_immutable_hashable_and_pickle() -> None:
    m = np.eye(3)
    a = Affine(m, unit="um")
    m[0, 2] = 5
    assert a.offset[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        a.matrix[0, 2] = 5
    with pytest.raises(AttributeError):
        a.unit = "mm"  # type: ignore[misc]
    assert {a: 1}[Affine(np.eye(3), unit="micron")] == 1
    assert pickle.loads(pickle.dumps(a)) == a
    negative_zero = Affine(np.array([[1, -0.0, -0.0], [0, 1, 0], [0, 0, 1]]), unit="um")
    assert negative_zero == a
    assert hash(negative_zero) == hash(a)
    assert a != Affine.identity(2)
    assert a != "identity"


@given(ndims.flatmap(affines))
def test_dict_round_trip_is_exact(a: Affine) -> None:
    assert Affine.from_dict(a.to_dict()) == a


def test_repr_says_what_it_does() -> None:
    assert repr(Affine.identity(2)) == "Affine(2D, any unit: identity)"
    assert repr(Affine.from_parameters(theta=np.pi / 6, tx=2.5, unit="um")) == (
        "Affine(2D, micrometer: theta 30 deg, tx 2.5)"
    )
    assert Affine.from_parameters(sx=2, shx=0.1).describe() == "sx 2, shx 0.1"
    assert "matrix" in repr(Affine(np.eye(5)))


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(2, 4), r"shape \(D\+1, D\+1\) is needed.*\(2, 4\)"),
        (np.zeros((0, 0)), "is needed"),
        (np.eye(1), "is needed"),
        (3.0, "is needed"),
        (np.eye(3)[None], r"not \(1, 3, 3\)"),
        (np.diag([1.0, 0, 1]), "singular.*condition number inf"),
        (np.array([[1, 2, 0], [2, 4, 0], [0, 0, 1.0]]), "singular"),
        (np.zeros((3, 3)) + np.diag([0, 0, 1.0]), "singular"),
        (np.diag([1.0, 1e-9, 1]), "singular"),
        (np.diag([1.0, np.nan, 1]), "NaN"),
        (np.diag([1.0, np.inf, 1]), "infinity"),
        (np.array([[1, 0, 0], [0, 1, 0], [1e-3, 0, 1.0]]), "projective"),
        (np.eye(3) * 2, "projective"),
        (np.eye(3) * 1j, "numbers"),
        ([[1, 2], [3]], "numbers"),
        ("shift", "numbers"),
        (None, "numbers"),
    ],
)
def test_bad_matrices(matrix: Any, message: str) -> None:
    with pytest.raises(InvalidTransformError, match=message):
        Affine(matrix)


def test_bad_calls() -> None:
    a = Affine.identity(2)
    for points in ((1, 2, 3), 1.0, np.zeros((4, 3))):
        with pytest.raises(ShapeMismatchError, match=r"\(N, 2\)"):
            a(points)
    with pytest.raises(ShapeMismatchError, match="2D and a 3D"):
        a @ Affine.identity(3)
    with pytest.raises(TypeError):
        a @ np.eye(3)
    with pytest.raises(OptionError, match="no z"):
        Affine.translation(z=1, ndim=2)
    with pytest.raises(OptionError, match="not both"):
        Affine.rotation(0.1, rx=0.1)
    with pytest.raises(OptionError, match="unknown 2D parameter 'rz'"):
        Affine.from_parameters(rz=1, ndim=2)
    with pytest.raises(OptionError, match="unknown 2D parameter 'angle'"):
        Affine.from_parameters(angle=1)
    with pytest.raises(OptionError, match="2 and 3 dimensions"):
        Affine.identity(4).decompose()
    with pytest.raises(InvalidTransformError, match="singular"):
        Affine.from_parameters(sx=0)
    with pytest.raises(InvalidTransformError, match="NaN"):
        Affine.from_parameters(tx=np.nan)
    with pytest.raises(ShapeMismatchError, match="centre of 2 numbers"):
        Affine.rotation(0.1, centre=(1, 2, 3))
    with pytest.raises(ShapeMismatchError, match="centre of 2 numbers"):
        a.decompose(5.0)


def test_as_affine_takes_what_holds_one() -> None:
    a = Affine.translation(x=1)
    assert as_affine(a, 2) is a
    assert as_affine(SimpleNamespace(transform=a), 2) is a
    assert as_affine(a.matrix, 2) == a
    with pytest.raises(InvalidTransformError, match="init is 2D where 3D is needed"):
        as_affine(a, 3, "init")
    with pytest.raises(InvalidTransformError, match="must be one Affine, not SliceAffines"):
        as_affine(SliceAffines(np.eye(3)[None]), 2)
    with pytest.raises(InvalidTransformError, match="numbers"):
        as_affine("identity", 2)


def test_transforms_are_transforms() -> None:
    assert isinstance(Affine.identity(2), Transform)
    assert isinstance(SliceAffines(np.eye(3)[None]), Transform)
