"""Stores and their bytes; nothing here knows of volumes.

Modules, from the bottom up:
    bounded_codecs decompression up to the stated size
    confined      a folder whose files all lie in it
    redact        credentials out of URLs
    counters      counts of retries, missing and damaged chunks
    retrying      a Zarr store that tries each call again
    local_chunks  chunks of Zarr arrays on a local disk, read and written in the calling thread
"""
