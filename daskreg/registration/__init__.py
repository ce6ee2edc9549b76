"""Where each point of a fixed image is found in a moving one.

register              the entry: one pair
batch                 many pairs of one shape at once
images                what the entries are handed, read into memory
"""
