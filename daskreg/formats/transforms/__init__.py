"""Transform files of daskreg and of other tools. Each module registers a reader, a writer, or both.

files          files as text and bytes, and `load`, which finds the reader
own            daskreg's JSON, of transforms and of fits
itk            ITK, text and HDF5: one map, a composite, a series
itk_types      ITK's types of transforms as matrices
ants           ANTs: ITK's transforms in a MATLAB file
elastix        elastix parameter files
neuro          the RAS world that the next three share
afni           AFNI matrices
freesurfer     FreeSurfer's LTA
fsl            FLIRT matrices of FSL
imod           IMOD's rows for sections
stackreg       StackReg's family: MultiStackReg, TurboReg, pystackreg
bigdataviewer  XML of BigDataViewer and BigStitcher
ngff_json      coordinateTransformations of OME-NGFF
text           plain text
"""

from daskreg.formats.transforms import (
    afni,
    ants,
    bigdataviewer,
    elastix,
    freesurfer,
    fsl,
    imod,
    itk,
    ngff_json,
    own,
    stackreg,
    text,
)
from daskreg.formats.transforms.files import load, read_bytes, save, write_text
from daskreg.formats.transforms.own import read_json, transform_from_dict, transform_from_file, write_json

__all__ = [
    "afni",
    "ants",
    "bigdataviewer",
    "elastix",
    "freesurfer",
    "fsl",
    "imod",
    "itk",
    "load",
    "ngff_json",
    "own",
    "read_bytes",
    "read_json",
    "save",
    "stackreg",
    "text",
    "transform_from_dict",
    "transform_from_file",
    "write_json",
    "write_text",
]
