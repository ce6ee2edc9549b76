"""Whether workers can do the work: each is asked once what it is, and before a run what it sees."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from daskreg.cluster import worker_facts
from daskreg.errors import DaskregWarning, UnfitWorkerError
from daskreg.runtime.private_apis import run_by_value

MOST_APART = 60.0
"""Seconds that the clocks of client and worker may be apart without a warning."""

ANSWER_WITHIN = 30.0
"""Seconds that the workers may take to answer; those that do not are asked again later."""

_fit: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
"""By client: the addresses of workers that were found fit."""


def check_workers(client: Any, workers: Iterable[str]) -> None:
    """Ask workers, each once, whether they have the client's daskreg and libraries.

    Those that `connect` started as processes of this machine have, and are not asked.

    Args:
        client: a distributed Client.
        workers: their addresses.

    Raises: UnfitWorkerError naming the host, what is different there, and the remedy.
    """
    known = _fit.setdefault(client, set())
    new = [address for address in workers if address not in known]
    if not new or getattr(client, "same_environment", False):
        return
    own, answers = _own(), _ask(client, new)
    for address, facts in sorted(answers.items()):
        _refuse(address, facts, difference(own, facts))
        known.add(address)
        apart = abs(facts["time"] - time.time())
        if apart > MOST_APART:
            warnings.warn(
                f"the clock of {facts['host']} is {apart:.0f} s apart from that of this machine: times in logs and of "
                "files cannot be compared",
                DaskregWarning,
                stacklevel=3,
            )


def check_paths(client: Any, *, reads: Sequence[str], writes: Sequence[str]) -> None:
    """Ask all workers that are there whether they see what they are to read, and may write where they are to write.

    Args:
        reads, writes: local paths; those that do not exist here are not asked for.

    Raises: UnfitWorkerError naming the host, the path and the remedy.
    """
    if getattr(client, "same_environment", False):
        return
    here = worker_facts.paths(reads, writes)
    reads = [path for path in reads if path not in here["unseen"]]
    for address, facts in sorted(_ask(client, None, reads, writes).items()):
        _refuse(address, facts, unusable_paths(facts))


def _refuse(address: str, facts: dict[str, Any], wrong: str | None) -> None:
    if wrong is not None:
        raise UnfitWorkerError(f"the worker {address} on {facts['host']} cannot do this work: {wrong}")


def _ask(
    client: Any, workers: Sequence[str] | None, reads: Sequence[str] = (), writes: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """The facts of those workers that answer in time."""
    function, arguments = (worker_facts.facts, ()) if workers else (worker_facts.paths, (tuple(reads), tuple(writes)))
    try:
        return run_by_value(client, function, arguments, worker_facts, workers=workers, timeout=ANSWER_WITHIN)
    except (OSError, TimeoutError):
        return {}


@cache
def _own() -> dict[str, Any]:
    return worker_facts.facts()


def difference(own: dict[str, Any], other: dict[str, Any]) -> str | None:
    """What makes another process unfit for the work of this one, and the remedy; None where nothing does."""
    if other["source"] is None:
        return "daskreg is not installed there: install it into the environment of the workers"
    if other["python"] != own["python"]:
        return f"it runs Python {other['python']} and the client {own['python']}: use one environment"
    if other["source"] != own["source"]:
        return (
            f"its daskreg has other source code ({other['source']}) than the client's ({own['source']}): install the "
            "same version, and restart the workers"
        )
    for name, version in other["versions"].items():
        if version != own["versions"][name]:
            return f"it has {name} {version} and the client {own['versions'][name]}: use one environment"
    return None


def unusable_paths(facts: dict[str, Any]) -> str | None:
    """Which paths a worker does not see, or may not write to, and the remedy; None where there are none."""
    if facts["unseen"]:
        return f"it does not see {', '.join(facts['unseen'])}: use a path on a disk that all machines share"
    if facts["not writable"]:
        return f"it cannot write to {', '.join(facts['not writable'])}: give the user of the workers permission"
    return None
