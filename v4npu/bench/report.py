"""One HTML page of measurements that needs nothing but itself: no script, no style, font or picture from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from v4npu.bench.charts import bars, colour, lines
from v4npu.bench.compare import label
from v4npu.bench.read import Part
from v4npu.bench.record import Row
from v4npu.bench.table import behind, cells, headline

Measured = list[tuple[int, Row]]  # rows with a time, and the number of their environment
MOST_LINES = 10  # of a chart: those that take longest
TITLES = {"ops": "Operators", "block": "A layer, operator by operator", "model": "Models"}
HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width"><title>v4npu bench</title><style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 1180px; padding: 0 1em; color: #111 }
table { border-collapse: collapse; margin: .5em 0 1.5em } th, td { padding: .15em .7em; text-align: right }
th { border-bottom: 1px solid #888 } th:first-child, td:first-child, table.env td { text-align: left }
tr.bad td { color: #b00020 } figure { display: inline-block; margin: 0 1em 1.5em 0; vertical-align: top }
figcaption { font-weight: 600 } svg { font-size: 11px; max-width: 100% } .axis { stroke: #bbb; stroke-width: 1 }
.note { color: #b00020; font-weight: 600 } i.key { display: inline-block; width: 1em; height: .8em; margin-right: .4em }
</style></head><body><h1>v4npu bench</h1>
"""


def page(files: Sequence[tuple[str, Sequence[Part]]]) -> str:
    """The page of files by name; whatever they hold is escaped."""
    parts = [(name, environment, rows) for name, each in files for environment, rows in each]  # numbered from 1
    timed = [(i, row) for i, (_, _, rows) in enumerate(parts) for row in rows if row["status"] == "ok"]
    out = [HEAD, *_environments(parts)]
    for kind, title in TITLES.items():
        if not any(row["kind"] == kind for _, _, rows in parts for row in rows):
            continue
        out.append(f"<h2>{title}</h2>")
        out += _charts(kind, [(i, row) for i, row in timed if row["kind"] == kind], [e for _, e, _ in parts])
        for name, environment, rows in parts:
            if mine := [row for row in rows if row["kind"] == kind]:
                out.append(f"<h3>{escape(name)}</h3><p>{escape(headline(environment))}</p>" + _table(kind, mine))
    return "".join([*out, "</body></html>\n"])


def _environments(parts: Sequence[tuple[str, Row, list[Row]]]) -> Iterator[str]:
    for i, (name, environment, rows) in enumerate(parts):
        yield f'<h3><i class="key" style="background: {colour(i)}"></i>{i + 1} {escape(name)}</h3>'
        if environment["emulated"]:
            yield '<p class="note">emulation, not performance</p>'
        if bad := sum(row["status"] != "ok" for row in rows):
            yield f'<p class="note">{bad} of {len(rows)} rows have no time</p>'
        cells = "".join(
            f"<tr><td>{escape(key)}</td><td>{escape(str(value))}</td></tr>"
            for key, value in environment.items()
            if key not in ("kind", "emulated")
        )
        yield f"<details><summary>{escape(headline(environment))}</summary>"
        yield f'<table class="env">{cells}</table></details>'


def _table(kind: str, rows: list[Row]) -> str:
    names, body = cells(kind, rows)
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = []
    for row, line in zip(rows, body, strict=True):
        mark = "" if row["status"] == "ok" else f' class="bad" title="{escape(row["status"])}"'
        lines.append(f"<tr{mark}>" + "".join(f"<td>{escape(text)}</td>" for text in line) + "</tr>")
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _charts(kind: str, rows: Measured, environments: Sequence[Row]) -> Iterator[str]:
    several = len(environments) > 1

    def series(name: str, i: int) -> str:
        return f"{name} ({i + 1})" if several else name

    if kind == "model":
        groups: dict[str, list[tuple[int, float, str]]] = {}
        for i, row in rows:
            rate = row["tokens_per_second"]
            groups.setdefault(label(row).removeprefix("model "), []).append((i, rate, f"{rate:,.1f}"))
        if groups:
            yield bars("Tokens per second", groups)
        yield from _against_context("Decode of a token, ms", [
            (series(row["engine"], i), row["context"], row["seconds"] / row["tokens"] * 1e3)
            for i, row in rows if row["phase"] == "decode"
        ])  # fmt: skip
        return
    shares: dict[str, dict[str, list[tuple[int, float, str]]]] = {}
    for i, row in rows:
        if "limit" in row:
            where = f"{row['layer']} layer, " if kind == "block" else ""
            title = f"Share of the roofline: {where}{behind(row)}"
            bar = (i, row["limit"], f"{row['limit']:.0%}")
            shares.setdefault(title, {}).setdefault(row["op"], []).append(bar)
    for title, each in shares.items():
        yield bars(title, each, 1.0)
    tokens = sorted({row["tokens"] for _, row in rows if row["context"]})
    for count in tokens:
        yield from _against_context(f"Time of {behind({'tokens': count})}, ms", [
            (series(f"{row['layer']} {row['op']}" if kind == "block" else row["op"], i), row["context"],
             row["seconds"] * 1e3)
            for i, row in rows if row["tokens"] == count
        ])  # fmt: skip


def _against_context(title: str, points: Sequence[tuple[str, float, float]]) -> Iterator[str]:
    """A chart of what was measured behind two contexts or more."""
    series: dict[str, list[tuple[float, float]]] = {}
    for name, context, value in points:
        if context:
            series.setdefault(name, []).append((context, value))
    found = {name: each for name, each in series.items() if len({x for x, _ in each}) > 1}
    longest = sorted(found, key=lambda name: -max(y for _, y in found[name]))[:MOST_LINES]
    if longest:
        yield lines(title, {name: found[name] for name in longest}, "tokens before", "ms")
