"""Where the points of one cloud lie on another.

register              the entry, `icp`
inputs                what the entry is handed: arrays, Dask arrays, images
"""
