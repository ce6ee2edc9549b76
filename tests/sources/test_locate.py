"""Paths: what they point at, and what is refused."""

from __future__ import annotations

import os

import numpy as np
import pytest
import zarr

import daskreg as dr
from daskreg.errors import NotAVolumeError
from daskreg.sources.locate import StoreLocation, locate
from daskreg.sources.storage.redact import is_url, redact


@pytest.fixture
def store(tmp_path):
    group = zarr.create_group(tmp_path / "s.ome.zarr")
    group.create_group("g").create_array("a", data=np.arange(3))
    return tmp_path / "s.ome.zarr"


def test_a_directory_inside_a_store(store):
    kind, place = locate(store / "g" / "a")
    assert (kind, place.root, place.inner) == ("zarr", str(store / "g" / "a"), "")
    assert [(p.root, down) for p, down in place.parents()] == [(str(store / "g"), "a"), (str(store), "g/a")]
    assert locate(store)[1].name == "s"
    assert locate(f"{store}::/g/a")[1].root == str(store / "g" / "a")
    assert locate(f"file://{store}")[1].root == str(store)


def test_relative_paths_and_the_home_folder(store, monkeypatch):
    monkeypatch.chdir(store.parent)
    monkeypatch.setenv("HOME", str(store.parent))
    for text in ("s.ome.zarr", "./s.ome.zarr", f"../{store.parent.name}/s.ome.zarr", "~/s.ome.zarr"):
        assert locate(text)[1].root == str(store)


@pytest.mark.parametrize("path", ["g/../../secret", "g/../g/a", "..", "../s.ome.zarr/g"])
def test_climbing_inside_a_store_is_refused(store, path):
    with pytest.raises(NotAVolumeError, match=r"'\.\.' inside a store"):
        locate(f"{store}/{path}")


@pytest.mark.parametrize("path", ["../x", "g/../../x", "/etc/passwd", "\\\\host\\x", "C:\\x", "..\\x"])
def test_metadata_cannot_lead_out_of_a_store(store, path):
    for place in (StoreLocation(str(store)), StoreLocation(str(store / "x.zip"), "g")):
        with pytest.raises(NotAVolumeError, match="leads out of the store"):
            place.child(path)


def test_paths_that_lead_nowhere(store, tmp_path):
    for path in (tmp_path / "nothing.zarr", tmp_path / "no" / "such" / "folder"):
        with pytest.raises(NotAVolumeError, match="does not exist"):
            locate(path)
    with pytest.raises(NotAVolumeError, match="b does not exist.*holds g"):
        locate(store / "b")
    with pytest.raises(NotAVolumeError, match=r"not a Zarr array or group.*Zarr .* MRC.* files are read"):
        locate(tmp_path)
    for name in ("a.txt", "a.csv.gz", "LICENSE"):
        (tmp_path / name).write_bytes(b"1")
        with pytest.raises(NotAVolumeError, match=rf"{name}: .* MRC.* files are read"):
            locate(tmp_path / name)
    (tmp_path / "a.png").write_bytes(b"1")
    with pytest.raises(NotAVolumeError, match="holds nothing at"):
        locate(tmp_path / "a.png" / "inner")


def test_suffixes_of_packed_files(tmp_path):
    for name, kind in (("a.nii.gz", "nifti"), ("a.b.NII", "nifti"), ("a.mrc.bz2", "mrc"), ("a.b.nrrd", "itk")):
        (tmp_path / name).write_bytes(b"1")
        assert locate(tmp_path / name)[0] == kind


def test_a_path_goes_on_inside_a_zip_file(tmp_path):
    (tmp_path / "a.zarr.zip").write_bytes(b"1")
    place = locate(tmp_path / "a.zarr.zip" / "g" / "a")[1]
    assert (place.root, place.inner) == (str(tmp_path / "a.zarr.zip"), "g/a")
    assert [(p.inner, down) for p, down in place.parents()] == [("g", "a"), ("", "g/a")]
    assert place.path == f"{tmp_path}/a.zarr.zip::/g/a"


def test_path_likes(store):
    class Like(os.PathLike):
        def __fspath__(self):
            return str(store)

    assert locate(Like())[1].root == str(store)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://me:pw@host/x.zarr", "https://***@host/x.zarr"),
        ("s3://key@bucket/x", "s3://***@bucket/x"),
        ("https://host/x?X-Amz-Signature=abc&token=d#e", "https://host/x?X-Amz-Signature=***&token=***#e"),
        ("cannot open 'https://a:b@host/x?sig=1' now", "cannot open 'https://***@host/x?sig=***' now"),
        ("/plain/path@here?x=1", "/plain/path@here?x=1"),
        ("https://host/x.zarr", "https://host/x.zarr"),
    ],
)
def test_credentials_are_redacted(text, clean):
    assert redact(text) == clean


def test_what_is_a_url():
    assert is_url("s3://bucket/x")
    assert not is_url("file:///x")
    assert not is_url("/x/y.zarr")
    assert str(StoreLocation("https://me:pw@host/x.zarr", "a")) == "https://***@host/x.zarr::/a"


@pytest.mark.parametrize("path", ["a:://b", "://x", ":://", "a::///b"])
def test_paths_that_look_like_urls_without_a_scheme(path):
    with pytest.raises(NotAVolumeError):
        dr.open(path)
