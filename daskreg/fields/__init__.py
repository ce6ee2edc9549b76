"""Displacement fields: points move by vectors that are interpolated between the nodes of a grid.

field        `DisplacementField`: one field
slices       `SliceDisplacements`: a field for each slice
composite    `Composite`: transforms one after another
chain        transforms one after another as steps of the sampling kernels
index_map    which source voxels and which vectors a box of an output needs
vectors      the vectors, wherever they are stored
bounds       the least and the greatest displacement in a part of a field
files        files of fields: ITK's (`itk`), ANTs' (`ants`), Zarr groups (`store`), OME-NGFF's (`ngff`, `ngff_field`)
folding      warns where a field folds whose inverse is used
jacobian     how much a transform stretches space, and where it folds
"""

from daskreg.fields import files as files
from daskreg.fields.composite import Composite
from daskreg.fields.field import DisplacementField
from daskreg.fields.slices import SliceDisplacements

__all__ = ["Composite", "DisplacementField", "SliceDisplacements"]
