"""Where each point of a fixed image is found in a moving one.

register              the entry: one pair
batch                 the entry: many pairs of one shape at once
images                the images that the entries are given, read into memory
fit, estimate         what is returned, and how it is judged
problem               what is estimated, and the options of the solver
pipeline              the one composition of the parts below
pyramids/             images from full size to coarse, with masks
initial_pose          candidates for the initial pose, and the choice among them
levenberg_marquardt   the solver on one level, on the sums of normal_equations/
multiresolution       the solver over all levels, with outlier rejection
autograd              any differentiable loss, by Adam or L-BFGS
"""
