"""OIF files as Olympus' FluoView writes them: a text of settings, and a folder with a TIFF for each plane."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

VALUES = np.random.default_rng(2).integers(0, 4095, (2, 3, 4, 11, 17)).astype(np.uint16)  # t, c, z, y, x


def write_oif(path: Path, leave_out: str = "") -> Path:
    """A file of `VALUES`, without one of its images where that is named."""
    axes = {
        "X": ("0.0", "3.2", 17, "um"), "Y": ("0.0", "2.0", 11, "um"), "C": ("1.0", "3.0", 3, "Ch"),
        "Z": ("500.0", "-1000.0", 4, "nm"), "T": ("0.0", "750.0", 2, "ms"),
    }  # fmt: skip
    text = "[ProfileSaveInfo]\r\nName=FLUOVIEW\r\nVersion=1.0\r\n[Axis Parameter Common]\r\nAxisOrder=XYCZT\r\n"
    for k, (code, (start, end, size, unit)) in enumerate(axes.items()):
        text += f'[Axis {k} Parameters Common]\r\nAxisCode="{code}"\r\nStartPosition={start}\r\nEndPosition={end}\r\n'
        text += f'MaxSize={size}\r\nUnitName="{unit}"\r\n'
    text += "[Reference Image Parameter]\r\nWidthConvertValue=0.2\r\nWidthUnit=um\r\nHeightConvertValue=0.25\r\n"
    text += "HeightUnit=um\r\n"
    path.write_bytes(text.encode("utf-16"))
    folder = Path(f"{path}.files")
    folder.mkdir(exist_ok=True)
    for t, c, z in np.ndindex(2, 3, 4):
        name = f"s_C{c + 1:03}Z{z + 1:03}T{t + 1:03}.tif"
        if name != leave_out:
            tifffile.imwrite(folder / name, VALUES[t, c, z])
    (folder / "s_Thumb.bmp").write_bytes(b"BM")
    return path
