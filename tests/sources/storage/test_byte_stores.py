"""Files and objects behind one interface; object stores that are busy, slow, forbidden, full or not there."""

from __future__ import annotations

import pickle
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3 import KEY, SECRET

from daskreg.errors import NoBucketError, OptionError, StorageFullError, StoreError, StoreForbiddenError
from daskreg.sources.storage import object_bytes, object_tags
from daskreg.sources.storage.access import forget_store, remember_options, split_url
from daskreg.sources.storage.byte_store import ByteStore
from daskreg.sources.storage.counters import count_events
from daskreg.sources.storage.folder_bytes import FolderBytes
from daskreg.sources.storage.object_bytes import ObjectBytes
from daskreg.sources.storage.object_errors import translated
from daskreg.sources.storage.retrying import EmptyValueError


@pytest.fixture
def objects(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectBytes]:
    monkeypatch.setattr(object_bytes, "FIRST_DELAY", 0.001)
    remember_options(s3.url, s3.options)
    yield ObjectBytes(s3.url)
    remember_options(s3.url, {})


@pytest.fixture(params=["folder", "objects"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ByteStore:
    if request.param == "folder":
        return FolderBytes(tmp_path)
    found: ByteStore = request.getfixturevalue("objects")
    return found


def content(store: ByteStore, *args: Any) -> bytes | None:
    data = store.get(*args)
    return None if data is None else bytes(data)


@pytest.mark.slow
def test_bytes_come_back_by_key(store: ByteStore) -> None:
    store.put("a/b.x", [b"hello ", b"world"])
    store.put("a/c", [b"1"], sync=True)
    store.put("top", [b"2"])
    assert content(store, "a/b.x") == b"hello world"
    assert content(store, "a/b.x", 6) == b"world"
    assert content(store, "a/b.x", 2, 3) == b"llo"
    assert content(store, "a/b.x", -4) == b"orld"
    assert content(store, "a/b.x", -4, 2) == b"or"
    assert content(store, "a/b.x", -400) == b"hello world"
    assert content(store, "nothing") is None
    assert sorted(store.listing()) == ["a/b.x", "a/c", "top"]
    assert list(store.listing("a/b")) == ["a/b.x"]
    store.put("top", [b"3"])
    assert content(store, "top") == b"3"
    store.delete(["top", "a/c", "nothing"])
    assert sorted(store.listing()) == ["a/b.x"]
    assert "a/b.x" in store.where("a/b.x")


def test_a_value_of_no_bytes_is_an_error(objects: ObjectBytes) -> None:
    objects.put("empty", [])
    with pytest.raises(EmptyValueError):
        objects.get("empty")


def test_of_twenty_that_create_a_key_one_has_made_it(store: ByteStore) -> None:
    made: list[bool] = []
    threads = [
        threading.Thread(target=lambda k=k: made.append(store.create("claim-0", f"it is {k}".encode())))
        for k in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (made.count(True), made.count(False)) == (1, 19)


@pytest.mark.slow
def test_a_busy_store_is_asked_again_and_that_is_counted(objects: ObjectBytes, s3: Any) -> None:
    s3.fail_often(0.3)
    with count_events() as seen:
        for k in range(20):
            objects.put(f"k/{k}", [b"%d" % k])
        assert [bytes(objects.get(f"k/{k}") or b"") for k in range(20)] == [b"%d" % k for k in range(20)]
        assert len(list(objects.listing("k/"))) == 20
    assert 5 < seen.retries == len(s3.requests) - 41


@pytest.mark.slow
def test_who_created_a_key_knows_it_though_the_answer_was_lost(objects: ObjectBytes, s3: Any) -> None:
    s3.lost = 0.6
    assert all(objects.create(f"claim-{k}", b"mine %d" % k) for k in range(8))
    assert not any(objects.create(f"claim-{k}", b"yours") for k in range(8))


@pytest.mark.slow
def test_a_large_object_is_sent_in_parts_and_appears_at_once(
    objects: ObjectBytes, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_bytes, "WHOLE", 2**20)
    monkeypatch.setattr(object_bytes, "PART", 5 * 2**20)
    parts = [bytes([k]) * 2**20 for k in range(12)]
    objects.put("large", parts)
    assert s3.count(r"^PUT .*uploadId=") == 3
    assert content(objects, "large") == b"".join(parts)


@pytest.mark.slow
def test_an_answer_that_takes_too_long_is_asked_for_again(objects: ObjectBytes, s3: Any) -> None:
    objects.put("a", [b"1"])
    remember_options(s3.url, {**s3.options, "timeout": "0.5s"})
    slow = iter([2.0])
    s3.fault = lambda *_: next(slow, None)
    with count_events() as seen:
        assert content(objects, "a") == b"1"
    assert seen.retries == 1


FAULTS = {
    403: (StoreForbiddenError, "forbidden .AccessDenied"),
    503: (StoreError, "SlowDown, status 503.* after 9 tries"),
    507: (StorageFullError, "no space left .*QuotaExceeded"),
}


@pytest.mark.slow
@pytest.mark.parametrize("status", FAULTS)
def test_a_fault_that_stays_is_a_typed_error_with_the_url(objects: ObjectBytes, s3: Any, status: int) -> None:
    kind, told = FAULTS[status]
    s3.fault = lambda *_: status
    calls = (lambda: objects.put("a", [b"1"]), lambda: objects.get("a"), lambda: list(objects.listing()))
    for call in calls:
        with pytest.raises(kind, match=told) as raised:
            call()
        assert s3.url in str(raised.value)
        assert SECRET not in str(raised.value)
        assert KEY not in str(raised.value)
        assert type(pickle.loads(pickle.dumps(raised.value))) is kind
    assert len(s3.requests) == 3 * (9 if status == 503 else 1)


def test_a_bucket_that_is_not_there(s3: Any) -> None:
    remember_options("s3://no-such-bucket", s3.options)
    nowhere = ObjectBytes("s3://no-such-bucket/a.zarr")
    for call in (lambda: nowhere.get("a"), lambda: nowhere.put("a", [b"1"]), lambda: list(nowhere.listing())):
        with pytest.raises(NoBucketError, match=r"s3://no-such-bucket/a\.zarr.* does not exist"):
            call()


def test_a_store_that_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_bytes, "FIRST_DELAY", 0.001)
    remember_options("s3://away", {"endpoint": "http://127.0.0.1:9", "access_key_id": KEY, "secret_access_key": SECRET})
    with pytest.raises(StoreError, match=r"nothing answers at http://127\.0\.0\.1:9: .* after 9 tries"):
        ObjectBytes("s3://away/x").get("a")


@pytest.mark.parametrize(("known", "tries"), [(False, 2), (True, 9)])
def test_a_store_that_never_answered_is_given_up_soon(known: bool, tries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"s3://away-{known}"
    monkeypatch.setattr(object_bytes, "FIRST_DELAY", 0.001)
    seconds = iter((1.0, 7.0))
    monkeypatch.setattr(object_bytes, "_silence", lambda root: next(seconds))
    monkeypatch.setattr(object_bytes, "_answered", {url} if known else set())
    remember_options(url, {"endpoint": "http://127.0.0.1:9", "access_key_id": KEY, "secret_access_key": SECRET})
    with pytest.raises(StoreError, match=f"after {tries} tries"):
        ObjectBytes(f"{url}/x").get("a")


def test_silence_is_counted_from_the_first_request_and_forgotten_after_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(object_bytes.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(object_bytes, "_silent_since", {})
    assert [object_bytes._silence("s3://a"), object_bytes._silence("s3://b")] == [0, 0]
    now[0] = 107.0
    assert object_bytes._silence("s3://a") == 7
    now[0] = 161.0
    assert object_bytes._silence("s3://a") == 0


def test_unknown_options_are_named_and_values_are_not(s3: Any) -> None:
    remember_options("s3://other", {"sekret": SECRET})
    with pytest.raises(OptionError, match="sekret") as raised:
        ObjectBytes("s3://other/x").get("a")
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("url", ["s3://me:pw@b/x", "s3://me@b/x", "https://h/x?sig=1", "gs://b/x#token=2", "s3:///x"])
def test_urls_with_credentials_or_without_a_bucket_are_refused(url: str) -> None:
    with pytest.raises(OptionError):
        split_url(url)


def test_options_of_fsspec_are_understood(s3: Any) -> None:
    remember_options(
        "s3://bucket",
        {"key": KEY, "secret": SECRET, "client_kwargs": {"endpoint_url": s3.endpoint, "region_name": "x"}},
    )
    ObjectBytes(s3.url).put("a", [b"1"])
    assert content(ObjectBytes(s3.url), "a") == b"1"


def test_keys_of_the_profile_are_found(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "credentials"
    file.write_text(f"[work]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    remember_options("s3://bucket", {"region": "us-east-1"})
    ObjectBytes(s3.url).put("a", [b"1"])
    assert s3.requests[-1][0] == "PUT"


def test_credentials_that_come_later_are_found(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    remember_options(s3.url, {})
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of yesterday")
    s3.fault = lambda *_: 403
    with pytest.raises(StoreForbiddenError):
        ObjectBytes(s3.url).put("a", [b"1"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3.moto_port}")  # where nothing is forbidden
    ObjectBytes(s3.url).put("a", [b"1"])
    assert content(ObjectBytes(s3.url), "a") == b"1"
    forget_store("s3://bucket")


def test_many_tags_are_listed_and_are_those_that_are_asked_for(
    objects: ObjectBytes, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_tags, "MOST_ASKED", 4)
    for k in range(6):
        objects.put(f"c/{k}", [b"%d" % k])
    keys = [f"c/{k}" for k in range(7)]
    asked = object_tags.tags_of(objects, keys)
    assert asked[6] is None
    assert len(set(asked)) == 7
    with object_tags.listed_tags():
        assert object_tags.tags_of(objects, keys[:3]) == asked[:3]  # few: one by one
        before = len(s3.requests)
        assert object_tags.tags_of(objects, keys) == asked
        assert object_tags.tags_of(objects, keys) == asked
        assert [method for method, _ in s3.requests[before:]] == ["GET"]
    objects.put("c/3", [b"other"])
    now = object_tags.tags_of(objects, keys)
    assert [k for k in range(7) if now[k] != asked[k]] == [3]


@pytest.mark.parametrize(
    ("url", "variable"),
    [
        ("s3://b/x", "AWS_ACCESS_KEY_ID"),
        ("gs://b/x", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("abfs://b/x", "AZURE_STORAGE_ACCOUNT_NAME"),
    ],
)
def test_missing_credentials_name_the_variable_of_the_store(url: str, variable: str) -> None:
    error = OSError("Generic error: Error performing GET http://169.254.169.254/latest/api/token in 2s")
    assert re.search(rf"{url}: no credentials.*{variable}", str(translated(error, url)))
