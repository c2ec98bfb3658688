"""Draws what an emulated launch kept busy: a PNG beside the Chrome trace, a lane per pipe. All times are modelled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

LABEL = "modelled µs: lower bounds from published rates, not measured"


@dataclass(frozen=True)
class Lane:
    """A pipe of a core of a block, and its instructions."""

    name: str
    spans: dict[str, list[tuple[float, float]]]  # instruction -> [(start, duration)], µs


def lanes(trace: str) -> list[Lane]:
    """The lanes of a Chrome trace of the emulator, by block, core and pipe; instructions that take no time left out."""
    events = json.loads(trace)["traceEvents"]
    found = {(e["pid"], e["tid"]): Lane(f"block {e['pid']}  {e['args']['name']}", {}) for e in events if e["ph"] == "M"}
    for e in events:
        if e["ph"] == "X" and e["dur"] > 0:
            found[e["pid"], e["tid"]].spans.setdefault(e["name"], []).append((e["ts"], e["dur"]))
    return [found[key] for key in sorted(found) if found[key].spans]


def write_timeline(trace: str, path: Path, title: str) -> Path:
    """Writes the trace as `path`.json and its picture as `path`.png; the picture's path.

    Raises:
        ImportError: matplotlib is missing; it comes with the extra `bench`.
        ValueError: The trace holds no instruction that takes time.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = lanes(trace)
    if not rows:
        raise ValueError("write_timeline: trace holds no instruction that takes time")
    path.with_suffix(".json").write_text(trace)
    names = sorted({name for row in rows for name in row.spans})
    figure = Figure(figsize=(12, 1.6 + 0.3 * len(rows) + 0.2 * len(names) / 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for height, row in enumerate(rows):
        for name, spans in row.spans.items():
            axes.broken_barh(spans, (height - 0.4, 0.8), color=f"C{names.index(name) % 10}")
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(LABEL)
    axes.set_title(title)
    handles = [axes.plot([], [], lw=6, color=f"C{i % 10}", label=name)[0] for i, name in enumerate(names)]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize="small")
    figure.savefig(path.with_suffix(".png"), dpi=100, metadata={"Title": title, "Description": LABEL})
    return path.with_suffix(".png")
