"""Runs that others can follow: where a run is, how far it is, how it ended; and runs that outlive their client.

place            where a run takes place: this process, a thread of it, or a worker of a cluster
record           what a run says of itself in a file beside its output, and the request to cancel it
recorder         the process that runs keeps its record
work             what a run does, described so that it can travel
written          what a run that writes an image has done
write_run        an image that is written: described, and then run where its coordinator is
parts            one of several processes that write an image without a scheduler
part_locks       which parts of an output are being written
settle           wait for the blocks that workers are making, after a run was cancelled
start            begin a run without waiting for it: on the cluster, or in a thread
coordinator      the task on a worker that submits the blocks
coordinator_task the function of that task
liveness         whether a run that has not ended is still going on
run              `Run`: follow, await and cancel a run; `attach`
status           a run in numbers, from its record and its ledger
"""
