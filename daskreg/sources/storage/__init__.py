"""Stores and their bytes; nothing here knows of volumes.

Modules, from the bottom up:
    bounded_codecs decompression up to the stated size
    confined      a folder whose files all lie in it
    redact        credentials out of URLs
    counters      counts of retries, missing and damaged chunks
    retrying      calls that are tried again; a Zarr store that does so
    byte_store    the one interface to bytes by key
    folder_bytes  the files below a folder
    access        object stores by URL, and the options to reach them
    object_errors errors of object stores as those of daskreg
    object_bytes  the objects below a URL
    object_tags   what changes when objects are put again
    look_ahead    requests that are under way while an answer is worked on
    zarr_objects  the objects below a URL as a store of zarr-python
    stores        the Zarr store at a path or URL
    chunk_codec   the voxels of one chunk to bytes and back
    shard_table   where the chunks of a shard are
    direct_chunks chunks of Zarr arrays, read and written in the calling thread
"""
