"""Files of `v4npu bench`: compared, reported, and refused where they are not what it writes."""

from __future__ import annotations

import io
import json
import re
import subprocess
import time
from html.parser import HTMLParser

import pytest

from v4npu.bench import record
from v4npu.bench.compare import compare

ENVIRONMENT = {
    "kind": "environment", "schema": 1, "device": "cpu", "device_name": "Chip", "emulated": False, "cpu": "Chip",
    "isa": "avx2", "threads": 2, "os": "Linux", "torch": "2.13.0", "v4npu": "0.1.0", "date": "2026-01-01",
    "clock": "wall time", "read_peak": 1e10, "gemm_peak": 1e11, "commit": None,
}  # fmt: skip
TIME = {"status": "ok", "seconds": 2e-3, "best": 1e-3, "p5": 1e-3, "p95": 3e-3, "repeats": 9}
OPS = {"kind": "ops", "device": "cpu", "op": "rope", "sizes": "small", "dtype": "bfloat16", "tokens": 8, "context": 0,
       "bytes": 1e6, "flops": 0.0, "limit": 0.25, **TIME}  # fmt: skip
BLOCK = {**OPS, "kind": "block", "layer": "csa", "op": "csa_attention", "tokens": 1, "context": 512, "calls": 1}
MODEL = {"kind": "model", "device": "cpu", "engine": "v4npu", "model": "nano", "dtype": "bfloat16",
         "numerics": "official", "strict": False, "phase": "decode", "tokens": 32, "context": 512,
         "tokens_per_second": 123.4, **TIME}  # fmt: skip
WRONG = {**{k: v for k, v in OPS.items() if k not in TIME}, "status": "wrong: not what the reference computes"}


@pytest.fixture
def file(tmp_path):
    """file(name, *rows): the path of a file of them; a row may be text."""

    def write(name, *rows):
        path = tmp_path / name
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return write


# ---- compare


def test_rows_are_joined_by_what_they_measure(v4npu_command, file):
    a = file("a", ENVIRONMENT, OPS, {**OPS, "tokens": 1}, BLOCK, MODEL)
    shuffled = ({**MODEL, "seconds": 1e-3}, {**OPS, "seconds": 9.0}, {**OPS, "seconds": 8e-3}, {**OPS, "device": "gpu"})
    b = file("b", ENVIRONMENT, *shuffled, BLOCK)
    status, out, err = v4npu_command("bench", "compare", a, b, "--json")
    found = json.loads(out)
    assert (status, err) == (0, "") and found["geomean"] == pytest.approx(2 ** (1 / 3))
    ratios = {(row["kind"], row["tokens"]): row["ratio"] for row in found["rows"]}
    assert ratios == {("ops", 8): 4, ("block", 1): 1, ("model", 32): 0.5}  # of two rows alike the last counts
    assert [row["tokens"] for row in found["only_a"]] == [1] and [row["device"] for row in found["only_b"]] == ["gpu"]
    status, out, _ = v4npu_command("bench", "compare", a, b)
    assert "geometric mean of B/A: 1.260 over 3 rows" in out and out.count("absent") == 2
    assert (
        "ops rope small bfloat16, 8 tokens" in out and "block csa csa_attention small bfloat16, 1 token behind" in out
    )


def test_a_slower_row_fails_if_asked(v4npu_command, file):
    a, b = file("a", ENVIRONMENT, OPS, BLOCK), file("b", ENVIRONMENT, OPS, {**BLOCK, "seconds": 2.2e-3})
    for fail, expected in (((), 0), (("--fail", 5), 1), (("--fail", 11), 0), (("--fail", 5, "--by", "best"), 0)):
        status, out, err = v4npu_command("bench", "compare", a, b, *fail)
        assert status == expected and "B/A" in out
        assert ("1 of 2 rows take over 5 % longer, most 10.0% for block csa" in err) == bool(expected)
    assert v4npu_command("bench", "compare", b, a, "--fail", 0)[0] == 0  # faster


def test_a_row_that_has_become_wrong_fails(v4npu_command, file):
    a, b = file("a", ENVIRONMENT, OPS, BLOCK), file("b", ENVIRONMENT, WRONG, BLOCK)
    status, out, err = v4npu_command("bench", "compare", a, b)
    assert status == 1 and "wrong in B: ops rope" in err and "wrong" in out
    assert v4npu_command("bench", "compare", b, a)[0] == 0
    status, out, _ = v4npu_command("bench", "compare", file("c", ENVIRONMENT, OPS), file("d", ENVIRONMENT, WRONG))
    assert status == 1 and "geometric mean" not in out


