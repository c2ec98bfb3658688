"""Rows of bench/cuda_device.py for a person: a line, a summary, and the status table of backends/cuda/README.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "backends/cuda/README.md"
RESULTS = ROOT / "backends/cuda/results.jsonl"  # of devices, once there are any
NOT_RUN = "not run on a device"
DRY = "no device"  # how the device of a dry run begins
BEGIN, END = "<!-- status: written by bench/cuda_device.py --status -->", "<!-- end of status -->"
Row = dict[str, Any]


def failed(row: Row) -> bool:
    """Whether a row of ours is wrong; a peer's is the peer's."""
    excused = row["status"].startswith("not installed") or row.get("peer") not in (None, "v4npu")
    return row["status"] != "ok" and not excused


def line(row: Row) -> str:
    """One row."""
    what = [row["part"], row.get("peer") or "", row["op"], row.get("sizes", ""), row["case"], row.get("dtype", "")]
    text = " ".join(filter(None, what)) + (f", {row['tokens']} tokens" if "tokens" in row else "")
    if "warm_us" in row:
        text += f": {row['warm_us']:.1f} us warm, {row['cold_us']:.1f} cold"
    if "of_floor" in row:
        text += f", {row['of_floor']:.0%} of the floor of {row['floor_us']:.1f}"
    for phase in ("prefill", "decode"):
        if f"{phase}_tokens_per_second" in row:
            text += f": {row[f'{phase}_tokens_per_second']:.1f} tokens/s"
    if "copy_bytes_per_s" in row:
        text += f": copy {row['copy_bytes_per_s'] / 1e9:.0f} GB/s, GEMM {row['gemm_flops'] / 1e12:.1f} TF/s"
    return text + f": {row['status']}"


def summary(rows: Sequence[Row]) -> str:
    """Times beside the peers', then how many rows of each part are well, then each that is not."""
    timed = sorted(
        (r for r in rows if r["part"] in ("time", "peers") and "warm_us" in r),
        key=lambda r: (r["op"], r["sizes"], r["case"], -r["tokens"], r.get("peer", "")),
    )
    out = []
    if timed:
        head = ("operator", "layer", "case", "tokens", "by", "warm us", "cold us", "floor us", "of floor")
        cells = [head]
        for r in timed:
            floor = (f"{r['floor_us']:.1f}", f"{r['of_floor']:.0%}") if "of_floor" in r else ("", "")
            times = (f"{r['warm_us']:.1f}", f"{r['cold_us']:.1f}")
            cells.append((r["op"], r["sizes"], r["case"], str(r["tokens"]), r.get("peer", "v4npu"), *times, *floor))
        widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
        out += ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells] + [""]
    for part in dict.fromkeys(r["part"] for r in rows):
        mine = [r for r in rows if r["part"] == part]
        out.append(f"{part}: {sum(r['status'] == 'ok' for r in mine)} of {len(mine)} rows ok")
        out += [f"  {line(r)}" for r in mine if r["status"] != "ok"]
    return "\n".join(out)


def read(path: Path) -> list[Row]:
    """The rows of a file; none if there is no such file."""
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def on_a_device(op: str, rows: Sequence[Row]) -> str:
    """What devices have said about an operator; the last word on each case counts."""
    last = {
        (r["device"], r["part"], r["sizes"], r["case"], r["dtype"], r["tokens"]): r
        for r in rows
        if r["op"] == op and not r["device"].startswith(DRY) and not r.get("peer")
    }
    told = []
    for device in dict.fromkeys(key[0] for key in last):
        parts = []
        for part, name in (("check", "checks"), ("invariance", "invariant"), ("time", "timed")):
            mine = [r for key, r in last.items() if key[:2] == (device, part)]
            if mine:
                text = f"{sum(r['status'] == 'ok' for r in mine)} of {len(mine)} {name}"
                if shares := [r["of_floor"] for r in mine if "of_floor" in r]:
                    text += f", {min(shares):.0%} to {max(shares):.0%} of the floor"
                parts.append(text)
        told.append(f"{device}: {', '.join(parts)}")
    return "; ".join(told) or NOT_RUN


def table(ops: Sequence[str], archs: Sequence[str], rows: Sequence[Row]) -> str:
    """The README's table: every operator, what it was compiled for, and what devices have said."""
    lines = ["| operator | compiled | emulated | on a device |", "|---|---|---|---|"]
    lines += [f"| {op} | {', '.join(archs)} | yes | {on_a_device(op, rows)} |" for op in ops]
    return "\n".join(lines)


def write(rows: Sequence[Row], readme: Path = README) -> None:
    """Puts the table of these rows between the marks of the README."""
    from v4npu import _C
    from v4npu.testing.cuda import script

    text = readme.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    archs = list(script("backends/cuda/build.py").ARCHS)
    readme.write_text(f"{before}{BEGIN}\n{table(_C.op_names(), archs, rows)}\n{END}{after}")
