"""Where each point of a fixed image is found in a moving one.

register                the entry: one pair; quick to import
pair                    what the entry does, imported when it is called
batch                   the entry: many pairs of one shape at once
images                  the images that callers pass, read into memory
fit                     `PairFit`, which `register` returns
estimate                what an estimate finds, and how it is judged
problem                 what is estimated, and the options of the solver
pipeline                the one composition of the parts below
initial_pose            which initial poses are tried, and how one is chosen
initial_candidates      candidates: image moments, and correlation by FFT
multiresolution         the solver over all levels
levenberg_marquardt     the solver on one level
pose                    poses: parameters to matrices, their derivatives, and back
pose_numba              the same for the solver, compiled
noise                   how much of the gradients is noise, and the best smoothing
border_choice           whether flat borders are background or fill
rejection               outlier regions, which lose their weight
autograd                any differentiable loss, by Adam or L-BFGS
metrics                 metrics as losses in torch, differentiable
joint_histogram_numba   mutual information on CPUs, compiled

pyramids/               images from full size to coarse, with masks
normal_equations/       the sums over voxels of a Gauss-Newton step
deformable/             layers of cubic B-splines after an affine map

The first two are folders of their own, so that this one stays small: pyramids/ imports nothing from the rest of
registration, and normal_equations/ imports only pyramids/.
"""
