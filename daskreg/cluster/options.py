"""What the kinds of clusters have in common: who can reach them, and how a config is built from plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import formatannotation
from typing import Any, TypeVar

from daskreg.errors import OptionError

T = TypeVar("T")


class ClusterConfig:
    """The options of one kind of cluster: the base of a frozen dataclass for each kind."""


@dataclass(frozen=True)
class Tls:
    """Certificate files (PEM) that scheduler, workers and client share."""

    ca_file: str
    cert: str
    key: str


@dataclass(frozen=True)
class Network(ClusterConfig):
    """Options of clusters that `connect` starts: only this run can join them, and only this machine can reach them.

    Args:
        interface: name of a network interface, such as "ib0"; None: the loopback interface.
        tls: certificate files, or "temporary" for a self-signed pair of this run alone, which None means too.
        insecure: without `tls`, use none; anyone who reaches the cluster can run code. A warning says so.
        dashboard_port: port of the dashboard on the loopback interface, whose address has a token; None: no dashboard.
    """

    interface: str | None = None
    tls: Tls | str | None = None
    insecure: bool = False
    dashboard_port: int | None = 8787

    def __post_init__(self) -> None:
        if isinstance(self.tls, str) and self.tls != "temporary":
            raise OptionError(f"tls: {self.tls!r} is neither 'temporary' nor ca_file, cert and key")
        if self.dashboard_port is not None and not 0 <= self.dashboard_port < 2**16:
            raise OptionError(f"dashboard_port: {self.dashboard_port} is not from 0 to 65535")


def build(cls: type[T], data: Mapping[str, Any]) -> T:
    """An instance of a dataclass from plain data, with unknown and missing keys named.

    Raises: OptionError.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = [str(k) for k in data if k not in fields]
    if unknown:
        named = ", ".join(key + suggestion(key, fields) for key in unknown)
        raise OptionError(f"unknown key {named}; known are {', '.join(fields)}")
    missing = [
        name
        for name, f in fields.items()
        if name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise OptionError(f"missing key {', '.join(missing)}")
    kinds = {name: formatannotation(f.type) if isinstance(f.type, type) else str(f.type) for name, f in fields.items()}
    return cls(**{name: _coerced(name, kinds[name], value) for name, value in data.items()})


def suggestion(name: str, known: Iterable[str]) -> str:
    """A question after a name that is not known, where a known one is like it."""
    like = get_close_matches(name, list(known), n=1)
    return f" (did you mean {like[0]}?)" if like else ""


_KINDS = {
    "int": "a whole number",
    "str": "text",
    "bool": "true or false",
    "tuple[str, ...]": "a list of text",
    "Tls": "a mapping of its files",
}
"""What the annotations of fields are called in errors."""


def positive(config: object, *names: str) -> None:
    """Raises: OptionError where one of these fields is set and below one."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise OptionError(f"{name}: {value} must be at least 1")


def size_of(name: str, value: str) -> int:
    """Bytes of a text such as "4 GiB".

    Raises: OptionError naming the field.
    """
    from dask.utils import parse_bytes

    try:
        size = int(parse_bytes(value))
    except (ValueError, OverflowError) as error:
        raise OptionError(f"{name}: {value!r} is not like '4 GiB'") from error
    if size < 1:
        raise OptionError(f"{name}: {value!r} must be at least 1 byte")
    return size


def _coerced(name: str, kind: str, value: Any) -> Any:
    """`value` where it fits the annotation `kind`, lists as tuples."""
    wanted = [w.strip() for w in kind.split("|")]
    if value is None and "None" in wanted:
        return None
    if isinstance(value, list) and "tuple[str, ...]" in wanted and all(isinstance(v, str) for v in value):
        return tuple(value)
    known: dict[str, type] = {"int": int, "str": str, "bool": bool, "Tls": Tls}
    for word in wanted:
        cls = known.get(word)
        if cls is not None and isinstance(value, cls) and (cls is bool or not isinstance(value, bool)):
            return value
    hint = " (put it in quotes)" if "str" in wanted else ""
    words = [_KINDS[word] for word in wanted if word in _KINDS]
    raise OptionError(f"{name}: {value!r} must be {' or '.join(words)}{hint}")
