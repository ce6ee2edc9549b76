"""Images of which brightness and contrast vary, for the metric "lncc".

For affine maps and the verdict, both images are evened before they are compared. For layers, gain and offset are fitted
around each voxel.

normalised     images with the same brightness and contrast everywhere
windows        the windows around nodes in which gain and offset are fitted
windows_numba  sums over windows and what is interpolated from their nodes, compiled
match          gain and offset in windows
"""
