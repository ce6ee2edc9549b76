"""The report page stands alone, escapes what it shows, and its JSON is strict."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from enum import Enum
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from daskreg.errors import MissingExtraError
from daskreg.geometry import Affine
from daskreg.reporting import plots
from daskreg.reporting.page import report
from daskreg.reporting.plain import plain

EVIL = "<script>alert(1)</script>"


class Status(Enum):
    CONVERGED = "the estimate can be trusted"
    FAILED = "try another init"


@dataclass
class Run:
    """As a finished write looks."""

    path: str
    blocks: int = 12
    seconds: float = 1.5
    peak_memory: float = float("nan")
    skipped: tuple[int, ...] = ()
    shape: tuple[int, ...] = (100, 512, 512)
    _secret: str = "not shown"


@dataclass
class Stack:
    """As a fit of a stack looks."""

    status: Status = Status.CONVERGED
    ok: bool = True
    parameters: dict[str, float] = field(default_factory=lambda: {"theta": np.pi / 6, "tx": 3.25})
    transform: Affine = field(default_factory=lambda: Affine.identity(2))
    sigma: dict[str, list[float]] = field(default_factory=lambda: {"tx": [0.0, 0.111, 0.222]})
    nested: dict[str, list[float]] = field(default_factory=lambda: {"long": [0.123456] * 500})
    scores: np.ndarray = field(default_factory=lambda: np.array([0.5, np.nan, 0.75]))

    def rows(self):
        return [{"slice": i, "tx": 0.5 * i, "theta": 0.1, "outlier": i == 1} for i in range(3)]

    def plot(self):
        points = np.random.default_rng(0).random((9, 2))
        return plots.cloud(SimpleNamespace(target_from_source=self.transform, status=self.status), points, points)


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


@pytest.mark.slow
def test_page_and_json(tmp_path):
    page = report([Stack(), Run("out.zarr")], tmp_path / "a" / "run.html", title="Demo", facts={"size": 512})
    text, data = page.read_text(), json.loads((tmp_path / "a" / "run.report.json").read_text())
    assert page == tmp_path / "a" / "run.html"
    assert "the estimate can be trusted" in text.casefold()
    assert "theta 30 deg, tx 3.25" in text
    assert text.count('<tr class="bad">') == 1
    shown, raw = text.split("Raw facts")
    assert "0.111" not in shown, "what has a row for each slice is in the table"
    assert shown.count("0.123456") < 50, "cells stay short"
    assert raw.count("0.123456") <= 200, "long lists are cut"
    assert "500 in all" in raw
    assert 'src="data:image/png;base64,' in text
    assert data["schema"] == "daskreg/report"
    assert data["facts"] == {"size": 512}
    assert data["entries"][0]["status"] == "converged"
    assert data["entries"][0]["scores"] == [0.5, None, 0.75]
    assert data["entries"][0]["transform"]["type"] == "affine"
    assert data["entries"][1]["blocks"] == 12
    assert data["entries"][1]["peak_memory"] is None
    assert "_secret" not in data["entries"][1]
    assert sorted(p.name for p in page.parent.iterdir()) == ["run.html", "run.report.json"]


@pytest.mark.slow
def test_the_page_loads_nothing_and_says_so(tmp_path):
    text = report(Stack(), tmp_path / "run.html").read_text()
    tags = Tags(text).tags
    policies = [a["content"] for t, a in tags if t == "meta" and "http-equiv" in a]
    assert policies
    assert "default-src 'none'" in policies[0]
    assert "unsafe" not in policies[0]
    assert not [t for t, _ in tags if t in ("link", "iframe", "object", "embed")]
    assert [a for t, a in tags if t == "script"] == [{}], "one script of the page itself, whose hash is in the policy"
    for _, attributes in tags:
        assert not {"style", "onerror", "onload", "onclick"} & set(attributes)
        for address in ("src", "href"):
            assert (attributes.get(address) or "data:image/png").startswith("data:image/png")


def test_everything_is_escaped(tmp_path):
    run = Run(EVIL)
    page = report(
        [run, {EVIL: EVIL}], tmp_path / "run.html", title=EVIL, facts={EVIL: [EVIL]}, figures={f'"{EVIL}': b"\x89PNG"}
    )
    text = page.read_text()
    assert len([t for t, _ in Tags(text).tags if t == "script"]) == 1
    assert "&lt;script&gt;" in text


def test_credentials_are_taken_out(tmp_path):
    url = "s3://key:pass@bucket/a.zarr?X-Amz-Signature=abc"
    command = shlex.join(["daskreg", "info", "https://host/a?token=it's abc"])
    page = report(Run("https://user:secret@host/a?token=abc"), tmp_path / "r", facts={"from": url}, command=command)
    both = page.read_text() + (tmp_path / "r.report.json").read_text()
    for secret in ("secret", "abc", "key:", "pass"):
        assert secret not in both
    assert "***@host/a?token=***" in both


def test_names_keep_their_dots(tmp_path):
    assert report({}, tmp_path / "run.v2").name == "run.v2.html"
    assert report({}, tmp_path / "run.json").name == "run.html"


def test_long_tables_are_cut_on_the_page_only(tmp_path):
    class Long:
        def rows(self):
            return [{"slice": i} for i in range(2500)]

        def to_dict(self):
            return {"rows": self.rows(), "scores": np.zeros(2500)}

    text = report(Long(), tmp_path / "r.html").read_text()
    assert len(re.findall('<tr><td class="n">', text.replace("\n", ""))) == 2000
    assert "2000 of 2500 rows" in text
    assert len(json.loads((tmp_path / "r.report.json").read_text())["entries"][0]["rows"]) == 2500


def test_a_page_without_matplotlib_has_the_facts(tmp_path):
    class Blind(Stack):
        def plot(self):
            raise MissingExtraError("matplotlib", "report")

    text = report(Blind(), tmp_path / "r.html").read_text()
    assert "matplotlib is not installed" in text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (float("inf"), None),
        (Path("a/b"), "a/b"),
        (Status.FAILED, "failed"),
        ({1: (2, 3)}, {"1": [2, 3]}),
        (Affine.identity(2).matrix, np.eye(3).tolist()),
        (None, None),
    ],
)
def test_plain(value, expected):
    assert plain(value) == expected


def test_secrets_are_taken_out_by_their_names(tmp_path):
    """Of facts, of mappings in them, of rows, and of the title."""

    class Job:
        def __init__(self, **facts):
            self.facts = facts

        def to_dict(self):
            return self.facts

        def rows(self):
            return [{"slice": k, "session_token": f"row-hush-{k}"} for k in range(3)]

    nested = {"store": {"secret": "hush-1", "Key": "hush-2", "access_key_id": "seen-1", "list": [{"pwd": "hush-3"}]}}
    things = [Job(token="hush-4", options=nested, **{"aws key": 123454321}), {"password": ["hush-5", "hush-6"]}]
    facts = {
        "user password": "hush-7",
        "deep": {"auth": "hush-8", "n": 1},
        "secret": None,
        "keys": 7,
        "monkey": "seen-2",
    }
    page = report(things, tmp_path / "r", title="of https://u:hush-9@host/a?sig=hush-10", facts=facts)
    both = page.read_text() + (tmp_path / "r.report.json").read_text()
    assert "hush" not in both
    assert "123454321" not in both
    data = json.loads((tmp_path / "r.report.json").read_text())
    assert data["facts"] == {"user password": "***", "deep": {"auth": "***", "n": 1}, "secret": None, "keys": 7,
                             "monkey": "seen-2"}  # fmt: skip
    assert data["title"] == "of https://***@host/a?sig=***"
    assert data["entries"][0]["options"]["store"]["access_key_id"] == "seen-1"
    assert "seen-2" in page.read_text()


def test_names_that_are_no_utf8_are_escaped(tmp_path):
    name = b"caf\xe9.zarr".decode("utf-8", "surrogateescape")
    page = report([Run(name), {name: name}], tmp_path / "r", title=f"daskreg: {name}", command=f"daskreg report {name}")
    assert "caf\\udce9.zarr" in page.read_text(encoding="utf-8")
    assert json.loads((tmp_path / "r.report.json").read_text())["entries"][0]["path"] == name
    assert Path(report({}, tmp_path / name).name).suffix == ".html"
