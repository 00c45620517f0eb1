"""A small picture of the rollout: the percentage that was asked as a step line, the SDK's shares as points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from demo.measure import USERS
from demo.rollout import Stage

INK = "#1f2933"
QUIET = "#8a94a0"
ASKED = "#9bb8e8"
MEASURED = "#1e61f0"


def draw(stages: Sequence[Stage], flag_key: str, path: Path) -> None:
    """Write the picture as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    style = {"font.size": 9, "text.color": INK, "xtick.color": QUIET, "ytick.color": QUIET}
    with plt.rc_context(style):
        figure, axes = plt.subplots(figsize=(6.4, 3.4), dpi=125, layout="constrained")
        end = stages[-1].measured_at * 1.06
        times = [stage.asked_at for stage in stages]
        axes.step(
            [0, *times, end],
            [0, *(stage.asked for stage in stages), stages[-1].asked],
            where="post",
            color=ASKED,
            linewidth=2,
            label="asked by the rollout",
        )
        axes.scatter(
            [stage.measured_at for stage in stages],
            [stage.measured for stage in stages],
            s=34,
            color=MEASURED,
            zorder=3,
            label=f"measured by the SDK, {USERS:,} users",
        )
        for stage in stages:
            axes.annotate(
                f"{stage.measured:.1f} %",
                (stage.measured_at, stage.measured),
                xytext=(6, -12),
                textcoords="offset points",
                color=MEASURED,
            )
        axes.set_xlim(0, end)
        axes.set_ylim(-4, 108)
        axes.set_yticks([0, 10, 50, 100], ["0 %", "10 %", "50 %", "100 %"])
        axes.set_xlabel("seconds since Airflow was healthy", color=QUIET)
        axes.set_title(f"{flag_key}: from 0 to 100 %", loc="left", fontweight="bold")
        axes.grid(axis="y", color="#e6e9ed", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color("#cfd5db")
        axes.tick_params(length=0)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 0.92), fontsize=8.5)
        figure.savefig(path)
        plt.close(figure)
