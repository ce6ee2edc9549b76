"""Spellings of units, and which units go together."""

from __future__ import annotations

import pytest

from daskreg.errors import PixelUnitWarning, UnitError
from daskreg.geometry import canonical_unit, common_unit, length_ratio, shared_unit, units_of_axes


@pytest.mark.parametrize(
    ("names", "canonical"),
    [
        (("um", "µm", "\u03bcm", "micron", "Microns", "micrometre", "micrometer", " um ", "UM"), "micrometer"),
        (("nm", "nanometer", "nanometres", "Nanometer"), "nanometer"),
        (("mm", "MM", "millimetre"), "millimeter"),
        (("Å", "\u212b", "angstrom", "Angstrom", "ang"), "angstrom"),
        (("px", "pixel", "Pixels", "voxel", "", None), "pixel"),
        (("m", "metres"), "meter"),
        (("inch", "in"), "inch"),
        (("s", "sec", "second"), "second"),
        (("picometer",), "picometer"),
        (("kilometer",), "kilometer"),
        (("minute",), "minute"),
    ],
)
def test_spellings(names: tuple[str | None, ...], canonical: str) -> None:
    for name in names:
        assert canonical_unit(name) == canonical
    assert canonical_unit(canonical) == canonical


@pytest.mark.parametrize("name", ["furlong", "Mm", "micro meter", "1"])
def test_unknown_units_name_the_remedy(name: str) -> None:
    with pytest.raises(UnitError, match=f"unknown unit '{name}'.*micrometer.*unit='pixel'"):
        canonical_unit(name)


OME_SPACE = [
    "angstrom",
    "attometer",
    "centimeter",
    "decimeter",
    "exameter",
    "femtometer",
    "foot",
    "gigameter",
    "hectometer",
    "inch",
    "kilometer",
    "megameter",
    "meter",
    "micrometer",
    "mile",
    "millimeter",
    "nanometer",
    "parsec",
    "petameter",
    "picometer",
    "terameter",
    "yard",
    "yoctometer",
    "yottameter",
    "zeptometer",
    "zettameter",
]


@pytest.mark.parametrize("name", OME_SPACE)
def test_all_units_of_length_of_ome_ngff_are_known(name: str) -> None:
    assert canonical_unit(name) == name


def test_common_unit() -> None:
    assert common_unit(None, None) is None
    assert common_unit("nanometer", None) == common_unit(None, "nanometer") == "nanometer"
    assert common_unit("pixel", "pixel") == "pixel"
    for pair in (("pixel", "nanometer"), ("nanometer", "pixel")):
        with pytest.warns(PixelUnitWarning, match="fixed and moving: one side is in pixels"):
            assert common_unit(*pair, "fixed and moving") == "nanometer"
    with pytest.raises(UnitError, match=r"units differ \(nanometer and meter\)"):
        common_unit("nanometer", "meter")


def test_a_unit_that_two_images_share() -> None:
    assert shared_unit(None, "nanometer", "these") == shared_unit("nanometer", "nanometer", "these") == "nanometer"
    assert shared_unit("pixel", "pixel", "these") == shared_unit("pixel", None, "these") == "pixel"
    for pair in (("pixel", "nanometer"), ("nanometer", "pixel")):
        with pytest.raises(UnitError, match=r"these: one side is in pixels, the other in nanometer.*spacing"):
            shared_unit(*pair, "these")


@pytest.mark.parametrize(
    ("a", "b", "ratio"),
    [("micrometer", "nanometer", 1000), ("nanometer", "millimeter", 1e-6), ("angstrom", "nanometer", 0.1),
     ("inch", "millimeter", 25.4), ("foot", "inch", 12), ("micrometer", "micrometer", 1)],
)  # fmt: skip
def test_ratios_of_lengths(a: str, b: str, ratio: float) -> None:
    assert length_ratio(a, b) == pytest.approx(ratio, rel=1e-15)


def test_what_is_no_length_has_no_ratio() -> None:
    assert length_ratio("pixel", "micrometer") is None
    assert length_ratio("meter", "second") is None


def test_one_unit_for_all_axes() -> None:
    assert units_of_axes(["micrometer", "nanometer", "nanometer"], "a") == ("nanometer", (1000.0, 1.0, 1.0))
    assert units_of_axes(["pixel", "pixel"], "a") == ("pixel", (1.0, 1.0))
    assert units_of_axes(["degree", "degree"], "a") == ("degree", (1.0, 1.0))
    with pytest.warns(PixelUnitWarning, match="pixels are taken as micrometer"):
        assert units_of_axes(["nanometer", "micrometer", "pixel"], "a") == ("micrometer", (0.001, 1.0, 1.0))
    with pytest.raises(UnitError, match="second and millimeter"):
        units_of_axes(["second", "millimeter"], "a")
