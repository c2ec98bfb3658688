"""Files of measurements, read as if somebody else had written them: whatever is wrong is named by file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from v4npu.bench.record import SCHEMA, Row

Part = tuple[Row, list[Row]]  # an environment, and what was measured there
ENVIRONMENT = ("device", "device_name", "cpu", "isa", "os", "torch", "v4npu", "date", "clock", "threads", "emulated")
_TEXT = (*ENVIRONMENT[:9], "status", "op", "layer", "engine", "model", "phase", "sizes", "dtype", "numerics")
_WHOLE = ("threads", "tokens", "context", "repeats", "calls")
_NUMBER = ("seconds", "best", "p5", "p95", "bytes", "flops", "limit", "tokens_per_second", "torch_seconds", "grown_MiB",
           "peak_MiB")  # fmt: skip
# Fields that are read, wherever they stand; any other may be text, a number, true, false or null.
TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(_TEXT, (str,)), **dict.fromkeys(_WHOLE, (int,)), **dict.fromkeys(_NUMBER, (int, float)),
    "emulated": (bool,), "strict": (bool,),
}  # fmt: skip
WORDS = {str: "text", int: "a whole number", bool: "true or false"}
ROW = ("device", "status", "dtype")
NEEDED = {
    "ops": (*ROW, "op", "sizes", "tokens", "context"),
    "block": (*ROW, "layer", "op", "sizes", "tokens", "context"),
    "model": (*ROW, "engine", "model", "numerics", "strict"),
}
TIME = ("seconds", "best", "p5", "p95", "repeats")
TIMED = {  # what a row with a time needs besides
    "ops": (*TIME, "bytes", "flops"),
    "block": (*TIME, "bytes", "flops", "calls"),
    "model": (*TIME, "phase", "tokens", "context", "tokens_per_second"),
}
LONGEST_LINE, MOST_ROWS, LONGEST_TEXT, LARGEST = 1 << 16, 100_000, 300, 1e18


def read(path: Path) -> list[Part]:
    """What a file holds.

    Raises:
        ValueError: a line is not what `v4npu bench` writes; says which and why.
    """
    parts: list[Part] = []
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            try:
                if len(line) > LONGEST_LINE or number > MOST_ROWS:
                    raise ValueError(f"at most {MOST_ROWS:,} lines of {LONGEST_LINE:,} bytes are read")
                if not line.strip():
                    continue
                row = _row(line)
                if row["kind"] == "environment":
                    parts.append((row, []))
                elif not parts:
                    raise ValueError('the first row must be of kind "environment"')
                else:
                    parts[-1][1].append(row)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}:{number}: {error}") from None
    if not any(rows for _, rows in parts):
        raise ValueError(f"{path}: no measurement in it")
    return parts


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _row(line: bytes) -> Row:
    row = json.loads(line.decode("utf-8"), parse_constant=_refuse)
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    for name, value in row.items():
        _check(name, value)
    kind = row.get("kind")
    if kind == "environment":
        if row.get("schema") != SCHEMA:
            raise ValueError(f"schema must be {SCHEMA}, got {row.get('schema')!r}")
        needed: tuple[str, ...] = ENVIRONMENT
        peaks = [row.get("read_peak"), row.get("gemm_peak")]
        if row.get("emulated") is False and not all(type(peak) in (int, float) for peak in peaks):
            raise ValueError("read_peak and gemm_peak must be numbers")
    elif kind in NEEDED:
        needed = (*NEEDED[kind], *(TIMED[kind] if row.get("status") == "ok" else ()))
    else:
        raise ValueError(f"kind must be environment, {', '.join(NEEDED)}, got {kind!r}")
    if missing := [name for name in needed if name not in row]:
        raise ValueError(f"{', '.join(missing)} must be there")
    if kind in NEEDED and row["status"] == "ok" and not (row["seconds"] and row["best"] and row["tokens"]):
        raise ValueError("seconds, best and tokens must not be 0")
    return row


def _check(name: str, value: Any) -> None:
    """Refuses a value that is not of its field's type, or of no type that a row holds."""
    if not name.isidentifier() or len(name) > 40:
        raise ValueError(f"{name[:40]!r} is no field")
    if isinstance(value, str):
        if len(value) > LONGEST_TEXT or not value.isprintable():
            raise ValueError(f"{name} must be printable and of at most {LONGEST_TEXT} characters")
    elif isinstance(value, int | float):
        if not 0 <= value <= LARGEST:
            raise ValueError(f"{name} must be within 0..{LARGEST:g}")
    elif value is not None:
        raise ValueError(f"{name} must be text, a number, true, false or null")
    if name in TYPES and type(value) not in TYPES[name]:
        raise ValueError(f"{name} must be {WORDS.get(TYPES[name][-1], 'a number')}, got {value!r}")
