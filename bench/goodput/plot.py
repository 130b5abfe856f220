"""Goodput and the useful share of the GPU's time against load, as a picture."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.goodput.result import Result
from bench.goodput.world import Contender

_STYLES = {
    Contender.DIRECT: ("#b07aa1", "o", ":"),
    Contender.PROXY: ("#e15759", "s", "--"),
    Contender.FIFO: ("#4e79a7", "^", "-."),
    Contender.RESPECT: ("#e0a030", "v", "--"),
    Contender.GATEWAY: ("#2f8f4e", "D", "-"),
}


def draw(results: Sequence[Result], file: Path) -> None:
    """Write the picture; ``results`` are those of the open loop."""
    mpl.rcParams["font.size"] = 10
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    left, middle, right = figure.subplots(1, 3, sharex=True)
    for axes, title in (
        (left, "goodput: tokens that reached\na caller, of all computed"),
        (middle, "useful: GPU time in answers\nthat reached a caller"),
        (right, "calls answered, of the model\nthat fared worse"),
    ):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("offered load, in parts of capacity")
        axes.set_ylim(0, 104)
        axes.grid(alpha=0.3)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    for contender, (colour, marker, line) in _STYLES.items():
        own = sorted(
            (one for one in results if one.spec.contender is contender),
            key=lambda one: one.spec.load,
        )
        loads = [one.spec.load for one in own]
        for axes, values in (
            (left, [one.goodput for one in own]),
            (middle, [one.useful for one in own]),
            (right, [min(model.rate for model in one.models) for one in own]),
        ):
            axes.plot(
                loads,
                [100 * value for value in values],
                color=colour,
                marker=marker,
                linestyle=line,
                label=str(contender),
            )
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(file, dpi=110)
