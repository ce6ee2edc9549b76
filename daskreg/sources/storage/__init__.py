"""Bytes in stores: calls that are tried again, chunks of local files, counts of what went wrong."""