def test_other_surroundings_are_named(v4npu_command, file):
    a, b = (
        file("a", ENVIRONMENT, OPS),
        file("b", {**ENVIRONMENT, "threads": 8, "v4npu": "0.2.0", "emulated": True}, OPS),
    )
    status, _, err = v4npu_command("bench", "compare", a, b)
    assert status == 0 and "A and B differ in threads: 2 and 8" in err and "says nothing about performance" in err
    assert err.count("\n") == 2


def test_names_arrive_whatever_stdout_can_print(v4npu_command, file, monkeypatch):
    row = {**MODEL, "model": "modèle 深"}
    a, out = file("a", ENVIRONMENT, row), io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    assert v4npu_command("bench", "compare", a, a, "--json")[0] == 0
    record.write(out, row)
    compared, written = map(json.loads, out.buffer.getvalue().decode("ascii").splitlines())
    assert compared["rows"][0]["model"] == written["model"] == row["model"]


def test_long_files_are_joined_in_no_time():
    rows = [{**OPS, "context": i, "seconds": 1.0 + i} for i in range(20_000)]
    begin = time.perf_counter()
    found = compare([(ENVIRONMENT, rows)], [(ENVIRONMENT, [*rows[:-1], {**rows[-1], "status": "wrong"}])])
    assert len(found.pairs) == 19_999 and found.untimed[0][0] is rows[-1]
    assert time.perf_counter() - begin < 20  # of which every pair beside every other took minutes


# ---- report


class Tags(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.text, self.links, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action") or k.startswith("on")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_a_report_has_everything_and_loads_nothing(v4npu_command, file, tmp_path):
    far = {"context": 65536, "seconds": 0.5, "best": 0.4}
    rows = (OPS, WRONG | {"tokens": 2}, BLOCK, BLOCK | far, MODEL, MODEL | far)
    a, b = file("a.jsonl", ENVIRONMENT, *rows), file("b.jsonl", ENVIRONMENT | {"isa": "amx"}, *rows, ENVIRONMENT, OPS)
    page = tmp_path / "report.html"
    assert v4npu_command("bench", "report", a, b, "-o", page) == (0, "", "")
    assert sorted(tmp_path.iterdir()) == [a, b, page]
    text = page.read_text()
    found = Tags(text)
    assert not found.open and not found.links and not {"script", "link", "img", "iframe"} & set(found.tags)
    assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "") and "url(" not in text
    words = " ".join(found.text)
    for said in (
        "a.jsonl", "b.jsonl", "amx", "2.13.0", "Share of the roofline: 8 tokens", "25%", "WRONG",
        "Tokens per second", "123.4", "Decode of a token, ms", "Time of 1 token, ms", "65,536", "csa_attention (2)",
        "1 of 6 rows have no time",
    ):  # fmt: skip
        assert said in words, said
    assert found.tags.count("svg") == 6  # three shares of the roofline, rates, two over contexts
    assert not re.search(r"\b(nan|inf)\b", text)


def test_a_report_escapes_what_it_is_given(v4npu_command, file):
    hostile = "<script>alert(1)</script>\"'&$\\frac{}[bold]"
    row = {**BLOCK, "op": hostile, "layer": hostile, "sizes": hostile}
    a = file(
        "<b>.jsonl",
        {**ENVIRONMENT, "cpu": hostile, "x": hostile},
        row,
        {**row, "context": 9},
        {**MODEL, "engine": hostile},
    )
    status, out, err = v4npu_command("bench", "report", a, "-o", "-")
    assert (status, err) == (0, "") and "script" not in Tags(out).tags and "<b>" not in out
    assert hostile in " ".join(Tags(out).text)
    status, out, _ = v4npu_command("bench", "compare", a, a)
    assert status == 0 and hostile in out


def test_an_emulated_device_says_so(v4npu_command, file):
    a = file("a", {**ENVIRONMENT, "emulated": True, "read_peak": None, "gemm_peak": None}, OPS)
    assert "emulation, not performance" in v4npu_command("bench", "report", a, "-o", "-")[1]


# ---- what is refused


