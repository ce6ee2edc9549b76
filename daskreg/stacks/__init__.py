"""What `align_stack` is made of: work on spans of slices, and what is made of its results.

work         fit a span of slices, on a worker
checkpoint   finished pairs in a file, so that an interrupted estimate goes on
placing      poses of slices from pairs
outliers     slices that stand out, by name
fit          StackFit
table        fits as tables, and back
"""
