"""What the demo shows on the terminal: one live line where there is a terminal, plain lines where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from demo.rollout import Stage

BAR = 30
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class Screen:
    """Prints lines, and on a terminal one last line that moves."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._started = time.monotonic()

    def line(self, text: str = "") -> None:
        """Print a line that stays."""
        self._wipe()
        print(text, flush=True)

    def status(self, text: str) -> None:
        """Show what is going on in the line that moves; nothing where output is not a terminal."""
        if self._live:
            seconds = time.monotonic() - self._started
            sign = SPINNER[int(seconds * 8) % len(SPINNER)]
            print(f"\r\x1b[2K{sign} {text} … {seconds:.0f} s"[:120], end="", flush=True)

    def stage(self, stage: Stage) -> None:
        """Print a stage's progress line."""
        filled = round(stage.measured / 100 * BAR)
        bar = "█" * filled + "░" * (BAR - filled)
        self.line(
            f"  {stage.name:<16} asked {stage.asked:>3} %   {bar}   "
            f"SDK measured {stage.measured:6.2f} %   {stage.measured_at:5.1f} s"
        )

    def _wipe(self) -> None:
        if self._live:
            print("\r\x1b[2K", end="")


def table(stages: Sequence[Stage]) -> str:
    """Return the summary of all stages."""
    head = ("stage", "asked", "measured", "difference", "at second")
    rows = [
        (
            stage.name,
            f"{stage.asked} %",
            f"{stage.measured:.2f} %",
            f"{stage.difference:+.2f}",
            f"{stage.measured_at:.1f}",
        )
        for stage in stages
    ]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  " + " │ ".join([first, *rest])

    rule = "  " + "─┼─".join("─" * width for width in widths)
    return "\n".join([line(head), rule, *(line(row) for row in rows)])
