"""LIF files as Leica's LAS X writes them: XML in UTF-16, then a block of voxels for each image."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

AXES = {"x": 1, "y": 2, "z": 3, "t": 4, "tiles": 10}


def lif_image(
    name: str, values: Any, block: str, axes: str = "t z y x", lengths: Any = (20.0, 4e-6, -3e-6, 2e-6)
) -> str:
    """The XML of an image whose channels lie before its planes; `axes` are those besides, slowest first."""
    sizes = [n for k, n in enumerate(values.shape) if k != 1]
    plane = values[0, 0, 0].nbytes
    strides = [values[0].nbytes, plane, 2 * values.shape[-1], 2]
    channels = "".join(
        f'<ChannelDescription DataType="0" ChannelTag="0" Resolution="16" BytesInc="{c * values[0, 0].nbytes}" '
        'LUTName="Gray" NameOfMeasuredQuantity="" Min="0" Max="1" Unit="" IsLUTInverted="0" BitInc="0"/>'
        for c in range(values.shape[1])
    )
    dims = "".join(
        f'<DimensionDescription DimID="{AXES[a]}" NumberOfElements="{n}" Origin="1e-6" Length="{length}" Unit="m" '
        f'BytesInc="{step}" BitInc="0"/>'
        for a, n, length, step in reversed(list(zip(axes.split(), sizes, lengths, strides, strict=True)))
    )
    return (
        f'<Element Name="{name}" Visibility="1"><Data><Image><ImageDescription><Channels>{channels}</Channels>'
        f"<Dimensions>{dims}</Dimensions></ImageDescription></Image></Data>"
        f'<Memory Size="{values.nbytes}" MemoryBlockID="{block}"/></Element>'
    )


def write_lif(path: Path, images: list[tuple[str, Any]]) -> Path:
    """A file of images: the XML and the voxels of each."""
    elements = "".join(xml for xml, _ in images)
    text = (
        '<LMSDataContainerHeader Version="2"><Element Name="a"><Children>'
        f"{elements}</Children></Element></LMSDataContainerHeader>"
    )
    with path.open("wb") as file:
        file.write(struct.pack("<IIBI", 0x70, 5 + 2 * len(text), 0x2A, len(text)) + text.encode("utf-16-le"))
        for number, (_, values) in enumerate(images):
            name = f"MemBlock_{number}".encode("utf-16-le")
            file.write(struct.pack("<IIBQBI", 0x70, 14 + len(name), 0x2A, values.nbytes, 0x2A, len(name) // 2) + name)
            file.write(values.tobytes())
    return path
