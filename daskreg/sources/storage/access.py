"""Object stores by URL, and what is needed to reach them: options that stay in the memory of each process.

A URL says where a bucket is, and never who asks: sources, graphs, ledgers and messages hold URLs. Credentials come
from the environment of each process, from the profile of AWS, from the role of its machine, or from `storage_options`,
which `remember_options` keeps here by bucket. `sources.store_options` gives them to workers.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from daskreg.errors import MissingExtraError, OptionError
from daskreg.sources.storage.redact import redact

S3, READ_ONLY = ("s3", "s3a"), ("http", "https")
SCHEMES = (*S3, "gs", "az", "azure", "abfs", "abfss", "adl", *READ_ONLY)
"""Schemes of the URLs that obstore reads; other ones are left to fsspec."""

TIMEOUT = "120s"
"""For one request, its body included: an object of 64 MiB in this time needs half a MiB a second."""

_OF_FSSPEC = {
    "key": "access_key_id",
    "secret": "secret_access_key",
    "token": "session_token",
    "anon": "skip_signature",
    "endpoint_url": "endpoint",
    "region_name": "region",
}
"""Names of `storage_options` in s3fs, with those that obstore gives them."""

_OF_CLIENT = ("allow_http", "allow_invalid_certificates", "connect_timeout", "proxy_url", "timeout", "user_agent")
"""Options of the connection, which obstore takes apart from the others."""

_SAME = {"s3a": "s3", "azure": "az"}
"""Schemes that mean the same as others."""

_lock = Lock()
_options: dict[str, dict[str, Any]] = {}
_stores: dict[str, Any] = {}


def is_object_url(text: str) -> bool:
    """Whether a text is the URL of an object store, or of a web server."""
    return "://" in text and text.partition("://")[0].lower() in SCHEMES


def split_url(url: str) -> tuple[str, str]:
    """The root of a URL, `scheme://bucket`, and the key below it; one spelling of each scheme.

    Raises: OptionError for a URL that names no bucket, or holds a user, a password, a query or a fragment.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc and parts.scheme not in ("abfs", "abfss"):
        raise _no_credentials(url)
    if parts.query or parts.fragment or ":" in parts.netloc.rpartition("@")[0]:
        raise _no_credentials(url)
    if not parts.netloc:
        raise OptionError(f"{redact(url)} names no bucket or host")
    scheme = parts.scheme.lower()
    return f"{_SAME.get(scheme, scheme)}://{parts.netloc}", parts.path.strip("/")


def _no_credentials(url: str) -> OptionError:
    return OptionError(
        f"{redact(url)} holds a user, a password or a query, which would be copied into graphs and ledgers: give a "
        "plain URL, and credentials as storage_options= or in the environment"
    )


def remember_options(url: str, options: Mapping[str, Any]) -> None:
    """Use these options for the bucket of a URL, in this process; no options: what the environment says.

    Raises: OptionError for a URL that holds credentials, MissingExtraError.
    """
    root, _ = split_url(url)
    with _lock:
        if dict(options) != _options.get(root, {}):
            _options[root] = dict(options)
            _stores.pop(root, None)


def remembered_options() -> dict[str, dict[str, Any]]:
    """All options that `remember_options` was given, by the root of their URLs."""
    with _lock:
        return {root: dict(options) for root, options in _options.items() if options}


def obstore() -> Any:
    """The library.

    Raises: MissingExtraError.
    """
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError:
        raise MissingExtraError("obstore", "cloud") from None
    return obstore


def object_store(root: str) -> Any:
    """The store of obstore at a root, made at the first call, without retries (`storage.object_bytes` has them).

    Raises: MissingExtraError, OptionError for options that it does not know.
    """
    with _lock:
        if root not in _stores:
            _stores[root] = _made(root, _options.get(root, {}))
        return _stores[root]


def forget_store(root: str) -> None:
    """Make the store of a root anew at the next call: the environment or the profile may have other credentials now."""
    with _lock:
        _stores.pop(root, None)


def _made(root: str, options: Mapping[str, Any]) -> Any:
    library = obstore()
    config, client = _sorted_options(root, options)
    try:
        if root.startswith(READ_ONLY):
            return library.store.HTTPStore.from_url(root, client_options=client, retry_config={"max_retries": 0})
        return library.store.from_url(root, config=config, client_options=client, retry_config={"max_retries": 0})
    except (library.exceptions.BaseError, ValueError, TypeError) as error:
        # The error may repeat a value.
        names = ", ".join(sorted(options)) or "none"
        raise OptionError(
            f"{root} cannot be reached with these storage_options ({names}; {type(error).__name__}): their names are "
            "those of obstore (access_key_id, secret_access_key, endpoint, region, ...)"
        ) from None


def _sorted_options(root: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options as obstore takes them: for the store, for the connection."""
    flat = dict(options)
    client: dict[str, Any] = {"timeout": TIMEOUT, "connect_timeout": "10s", **flat.pop("client_options", {})}
    flat |= flat.pop("client_kwargs", {})  # of fsspec
    config = {_OF_FSSPEC.get(name, name): value for name, value in flat.items()}
    client |= {name: config.pop(name) for name in _OF_CLIENT if name in config}
    if root.startswith(S3):
        config = {**_profile(config), **config}
    target = _endpoint(root, config)
    if re.match(r"http://(localhost|127\.0\.0\.1|\[::1\])(:|/|$)", target):
        client.setdefault("allow_http", True)  # without TLS to this machine only, unless the user says so
    return config, client


def endpoint_of(root: str) -> str:
    """Where requests to a root go, as far as options or the environment say so; else the root."""
    with _lock:
        options = dict(_options.get(root, {}))
    flat = options | options.pop("client_kwargs", {})
    return redact(_endpoint(root, {_OF_FSSPEC.get(name, name): value for name, value in flat.items()}) or root)


def _endpoint(root: str, config: Mapping[str, Any]) -> str:
    return root if root.startswith(READ_ONLY) else str(config.get("endpoint") or _endpoint_of_environment(root))


def _endpoint_of_environment(root: str) -> str:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT") if root.startswith(S3) else ()
    return next((os.environ[name] for name in names if name in os.environ), "")


def _profile(config: Mapping[str, Any]) -> dict[str, str]:
    """Keys of the profile in AWS's file, where neither the options nor the environment have any.

    obstore reads the environment, and the role of a machine or container, but not this file.
    """
    if {"access_key_id", "aws_access_key_id", "skip_signature"} & set(config) or "AWS_ACCESS_KEY_ID" in os.environ:
        return {}
    found = configparser.RawConfigParser()
    name = os.environ.get("AWS_PROFILE", "default")
    try:
        found.read(Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser(), "utf-8")
        section = dict(found[name])
    except (configparser.Error, KeyError, OSError, UnicodeDecodeError):
        return {}
    names = {"access_key_id": "aws_access_key_id", "secret_access_key": "aws_secret_access_key"}
    names |= {"session_token": "aws_session_token", "region": "region", "endpoint": "endpoint_url"}
    return {ours: section[theirs] for ours, theirs in names.items() if theirs in section}
