"""Two files of measurements side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from v4npu.bench.read import Part
from v4npu.bench.record import Row
from v4npu.bench.table import behind

# What makes two rows the same measurement.
IDENTITY = ("kind", "device", "layer", "op", "engine", "model", "phase", "sizes", "dtype", "numerics", "strict",
            "tokens", "context")  # fmt: skip
# What should be the same around them; the versions of v4npu are what is compared.
SURROUNDINGS = ("device_name", "cpu", "isa", "threads", "os", "python", "torch", "clock", "seed")
Key = tuple[Any, ...]


def label(row: Row) -> str:
    """A measurement in words."""
    words = [row["kind"], row.get("layer"), row.get("op"), row.get("model"), row.get("engine"), row.get("phase")]
    words += [row.get("sizes"), row["dtype"], "strict" if row.get("strict") else None]
    words += [row.get("numerics") if row["kind"] == "model" else None]
    text = " ".join(filter(None, words))
    if "tokens" in row:
        text += f", {behind(row)}"
    return text if row["device"] == "cpu" else f"{text}, {row['device']}"


@dataclass
class Comparison:
    """Pairs are rows of A and of B that are the same measurement, both timed."""

    pairs: list[tuple[Row, Row]]
    only_a: list[Row]
    only_b: list[Row]
    untimed: list[tuple[Row, Row]]  # in both, in one without a time
    warnings: list[str]
    by: str

    def ratio(self, pair: tuple[Row, Row]) -> float:
        return pair[1][self.by] / pair[0][self.by]

    @property
    def geomean(self) -> float | None:
        if not self.pairs:
            return None
        return math.exp(sum(math.log(self.ratio(pair)) for pair in self.pairs) / len(self.pairs))

    def cells(self) -> list[list[str]]:
        """Text of each row: what, A, B, B/A."""

        def time(row: Row) -> str:
            return _short(row[self.by]) if self.by in row else row["status"].partition(":")[0]

        body = [[label(a), time(a), time(b), f"{self.ratio((a, b)):.3f}"] for a, b in self.pairs]
        body += [[label(a), time(a), time(b), ""] for a, b in self.untimed]
        body += [[label(a), "", "absent", ""] for a in self.only_a]
        return body + [[label(b), "absent", "", ""] for b in self.only_b]

    def failures(self, percent: float | None) -> str:
        """Why B does not stand; empty if it does."""
        wrong = [label(b) for _, b in self.untimed if b["status"].startswith("wrong")]
        wrong += [label(b) for b in self.only_b if b["status"].startswith("wrong")]
        if wrong:
            return f"wrong in B: {'; '.join(wrong)}"
        slow = [p for p in self.pairs if percent is not None and self.ratio(p) > 1 + percent / 100]
        if not slow:
            return ""
        worst = max(slow, key=self.ratio)
        much = f"{self.ratio(worst) - 1:.1%} for {label(worst[0])}"
        return f"{len(slow)} of {len(self.pairs)} rows take over {percent:g} % longer, most {much}"

    def to_dict(self) -> dict[str, Any]:
        def of(row: Row) -> Row:
            return {name: row[name] for name in IDENTITY if name in row}

        return {
            "by": self.by,
            "geomean": self.geomean,
            "rows": [{**of(a), "a": a[self.by], "b": b[self.by], "ratio": self.ratio((a, b))} for a, b in self.pairs],
            "untimed": [{**of(a), "a": a["status"], "b": b["status"]} for a, b in self.untimed],
            "only_a": [of(a) for a in self.only_a],
            "only_b": [of(b) for b in self.only_b],
            "warnings": self.warnings,
        }


def compare(a: Sequence[Part], b: Sequence[Part], by: str = "median") -> Comparison:
    """Joins rows by what they measure; of rows that are in a file twice the last counts.

    Raises:
        ValueError: the files have no timed row in common.
    """
    mine, theirs = ({_key(row): row for _, rows in part for row in rows} for part in (a, b))
    both = [(mine[key], theirs[key]) for key in mine if key in theirs]
    timed, untimed = list[tuple[Row, Row]](), list[tuple[Row, Row]]()
    for pair in both:
        (timed if all(row["status"] == "ok" for row in pair) else untimed).append(pair)
    if not timed and not untimed:
        raise ValueError("no row of A is in B")
    if not timed and not any(row["status"].startswith("wrong") for _, row in untimed):
        raise ValueError("no row has a time in A and in B")
    return Comparison(
        timed, [mine[k] for k in mine if k not in theirs], [theirs[k] for k in theirs if k not in mine], untimed,
        _differences(a, b), {"median": "seconds"}.get(by, by),
    )  # fmt: skip


def _key(row: Row) -> Key:
    return tuple(row.get(name) for name in IDENTITY)


def _differences(a: Sequence[Part], b: Sequence[Part]) -> list[str]:
    found = []
    for name in SURROUNDINGS:
        left, right = (sorted({str(environment.get(name)) for environment, _ in part}) for part in (a, b))
        if left != right:
            found.append(f"A and B differ in {name}: {', '.join(left)} and {', '.join(right)}")
    if any(environment["emulated"] for environment, _ in [*a, *b]):
        found.append("a time of an emulated device says nothing about performance")
    return found


def _short(seconds: float) -> str:
    for size, unit in ((1, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.4g} {unit}"
    return f"{seconds * 1e6:.4g} µs"
