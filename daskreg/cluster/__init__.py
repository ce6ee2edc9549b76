"""A Dask client without arguments, from an address or from a file; and the capacity of a cluster.

connect          the entry: a client from any of these
config           the kinds of clusters, a line each; cluster files
options          what kinds have in common: who can reach them; a config out of plain data
local            a kind: worker processes on this machine
batch            what kinds of jobs have in common
slurm            a kind: workers as SLURM jobs
pbs, lsf, sge    kinds: workers as jobs of PBS, LSF, Grid Engine
ssh              a kind: workers on machines that ssh reaches
kubernetes       a kind: workers as pods
allocation       a kind: workers on all nodes of the SLURM job that runs
submission       a command as one SLURM job
job_watch        jobs in the queue: which wait, which have ended without a worker
run_folder       a shared folder of one run: temporary certificates, the jobs' output
address          a kind: a scheduler that runs already
owned_cluster    clusters that end with their client
network          TLS, on the loopback interface or another one
pages            the pages of a scheduler, behind a token
client           which client does the work: a named one, the current one, or none
capacity         how many tasks a cluster can run, and for how long it could run none
preload          loaded by workers as they start
"""

from __future__ import annotations

from daskreg.cluster.connect import connect

__all__ = ["connect"]
