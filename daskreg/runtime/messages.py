"""What other libraries and users say, for messages of ours: without credentials, in one line, and short."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from daskreg.errors import MOST, one_line

_URL = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://")
_QUERY = re.compile(r"(?<=[?&;#])([^=&;#\s]+)=[^&;\s#'\"]*")
_PORT_AND_QUERY = re.compile(r"[^:/?#;@]*:\d*(?:/[^?#;]*)?[?#;]")
_OF_QUERY = re.compile(r"([?&;#])([\w.~%-]+=)?[^?&;#]*")
_NAMED = re.compile(
    r"""(?ix)
    ( ["']? [\w-]* (?: secret | token | passw(?:or)?d | passphrase | pwd | signature | credential | authorization
                     | (?:api|access|account|private|sas)[_-]?key(?![_-]?id) ) [\w-]* ["']? \s* [:=] \s* ) (?!\*\*\*)
    ( "[^"]*" | '[^']*' | (?:(?:bearer|basic)\s+)? [^\s,;&"')}\]]+ )
    """
)
_QUOTED_KEY = re.compile(r"""((["'])(?:key|sas|auth)\2\s*:\s*)("[^"]*"|'[^']*')""")


_SECRET_NAME = re.compile(
    r"""(?ix)
    [\w\s-]* (?: secret | token | passw(?:or)?d | passphrase | pwd | signature | credential | authorization
             | (?:api|access|account|private|sas)[_-]?key(?![_-]?id) ) [\w\s-]*
    | (?: .*[\s_-] )? (?: key | sas | auth )
    """
)


def without_secret(name: object, value: Any) -> Any:
    """The value of a fact, `***` where its name says that it is a secret; also inside of mappings and lists."""
    empty = value is None or isinstance(value, bool) or (isinstance(value, str) and not value)
    if not empty and _SECRET_NAME.fullmatch(str(name)):
        return "***"
    if isinstance(value, Mapping):
        return {k: without_secret(k, v) for k, v in value.items()}
    if isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value):
        return [without_secret("", v) for v in value]
    return value


def redact(text: str) -> str:
    """A text with credentials as `***`.

    In URLs that is what comes before the last `@` (user and password, which may hold `/`, `@` and blanks), and the
    values of the query and the fragment; anywhere it is the values of names that say password, secret or token.
    """
    text = str(text)
    starts = [match.end() for match in _URL.finditer(text)]
    if starts:
        pieces = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
        text = text[: starts[0]] + "".join(map(_without_user, pieces))
        text = _QUERY.sub(r"\1=***", text)
    return _QUOTED_KEY.sub(r"\1'***'", _NAMED.sub(r"\1***", text))


def redact_word(word: str) -> str:
    """One word of a command with credentials as `***`.

    Unlike in a text it is known where a value ends, which may hold blanks and quotes.
    """
    name, equals, _ = word.partition("=")
    if equals and "/" not in name and _SECRET_NAME.fullmatch(name.lstrip("-")):
        return f"{name}=***"
    if url := _URL.search(word):
        rest = _host_and_path(word[url.end() :])
        word = word[: url.end()] + _OF_QUERY.sub(r"\1\2***", rest)
    return redact(word)


def redact_words(words: Sequence[str]) -> list[str]:
    """The words of a command, each as by `redact_word`; the one after an option whose name says secret is `***`."""
    return [
        "***" if before.startswith("--") and _SECRET_NAME.fullmatch(before.lstrip("-")) else redact_word(word)
        for before, word in pairwise(["", *words])
    ]


def redact_command(line: str) -> str:
    """A command as it is typed in a shell, as by `redact_words`; a comment in the end may say where."""
    typed, mark, place = line.rpartition("  # ")
    if not mark:
        typed, place = line, ""
    try:
        words = shlex.split(typed)
    except ValueError:  # a quote that does not end
        return redact(line)
    clean = redact_words(words)
    return (typed if clean == words else shlex.join(clean)) + mark + redact(place)


def _without_user(rest: str) -> str:
    """What follows `scheme://`, up to the end of its line without a user."""
    line, newline, below = rest.partition("\n")
    return f"{_host_and_path(line)}{newline}{below}"


def _host_and_path(rest: str) -> str:
    """What follows `scheme://`, with `***` for what comes before the last @.

    A path may hold an @ too. Without a colon before it, and with a slash, it is taken as such. After what may be a port
    and a query, it may be that of a value of the query as well as that of a password: nothing is shown.
    """
    user, at, host = rest.rpartition("@")
    if at and _PORT_AND_QUERY.match(user):
        return "***"
    if not at or (":" not in user and re.search(r"[/\s]", user)):
        return rest
    return f"***@{host}"


def reason(error: BaseException) -> str:
    """What an error of another library says: short, in one line, without credentials."""
    return redact(one_line(error, MOST // 3))
