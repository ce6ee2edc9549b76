"""A Dask client without arguments, from an address or from a file; and the capacity of a cluster.

connect          the entry: a client from any of these
config           the kinds of clusters, a line each; cluster files
options          what kinds have in common: who can reach them; a config out of plain data
local            a kind: worker processes on this machine
slurm            a kind: workers as SLURM jobs
address          a kind: a scheduler that runs already
owned_cluster    clusters that end with their client
network          TLS, on the loopback interface or another one
pages            the pages of a scheduler, behind a token
temporary_folder a folder for certificates that ends with its process
client           which client does the work: a named one, the current one, or none
capacity         how many tasks a cluster can run, and for how long it could run none
preload          loaded by local workers as they start
watch            the peak memory of processes
"""

from __future__ import annotations

from daskreg.cluster.connect import connect

__all__ = ["connect"]
