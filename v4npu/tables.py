"""Tables on stdout."""

from __future__ import annotations

from collections.abc import Sequence


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A title, and a table under it whose first column is words and whose others are figures.

    It is as wide as its text whatever the terminal, so that nothing is cut off where it is piped.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE)
    for i, name in enumerate(columns):
        table.add_column(Text(name), justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))  # as they are: brackets are no markup
    print(title)
    Console(width=10_000).print(table)


def short(number: float, giga: str = "G") -> str:
    """1,572.994 B for 1572993941504 with giga "B"."""
    for size, unit in ((1e9, giga), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:,.3f} {unit}"
    return f"{number:,.0f}"
