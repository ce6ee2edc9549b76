"""Alignment of the slices of a stack: `align_stack`, its parts, and its result.

The entry, its inputs and its result:

align                  align_stack, and from_table for a fit from a table
inputs                 the stack, the mask and the anchors as sources and poses
execution              where the work runs: the workers of a client, or local threads
estimate               from a described stack to its fit
previous               the fit of a stack when it had fewer slices, reused
fit                    StackFit, the result
consistency            how well the pairs of a fit agree, and their error against a known truth
table                  fits as tables that can be edited, and poses from such tables
figures                figures of a fit for its report

Pairs of slices:

slice_reader           slices as float32, downsampled while they are read
spans                  fits of spans of slices, as tasks on a worker
neighbor_registration  each image of a row fitted to the ones before it
pair_registration      batches of pairs of images, from no initial pose to a fit
common_line            shifts along one axis, from profiles across it
pair_table             results for pairs and features of slices, as tables of columns
pairing                all pairs of a stack, from its spans and a search for weak pairs
checkpoint             finished pairs in a file, so that an interrupted estimate can be continued

Slices and one image:

reference_registration slices registered to one slice, or to the mean of the aligned slices
to_reference           the same as a task on a worker

Displacement fields:

elastic/               a field for each slice, all solved together (`model="bspline"`)

Poses:

model                  the model of the poses, and where it acts
pose_solve             poses of all slices from pairs
pose_graph             the nonlinear least squares problem of a pose graph
trajectory             shortest paths of pairs, interpolated gaps, and the slow part of a trajectory
outliers               slices that differ from their neighbours, by kind
"""
