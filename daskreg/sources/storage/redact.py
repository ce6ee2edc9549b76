"""Removes credentials from URLs before they reach a message, a log or a report."""

from __future__ import annotations

import re

_USER = re.compile(r"(?<=://)[^/@\s]*@")
_QUERY = re.compile(r"(?<=[?&;])([^=&;\s]+)=[^&;\s#'\"]*")


def redact(text: str) -> str:
    """`text` with `user:password@` and the values of URL queries (signatures, tokens) as `***`."""
    text = str(text)
    if "://" not in text:
        return text
    return _QUERY.sub(r"\1=***", _USER.sub("***@", text))


def is_url(text: str) -> bool:
    """Whether this is a URL with a scheme rather than a local path."""
    return "://" in text and not text.startswith("file://")