REFUSED = {
    "no JSON": ("{", ":2: Expecting property name"),
    "no object": ("[1]", ":2: not a JSON object"),
    "deep": ("[" * 60_000, ":2: "),
    "long": ('"' + "x" * 70_000, ":2: at most"),
    "NaN": (json.dumps({**OPS, "seconds": float("nan")}), ":2: NaN is no number"),
    "infinite": (json.dumps(OPS).replace("0.002", "1e999"), ":2: seconds must be within"),
    "negative": ({**OPS, "bytes": -1}, ":2: bytes must be within"),
    "absurd": (json.dumps(OPS).replace("0.002", "1" + "0" * 400), ":2: seconds must be within"),
    "more digits than Python reads": (json.dumps(OPS).replace("0.002", "1" * 5000), ":2: "),
    "no time": ({**OPS, "seconds": 0}, ":2: seconds, best and tokens must not be 0"),
    "no tokens": ({**MODEL, "tokens": 0}, ":2: seconds, best and tokens must not be 0"),
    "an environment with a status": ({**ENVIRONMENT, "status": "ok"}, ": no measurement in it"),
    "a field is missing": ({k: v for k, v in OPS.items() if k != "tokens"}, ":2: tokens must be there"),
    "text for a number": ({**OPS, "tokens": "8"}, ":2: tokens must be a whole number, got '8'"),
    "a truth for a number": ({**OPS, "limit": True}, ":2: limit must be a number, got True"),
    "a list": ({**OPS, "op": ["rope"]}, ":2: op must be text"),
    "an escape sequence": ({**OPS, "op": "\x1b]0;x\x07"}, ":2: op must be printable"),
    "long text": ({**OPS, "op": "x" * 301}, ":2: op must be printable and of at most 300"),
    "a kind of its own": ({**OPS, "kind": "serve"}, ":2: kind must be environment, ops, block, model, got 'serve'"),
    "a later schema": ({**ENVIRONMENT, "schema": 2}, ":2: schema must be 1, got 2"),
    "no peaks": ({**ENVIRONMENT, "read_peak": None}, ":2: read_peak and gemm_peak must be numbers"),
    "nothing": (ENVIRONMENT, ": no measurement in it"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_file(v4npu_command, file, tmp_path, case):
    line, said = REFUSED[case]
    bad, good = file("bad", ENVIRONMENT, line), file("good", ENVIRONMENT, OPS)
    page = tmp_path / "page"
    page.write_text("old")
    for arguments in (("report", good, bad, "-o", page), ("compare", good, bad)):
        status, out, err = v4npu_command("bench", *arguments)
        assert (status, out) == (2, "") and f"{bad}{said}" in err and err.count("\n") == 1
    assert page.read_text() == "old" and len(list(tmp_path.iterdir())) == 3


def test_other_refusals(v4npu_command, file, tmp_path):
    good, binary, headless = file("good", ENVIRONMENT, OPS), tmp_path / "binary", file("headless", OPS)
    binary.write_bytes(b"\xff\xfe\x00")
    for arguments, said in (
        (("report", binary), f"{binary}:1: 'utf-8'"),
        (("report", headless), f'{headless}:1: the first row must be of kind "environment"'),
        (("report", tmp_path / "absent"), "absent"),
        (("report", tmp_path), "directory"),
        (("report", good, "-o", good), "it is one of the files"),
        (("report", good, "-o", tmp_path / "no" / "page"), "--output"),
        (("compare", good, file("other", ENVIRONMENT, BLOCK)), "no row of A is in B"),
        (("compare", good, good, "--fail", -1), "--fail"),
        (("compare", good, good, "--by", "mean"), "--by 'mean' is none of median, best"),
        (("compare", good), "Missing argument 'B'"),
    ):
        status, out, err = v4npu_command("bench", *arguments)
        assert (status, out) == (2, "") and said in err and err.count("\n") == 1, (arguments, err)


def test_the_commit_is_none_where_only_a_folder_above_is_a_checkout(tmp_path, monkeypatch):
    (tmp_path / "packages").mkdir()
    monkeypatch.setattr(record, "__file__", str(tmp_path / "packages/v4npu/bench/record.py"))
    assert record.commit() is None
    git = ("git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b")
    for words in (("init", "-q"), ("commit", "-q", "--allow-empty", "-m", "x")):
        subprocess.run((*git, *words), check=True)
    assert record.commit() is None
