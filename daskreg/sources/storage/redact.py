"""URLs: which text is one, and how it is shown without credentials."""

from __future__ import annotations

from daskreg.runtime.messages import redact, without_secret

__all__ = ["is_url", "redact", "without_secret"]


def is_url(text: str) -> bool:
    """Whether this is a URL with a scheme rather than a local path."""
    return "://" in text and not text.startswith("file://")
