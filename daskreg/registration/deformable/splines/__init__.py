"""Cubic B-splines over an image, apart from what the images show.

control_grid   the control points, from coarse to fine
one_to_one     when a layer does not fold
layers         the layers that are composed to a transform
one_layer      several of them as one
bending        the bending energy of their coefficients
"""
