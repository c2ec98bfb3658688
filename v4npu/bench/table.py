"""Rows as text: for a terminal, and for a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from v4npu.bench.record import Row

Column = tuple[str, Callable[[Row], str]]


def _rate(figure: str) -> Callable[[Row], str]:
    return lambda row: f"{row[figure] / row['seconds'] / 1e9:,.1f}" if {figure, "seconds"} <= row.keys() else ""


def _time(figure: str, scale: float) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        value = row.get(figure, -1) * scale
        return f"{value:,.{0 if value >= 1000 else 1 if value >= 100 else 2}f}" if value >= 0 else ""

    return text


def _plain(name: str) -> Callable[[Row], str]:
    return lambda row: f"{row[name]:,}" if isinstance(row.get(name), int) else str(row.get(name, ""))


def _share(row: Row) -> str:
    return f"{row['limit']:.0%}" if "limit" in row else ""


TIMES = ("µs", "ms", "tokens/s")  # a status stands in the first of these
COLUMNS: dict[str, list[Column]] = {
    "ops": [
        ("operator", _plain("op")), ("tokens", _plain("tokens")), ("behind", _plain("context")),
        ("µs", _time("seconds", 1e6)), ("best", _time("best", 1e6)), ("p5", _time("p5", 1e6)),
        ("p95", _time("p95", 1e6)), ("runs", _plain("repeats")), ("GB/s", _rate("bytes")), ("GF/s", _rate("flops")),
        ("of the limit", _share), ("torch µs", _time("torch_seconds", 1e6)),
    ],
    "block": [
        ("operator", lambda row: row["op"] if row["op"] != "layer" else f"{row['layer']} layer"),
        ("tokens", _plain("tokens")), ("behind", _plain("context")), ("calls", _plain("calls")),
        ("ms", _time("seconds", 1e3)), ("best", _time("best", 1e3)), ("p5", _time("p5", 1e3)),
        ("p95", _time("p95", 1e3)), ("runs", _plain("repeats")), ("GB/s", _rate("bytes")), ("GF/s", _rate("flops")),
        ("of the limit", _share), ("grown MiB", _time("grown_MiB", 1)),
    ],
    "model": [
        ("engine", _plain("engine")), ("", _plain("phase")), ("tokens", _plain("tokens")),
        ("behind", _plain("context")), ("tokens/s", _time("tokens_per_second", 1)), ("ms", _time("seconds", 1e3)),
        ("best", _time("best", 1e3)), ("p5", _time("p5", 1e3)), ("p95", _time("p95", 1e3)), ("runs", _plain("repeats")),
        ("peak MiB", _time("peak_MiB", 1)),
    ],
}  # fmt: skip


def cells(kind: str, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and the text of each row; of a row without a time, its status."""
    columns = COLUMNS[kind]
    names = [name for name, _ in columns]
    known = next(i for i, name in enumerate(names) if name in TIMES)
    body = []
    for row in rows:
        line = [text(row) for _, text in columns]
        if row["status"] != "ok":
            line[known:] = [row["status"].partition(":")[0].upper(), *[""] * (len(columns) - known - 1)]
        body.append(line)
    return names, body


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def behind(row: Row) -> str:
    """Its tokens, and those before them."""
    tokens = _many(row["tokens"], "token")
    return f"{tokens} behind {row['context']:,}" if row.get("context") else tokens


def headline(environment: dict[str, Any]) -> str:
    """An environment on one line."""
    e = environment
    where = e["device_name"] if e["device"] != "cpu" else f"{e['cpu']}, {e['isa']}, {_many(e['threads'], 'thread')}"
    if e["emulated"]:
        return f"{where}: emulation, not performance"
    return f"{where}; read {e['read_peak'] / 1e9:.1f} GB/s, torch GEMM {e['gemm_peak'] / 1e9:,.0f} GF/s"
