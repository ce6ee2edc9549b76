"""The Dockerfile, as far as it can be checked without building it."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "cluster/Dockerfile").read_text(encoding="utf-8").splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def arguments(instruction: str) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in LINES if line.startswith(f"{instruction} ")]


def test_what_is_copied_is_there() -> None:
    copied = [name for *names, _ in arguments("COPY") for name in names]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    # What the metadata of the package read as it is built.
    assert {"pyproject.toml", "daskreg", PROJECT["readme"], "LICENSE"} <= set(copied)


def test_the_extras_and_the_command_exist() -> None:
    installed = next(line for line in LINES if "/src[" in line)
    extras = re.findall(r"/src\[(.*?)\]", installed)[0].split(",")
    assert {"formats", "cluster", "cloud"} <= set(extras) <= set(PROJECT["optional-dependencies"])
    assert arguments("ENTRYPOINT") == [["[daskreg]"]]
    assert "daskreg" in PROJECT["scripts"]


def test_it_runs_as_a_user_who_may_write_where_compiled_code_is_kept() -> None:
    folder = next(part.partition("=")[2] for parts in arguments("ENV") for part in parts if "NUMBA_CACHE_DIR" in part)
    assert any(f"chown daskreg {folder}" in line for line in LINES)
    assert LINES.index("USER daskreg") < LINES.index("RUN daskreg warm-up")
