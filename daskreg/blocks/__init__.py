"""A large output in blocks: planned, computed by independent tasks, recorded, resumed, verified.

job              what a block computes: a warp or copy (`Job`), the next pyramid level (`Downsample`)
source_buffer    the part of a source that a block needs, in memory that is reused
fingerprints     what identifies the pixels of each block
memory           how much memory a block takes, and how much there is
plan             the blocks of a level and what they will cost
probe            how long a run will take, measured on a few chunks
levels           the pyramid levels: planned and run one after another
safe_output      a path or URL for an output that cannot harm the input
output           the output of a run: locked, created or resumed
record           the record of a run beside its output: the ledger, the lock, which files are daskreg's
input_files      which files a source reads, directly or through a dask graph
write_block      the one task of a run: compute a block, write it, record it
disk_errors      errors of the disk as errors of an output
level_writer     the files of one level, with their checksums
run              the blocks of a level, on a cluster or in threads
in_flight        a bounded number of blocks in flight on a cluster
packed_task      short blocks share a dask task
tasks            other independent tasks, on a cluster or in threads
verify           every file of an output read back
"""
