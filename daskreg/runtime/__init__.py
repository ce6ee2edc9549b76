"""The process and the libraries it runs on. Nothing here knows of images.

machine          which machine it is
device           which device, how many cores and threads, decided where the work runs
when_imported    an action once a module is imported
threads          calls in several threads: parts of one computation, or independent jobs
compiled         how numba compiles functions here
compile_once     kernels are compiled by one process of a host
memory_watch     the peak memory of processes
triton_support   whether Triton's kernels run on a device
lazy             parts of an object that are computed when first asked for
atomic           files that appear as a whole or not at all
messages         texts without credentials, in one line
progress         a progress bar, or lines of a log
regular_files    files that are what they seem, where they should be
private_apis     what is used of dask, distributed, zarr and xarray beyond their public API
"""
