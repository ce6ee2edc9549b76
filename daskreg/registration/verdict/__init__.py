"""Whether a pose that was found is to be trusted: the verdict on a pair.

judge          the verdict, on as few voxels as suffice
aligned        a pair at a pose, on one level
bands          the aligned images in bands of frequency, and how many independent samples these have
local_shifts   whether small windows of the aligned images fit better after a further shift
fixed_pattern  whether a pattern that stays with the detector draws the motion
correlations   of neighbouring values
evidence       whether the images agree more than the best of many poses of unrelated ones
rivals         other shifts of what overlaps that fit about as well
candidates     poses far from it that may fit as well: `symmetry`, of another turn; `elsewhere`, of another overlap
information    which motions the images determine
"""
