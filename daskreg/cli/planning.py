"""A command that is planned for a cluster, and not run: what `submit` asks of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from daskreg.blocks.plan import Plan
    from daskreg.cluster.slurm import SlurmConfig
    from daskreg.cluster.submission import Work
    from daskreg.flat.plan import FlatPlan


@dataclass
class Planning:
    """The object of the context of a command that is only planned, which then calls a method of it and ends.

    Args:
        config: the limits of a node.

    `work` is what the command said.
    """

    config: SlurmConfig
    work: Work | None = None

    def of_output(
        self, array: Any, out: str, *, part: tuple[int, int] | None, memory: str | None, **layout: Any
    ) -> None:
        """Plan a volume that is to be written, and try some chunks of one block.

        Raises: as `daskreg.plan`.
        """
        from daskreg.blocks.levels import RunOptions
        from daskreg.blocks.memory import Processes, memory_limit
        from daskreg.blocks.plan import Plan
        from daskreg.cluster.options import size_of
        from daskreg.cluster.submission import Work
        from daskreg.writing import plan_for

        config, per_node = self.config, self.config.workers_per_job
        nodes = max(config.jobs, config.maximum_jobs or 0)
        size = size_of("memory", config.memory) // per_node
        processes = Processes.of_size(nodes * per_node, config.threads_per_worker, size)
        if memory is not None:
            processes = replace(processes, limit=memory_limit(memory, None))
        made = plan_for(array, out, processes, RunOptions(**layout), probe=True)
        blocks, share = made.levels[0].block_count if isinstance(made, Plan) else made.block_count, 1.0
        if part is not None:
            own = blocks_of_part(made, part, out)
            share = own[0] / blocks
            blocks = own[0] or min(1, sum(own))
        # A job of fewer workers makes larger blocks.
        fewest = plan_for(array, out, replace(processes, workers=per_node), RunOptions(**layout), probe=False)
        together = (made.seconds or 0.0) * made.threads * made.workers
        self.work = Work(blocks=blocks, memory=max(made.memory, fewest.memory), seconds=together * share)

    def of_stack(self, stack: Any, **options: Any) -> None:
        """Align a few slices of a stack.

        Args:
            options: of `daskreg.stacks.align.request_of`.

        Raises: as `daskreg.align_stack`.
        """
        from daskreg.cluster.submission import Work
        from daskreg.stacks.align import request_of

        request = request_of(stack, **options)
        work = Work(blocks=request.spec.count, noun="slice")
        if not self.config.gpu:
            cost = request.tried()
            work = replace(work, memory=cost.memory * self.config.threads_per_worker)
            if cost.shared is not None and cost.alone is not None:
                work = replace(work, seconds=cost.shared, alone=cost.alone)
        self.work = work


def blocks_of_part(made: Plan | FlatPlan, part: tuple[int, int], out: str) -> list[int]:
    """How many blocks of each level a part of a run owns."""
    from daskreg.blocks.plan import Plan
    from daskreg.runs.parts import Part, owned_blocks

    if not isinstance(made, Plan):
        raise click.UsageError(f"--part is for OME-Zarr: {out} is a single file, which one process writes")
    return [int(mask.sum()) for mask in owned_blocks(made, Part.of_option(part))]


def planning() -> Planning | None:
    """Where the command that runs is only to be planned, what it has to tell."""
    return click.get_current_context().find_object(Planning)
