"""Whether workers can do the work, asked before the first block and of each worker that comes later."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from daskreg.cluster import worker_facts
from daskreg.errors import DaskregWarning, UnfitWorkerError

MOST_APART = 60.0
"""Seconds that the clocks of client and worker may be apart without a warning."""


@dataclass(frozen=True)
class Handshake:
    """What workers are asked.

    Args:
        client: a distributed Client.
        reads, writes: paths that each worker must see, and folders that each must be able to write to.
    """

    client: Any
    reads: Sequence[str] = ()
    writes: Sequence[str] = ()

    def check(self, workers: Sequence[str]) -> None:
        """Ask some workers, by address.

        Raises: UnfitWorkerError naming the host, what is different there, and the remedy.
        """
        own, answers = worker_facts.facts(), self._ask(workers)
        for address, facts in sorted(answers.items()):
            wrong = difference(own, facts)
            if wrong:
                raise UnfitWorkerError(f"the worker {address} on {facts['host']} cannot do this work: {wrong}")
            apart = abs(facts["time"] - time.time())
            if apart > MOST_APART:
                warnings.warn(
                    f"the clock of {facts['host']} is {apart:.0f} s apart from that of this machine: times in logs and "
                    "of files cannot be compared",
                    DaskregWarning,
                    stacklevel=3,
                )

    def _ask(self, workers: Sequence[str]) -> dict[str, dict[str, Any]]:
        import cloudpickle

        cloudpickle.register_pickle_by_value(worker_facts)
        try:
            answers: dict[str, dict[str, Any]] = self.client.run(
                worker_facts.facts, tuple(self.reads), tuple(self.writes), workers=list(workers), on_error="ignore"
            )
        finally:
            cloudpickle.unregister_pickle_by_value(worker_facts)
        return answers


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
    if other["unseen"]:
        return f"it does not see {', '.join(other['unseen'])}: use a path on a disk that all machines share"
    if other["not writable"]:
        return f"it cannot write to {', '.join(other['not writable'])}: give the user of the workers permission"
    return None
