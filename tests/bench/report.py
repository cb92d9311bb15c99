# SPDX-License-Identifier: Apache-2.0
"""BENCHMARKS.md and the plots of docs/bench/, from what run.py has measured."""
from html import escape

from bench_common import TOP

PLOTS = TOP / "docs/bench"
COLOURS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#bbbbbb", "#222222")
WIDTH, LEFT, RIGHT, ROW = 760, 150, 60, 34


class Svg:
    def __init__(self, title, height):
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>', f'<text x="10" y="20" font-size="14">{escape(title)}</text>']

    def text(self, x, y, text, anchor="start"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(str(text))}</text>')

    def rect(self, x, y, width, height, colour):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height}" fill="{colour}"/>')

    def line(self, points, colour):
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>')

    def write(self, name):
        PLOTS.mkdir(parents=True, exist_ok=True)
        (PLOTS / name).write_text("\n".join([*self.parts, "</svg>", ""]))


def plot_start(bars):
    """Stacked bars: each part ends at its mark."""
    names = list(dict.fromkeys(mark for marks in bars.values() for mark, _ in marks))
    longest = max(marks[-1][1] for marks in bars.values())
    svg = Svg("exec to running vCPUs, medians, ms", 90 + ROW * len(bars))
    for i, (bar, marks) in enumerate(bars.items()):
        y, before = 40 + ROW * i, 0.0
        svg.text(LEFT - 8, y + 16, bar, "end")
        for mark, at in marks:
            scale = (WIDTH - LEFT - RIGHT) / longest
            svg.rect(LEFT + before * scale, y, (at - before) * scale, 24, COLOURS[names.index(mark) % len(COLOURS)])
            before = at
        svg.text(LEFT + before * (WIDTH - LEFT - RIGHT) / longest + 4, y + 16, f"{before:.1f}")
    for i, name in enumerate(names):
        x, y = LEFT + i * 74, 56 + ROW * len(bars)
        svg.rect(x, y, 10, 10, COLOURS[i % len(COLOURS)])
        svg.text(x + 14, y + 10, name)
    svg.write("start.svg")


def plot_bars(title, bars, name):
    longest = max(value for _, value in bars)
    svg = Svg(title, 50 + ROW * len(bars))
    for i, (label, value) in enumerate(bars):
        svg.text(LEFT - 8, 56 + ROW * i, label, "end")
        svg.rect(LEFT, 40 + ROW * i, value * (WIDTH - LEFT - RIGHT) / longest, 24, COLOURS[i % len(COLOURS)])
        svg.text(LEFT + value * (WIDTH - LEFT - RIGHT) / longest + 4, 56 + ROW * i, f"{value:.2f}")
    svg.write(name)


def plot_latency(spread):
    """The share of calls that took at most so long; to the 99th percentile of the slowest."""
    longest = max(values[int(len(values) * 0.99) - 1] for values in spread.values())
    svg = Svg("round trips: share of calls (up) answered within so many microseconds (right)", 340)
    for i, (name, values) in enumerate(spread.items()):
        inside = [v for v in values if v <= longest]
        points = [(LEFT + v * (WIDTH - LEFT - RIGHT) / longest, 290 - 240 * (k + 1) / len(values)) for k, v in enumerate(inside)]
        svg.line(points, COLOURS[i])
        svg.text(LEFT - 140, 70 + 20 * i, name)
        svg.rect(LEFT - 30, 62 + 20 * i, 14, 8, COLOURS[i])
    for k in range(5):
        svg.text(LEFT + k * (WIDTH - LEFT - RIGHT) / 4, 310, f"{longest * k / 4:.0f}", "middle")
    svg.write("latency.svg")


def plots(results):
    for result in results:
        if result.get("timeline"):
            plot_start(result["timeline"])
            yield "start"
        if result.get("memory"):
            bars = [(f"ours, {n} VM{'s' if n > 1 else ''}", value) for n, value in result["memory"]]
            if result.get("libvirtPss"):
                bars.append(("libvirt, 1 VM", result["libvirtPss"]))
            plot_bars("memory besides QEMU per VM, PSS in MiB", bars, "memory.svg")
            yield "memory"
        if result.get("latency"):
            plot_latency(result["latency"])
            yield "latency"


def where_the_time_goes(result):
    """Of the pod's start: what passes before QEMU is spawned, and what is QEMU's own."""
    pod, bare = (dict(result["timeline"][name]) for name in ("pod", "bare"))
    before, needs = pod["spawn"], bare["running"] - bare["spawn"]
    return [
        "", "## Where the time goes", "",
        f"Of the {pod['running']:.1f} ms from the exec of the pod's entrypoint to running vCPUs, {before:.1f} ms pass before QEMU is "
        f"spawned (monitor, launcher, filters, manifest, volumes, arguments). From its spawn, QEMU needs {pod['greeting'] - before:.1f} ms "
        f"until it greets on its monitor (its libraries, its options) and {pod['running'] - pod['greeting']:.1f} ms more until RESUME "
        f"(its machine). Started by a program that does nothing else, the same QEMU needs {needs:.1f} ms from spawn to RESUME: that is "
        f"the limit which no launcher can go below, and {100 * needs / pod['running']:.0f} % of the whole. What shortens it is under *floor*."]


def verdict(budget, word="missed"):
    """A budget may name its floor: what the value is with the least that could stand in our place, and what that is."""
    if budget["value"] <= budget["limit"]:
        return "met"
    value, what = budget.get("floor", (None, None))
    return word if what is None else f"{word}; {what}: {value:.3g}"


def write(report, command):
    drawn = list(plots(report["results"]))
    lines = [
        "# Benchmarks", "", f"Written by `{command}`: do not edit. Ratios are medians of pairs taken in one run, interleaved;",
        "absolute times depend on the machine and on what else it did. `tests/bench` says how each is measured.", "",
        "| environment | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in report["environment"].items()]
    lines += ["", "## Budgets", "", "| figure | measured | limit | |", "|---|---|---|---|"]
    for result in report["results"]:
        lines += [
            f"| {result['name']}: {b['name']} | {b['value']:.3f} | {b['limit']:.4g} | {verdict(b, '**missed**')} |" for b in result["budgets"]]
    for result in report["results"]:
        if result.get("timeline"):
            lines += where_the_time_goes(result)
    for result in report["results"]:
        lines += ["", f"## {result['name']}", "", result["what"] + ".", ""]
        lines += [f"- {note}" for note in result.get("notes", [])] + ([""] if result.get("notes") else [])
        lines += ["| | median | min | max | |", "|---|---|---|---|---|"]
        lines += [f"| {r['name']} | {r['median']:.2f} | {r['min']:.2f} | {r['max']:.2f} | {r['unit']} |" for r in result["rows"]]
    lines += ["", "## Plots", ""] + [f"![{name}](docs/bench/{name}.svg)" for name in drawn]
    (TOP / "BENCHMARKS.md").write_text("\n".join(lines) + "\n")
