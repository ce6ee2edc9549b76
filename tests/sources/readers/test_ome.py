"""OME-Zarr metadata: spacing and origin of each level, and what is broken."""

from __future__ import annotations

import numpy as np
import pytest

from daskreg.errors import InvalidSpacingError, MetadataWarning, NotAVolumeError, OptionError
from daskreg.sources.readers.ome import multiscale, spatial


def image(transforms, axes="zyx", **more):
    return {
        "axes": [
            {"name": a, "type": {"t": "time", "c": "channel"}.get(a, "space"), "unit": "micrometer"} for a in axes
        ],
        "datasets": [{"path": str(k), "coordinateTransformations": t} for k, t in enumerate(transforms)],
        **more,
    }


def scale(*values):
    return {"type": "scale", "scale": list(values)}


def shift(*values):
    return {"type": "translation", "translation": list(values)}


@pytest.mark.parametrize(
    "wrap", [lambda m: {"multiscales": [m]}, lambda m: {"ome": {"version": "0.5", "multiscales": [m]}}]
)
def test_levels_and_the_transform_of_the_whole(wrap):
    # Worked by hand: 10 * (2 * i + 0.5) + 100 = 20 * i + 105.
    attrs = wrap(
        image(
            [[scale(1, 1, 1)], [scale(1, 2, 2), shift(0, 0.5, 0.5)]],
            coordinateTransformations=[scale(10, 10, 10), shift(0, 100, 0)],
            name="brain",
        )
    )
    found = multiscale(attrs, "here")
    assert found.name == "brain"
    one = found.level(1, recentre=False, what="here")
    np.testing.assert_allclose(one.scale, [10, 20, 20])
    np.testing.assert_allclose(one.origin, [0, 105, 5])
    assert found.level(-1, recentre=True, what="here").origin.tolist() == one.origin.tolist()
    zero = found.level(0, recentre=True, what="here")
    np.testing.assert_allclose(zero.origin, [0, 100, 0])


def test_levels_without_a_translation_are_trusted_with_a_warning_or_recentred():
    attrs = {"multiscales": [image([[scale(0.5, 1, 1)], [scale(0.5, 2, 2)], [scale(1, 4, 4)]])]}
    found = multiscale(attrs, "here")
    found.level(0, recentre=False, what="here")  # no warning
    with pytest.warns(MetadataWarning, match="level 2.*recentre=True") as caught:
        trusted = found.level(-1, recentre=False, what="here")
    assert len(caught) == 1
    np.testing.assert_allclose(trusted.origin, 0)
    moved = found.level(2, recentre=True, what="here")
    np.testing.assert_allclose(moved.origin, [0.25, 1.5, 1.5])  # (f - 1) / 2 voxels of level 0, f = 2, 4, 4


def test_recentring_keeps_to_the_transform_of_the_whole_and_to_space():
    transforms = [[scale(1, 1, 1)], [scale(2, 2, 2)]]
    attrs = {"multiscales": [image(transforms, "tyx", coordinateTransformations=[scale(5, 10, 10), shift(7, 100, 0)])]}
    one = multiscale(attrs, "here").level(1, recentre=True, what="here")
    np.testing.assert_allclose(one.origin, [7, 105, 5])


def test_an_explicit_zero_is_a_translation():
    attrs = {"multiscales": [image([[scale(1, 1, 1)], [scale(2, 2, 2), shift(0, 0, 0)]])]}
    one = multiscale(attrs, "here").level(1, recentre=True, what="here")
    np.testing.assert_allclose(one.origin, 0)


def test_old_versions_name_axes_plainly_or_not_at_all():
    old = {"multiscales": [{"version": "0.3", "axes": ["c", "y", "x"], "datasets": [{"path": "0"}]}]}
    found = multiscale(old, "here")
    assert [(a.name, a.type) for a in found.axes] == [("c", "channel"), ("y", "space"), ("x", "space")]
    older = multiscale({"multiscales": [{"version": "0.1", "datasets": [{"path": "0"}]}]}, "here")
    assert spatial(older.axes, "here") == (("t", "c"), ("z", "y", "x"))


def test_channel_labels():
    attrs = {"multiscales": [image([[scale(1, 1, 1)]], "cyx")], "omero": {"channels": [{"label": "DAPI"}, {}]}}
    assert multiscale(attrs, "here").labels == ("DAPI", "1")


def test_no_multiscale_is_none():
    assert multiscale({"something": 1}, "here") is None
    assert multiscale({"ome": {"version": "0.5", "plate": {}}}, "here") is None


def test_several_images_take_the_first_with_a_warning():
    both = {"multiscales": [image([[scale(1, 1, 1)]], name="a"), image([[scale(2, 2, 2)]], name="b")]}
    with pytest.warns(MetadataWarning, match="2 multiscale images"):
        assert multiscale(both, "here").name == "a"


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"datasets": []},
        {"datasets": [{}], "axes": ["y", "x"]},
        {"datasets": "x", "axes": ["y", "x"]},
        {"datasets": [{"path": "0"}], "axes": [{"type": "space"}]},
        {"datasets": [{"path": "0"}], "axes": ["x", "x"]},
        {"datasets": [{"path": "0", "coordinateTransformations": [scale(1, 1, 1)]}], "axes": ["y", "x"]},
        {"datasets": [{"path": "0", "coordinateTransformations": [{"type": "affine"}]}], "axes": ["y", "x"]},
        {
            "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "path": "s"}]}],
            "axes": ["y", "x"],
        },
        {"datasets": [{"path": "0", "coordinateTransformations": [scale("a", 1)]}], "axes": ["y", "x"]},
        {"datasets": [{"path": "0"}], "axes": 3},
        {"coordinateSystems": [], "datasets": []},
        {"version": "0.6.dev1", "datasets": []},
    ],
)
def test_broken_metadata_is_not_a_volume(broken):
    with pytest.raises(NotAVolumeError, match="here"):
        multiscale({"multiscales": [broken]}, "here")
    with pytest.raises(NotAVolumeError, match="here"):
        multiscale({"multiscales": broken or 3}, "here")


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_scale_must_be_positive(value):
    with pytest.raises(InvalidSpacingError, match="along y"):
        multiscale({"multiscales": [image([[scale(1, value, 1)]])]}, "here")


def test_unknown_levels_and_axes():
    found = multiscale({"multiscales": [image([[scale(1, 1, 1)]] * 2)]}, "here")
    for level in (2, -3):
        with pytest.raises(OptionError, match="which has 2"):
            found.level(level, recentre=False, what="here")
    four = multiscale({"multiscales": [image([[scale(1, 1, 1, 1)]], "wzyx")]}, "here")
    with pytest.raises(NotAVolumeError, match="4 axes of type space"):
        spatial(four.axes, "here")
