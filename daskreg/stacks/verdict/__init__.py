"""Whether the poses of a stack can be trusted, and what stands in their way.

bad_voxels        gaps and hot voxels of the detector, which are masked
detector          the same as a task where the voxels are
pair_evidence     whether two slices agree more than what does not belong together
mirrored          slices that are mirror images
specimen_errors   errors of pairs that cycles do not show
smallest_motion   of poses that fit a pair equally well, the one that moves least
examine           a look at a few aligned slices, for what follows
rivals            shifts by which slices agree as well: periodic specimens
fixed_pattern     a pattern of the detector that hides the specimen's motion
stripes           offsets of rows and columns that hide a part of the motion
subtracted_pattern, subtraction_rounds, refits
                  the stack without what stays with the detector
slow_change       slow motion that may as well be the specimen's change
status            the status that follows from all this
stack_status      the statuses
"""
