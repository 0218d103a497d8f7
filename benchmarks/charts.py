"""Draw the charts from ``benchmarks/results/*.json``: ``python -m benchmarks.charts``."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402

RESULTS = pathlib.Path(__file__).parent / "results"
OURS, BY_HAND, OTHERS, UNIT = "#0b6e4f", "#3d5a80", "#9aa5b1", "#e09f3e"
#: What a colour of the first chart says.
KINDS = {
    OURS: "rngscope",
    BY_HAND: "written by hand",
    OTHERS: "other tools",
    UNIT: "the same seeds, nothing restored",
}
PARTS = {"save": "#0b6e4f", "seed": "#e09f3e", "restore": "#3d5a80"}


def caption(machine: dict[str, Any]) -> str:
    gpu = f", {machine['gpus']} x {machine['gpu']}" if machine["gpu"] else ""
    return (
        f"{machine['cpu']}{gpu}; {machine['python']}, torch {machine['torch']}, "
        f"NumPy {machine['numpy']}; {machine['date']}"
    )


def draw_tools(result: dict[str, Any], path: pathlib.Path) -> None:
    costs = {name: cost for name, cost in result["tools"].items() if cost is not None}
    names = sorted(costs, key=lambda name: costs[name], reverse=True)
    colours = [_colour(name, result.get("by hand", ())) for name in names]
    figure, axes = pyplot.subplots(figsize=(8, 4))
    bars = axes.barh(names, [costs[name] for name in names], color=colours)
    axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(1, max(costs.values()) * 2)
    axes.set_xlabel("microseconds for one seeded block that restores (log scale)")
    axes.axvline(costs["bare seed calls"], color=UNIT, linestyle=":", linewidth=1)
    legend = [Patch(color=colour, label=kind) for colour, kind in KINDS.items()]
    axes.legend(handles=legend, frameon=False, fontsize=8, loc="upper right")
    _finish(figure, axes, result, path)


def _colour(name: str, by_hand: Sequence[str]) -> str:
    if name in by_hand:
        return BY_HAND
    if name.startswith("rngscope"):
        return OURS
    return UNIT if name.startswith("bare") else OTHERS


def draw_sources(result: dict[str, Any], path: pathlib.Path) -> None:
    sources = result["sources"]
    figure, axes = pyplot.subplots(figsize=(8, 2.6))
    left = [0.0] * len(sources)
    for part, colour in PARTS.items():
        widths = [parts[part] for parts in sources.values()]
        axes.barh(list(sources), widths, left=left, color=colour, label=part)
        left = [a + b for a, b in zip(left, widths)]
    whole = result["tools"]["rngscope"]
    axes.barh(["the scope itself"], [max(whole - sum(left), 0)], color=OTHERS)
    axes.set_xlabel(f"microseconds of the {whole:.1f} of a scope with a seed used before")
    axes.legend(frameon=False, fontsize=8)
    _finish(figure, axes, result, path)


def draw_devices(result: dict[str, Any], path: pathlib.Path) -> None:
    costs = result["devices"]["scope"]
    figure, axes = pyplot.subplots(figsize=(6, 3))
    axes.plot([int(count) for count in costs], list(costs.values()), "o-", color=OURS)
    axes.set_xlabel("started GPUs that the scope covers")
    axes.set_ylabel("microseconds for a scope")
    axes.set_ylim(bottom=0)
    _finish(figure, axes, result, path)


def _finish(figure: Any, axes: Any, result: dict[str, Any], path: pathlib.Path) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    figure.text(0.01, 0.01, caption(result["machine"]), fontsize=6.5, color="#555555")
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(path, dpi=150, metadata={"Software": None})
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.charts", description=__doc__)
    parser.add_argument("--of", type=pathlib.Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    for source in sorted(options.of.glob("*.json")):
        result = json.loads(source.read_text())
        draw_tools(result, source.with_name(f"{source.stem}-tools.png"))
        draw_sources(result, source.with_name(f"{source.stem}-sources.png"))
        if result["devices"]:
            draw_devices(result, source.with_name(f"{source.stem}-devices.png"))
        print(f"drew the charts of {source.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
