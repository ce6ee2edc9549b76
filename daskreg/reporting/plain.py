"""Objects as JSON's types: the raw facts of a page and of a saved fit."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import numpy as np

from daskreg.sources.storage.redact import redact, without_secret


def as_dict(thing: Any) -> dict[str, Any]:
    """The facts of an object by name: its own `to_dict()`, or its public dataclass fields."""
    if isinstance(thing, Mapping):
        return dict(thing)
    if hasattr(thing, "to_dict"):
        return dict(thing.to_dict())
    if dataclasses.is_dataclass(thing):
        return {f.name: getattr(thing, f.name) for f in dataclasses.fields(thing) if not f.name.startswith("_")}
    return {"value": thing}


def plain(value: Any) -> Any:
    """The value in JSON's types: NaN and infinity become null, credentials are replaced."""
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, bool | int | type(None)):
        return value
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str | os.PathLike):
        return redact(str(value))
    if isinstance(value, Mapping):
        return {redact(str(k)): plain(without_secret(k, v)) for k, v in value.items()}
    if isinstance(value, np.generic):
        return plain(value.item())
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Iterable):
        return [plain(v) for v in value]
    if hasattr(value, "to_dict") or dataclasses.is_dataclass(value):
        return plain(as_dict(value))
    return redact(str(value))


def shortened(value: Any, most: int = 200) -> Any:
    """Plain values for a page: long lists are cut, which is said, and long texts of binary tables are left out."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {k: shortened(v, most) for k, v in value.items()}
    if isinstance(value, list):
        shown = [shortened(v, most) for v in value[:most]]
        return [*shown, f"... {len(value)} in all"] if len(value) > most else shown
    if isinstance(value, str) and len(value) > 2000:
        return f"{value[:100]} ... {len(value)} characters"
    return value
