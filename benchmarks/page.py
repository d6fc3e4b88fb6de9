r"""Writes docs/performance.md from the files of ``--benchmark-json``: one per machine, or several of one machine.

    uv run python benchmarks/page.py benchmarks/results/NAME.json \
        --out docs/performance.md --plot docs/images/performance.svg

Every number on the page comes from the files. ``conftest.py`` says what lies in them. Of files of one machine the last
that ran a test counts, so that a few tests can be run again alone.
"""

import argparse
import io
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = "benchmarks/results"
HEAD = """# Performance

Written by `benchmarks/page.py` from what the benchmarks kept, not by hand. One file per machine, which does nothing
else meanwhile; a second file of a machine holds tests that were run again:

```sh
uv run pytest benchmarks -m benchmark -n 0 --benchmark-json {results}/NAME.json
uv run python benchmarks/page.py {files} \\
    --out docs/performance.md --plot docs/images/performance.svg
```

A figure in x is the time of the peer over ours: more is better. The two take turns in one process and their medians
are compared, so that what slows the machine for a while slows both; such a ratio carries over to other machines better
than seconds do. Only the loops over scikit-learn, which take minutes, come after ours and are scaled from a few
resamples. Memory is that of processes of their own. A figure in % is ours over the peer's: less is better. *Wanted* is
the bound that the benchmark holds a figure to; **missed** says that it does not hold.

Bounds differ where a processor has AVX2 alone: it has no arithmetic in bf16, so that `auto` is float32, and no
instruction that multiplies bytes and adds up in 32 bits (VNNI), so that 8 bits are about twice as fast as float32, not
four times. What float32 can reach there is the rate of a product of matrices, which the details name.
"""


def page(documents: Mapping[str, Mapping[str, Any]], plot: str | None = None) -> str:
    """The whole page.

    Args:
        documents: Name of a file in benchmarks/results -> what is in it.
        plot: Where the plot of the ratios lies, from the page.

    Returns:
        Markdown, ending in a newline.
    """
    files = " ".join(f"{RESULTS}/{name}" for name in documents)
    parts = [HEAD.format(results=RESULTS, files=files)]
    if plot:
        parts.append(f"![Ratios to the peers by machine, with the bounds that are wanted]({plot})\n")
    for machine, runs in _machines(documents).items():
        parts += [f"## {machine}\n", _about(runs), *_tables(list(runs.values()))]
    return "\n".join(parts)


def chart(documents: Mapping[str, Mapping[str, Any]]) -> str:
    """Ratios to peers that have a bound, a dot for each machine, as SVG; the same files give the same bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    machines = _machines(documents)
    ratios = {
        machine: {row["what"]: row for _, _, rows in _tests(list(runs.values())) for row in rows if row["unit"] == "x"}
        for machine, runs in machines.items()
    }
    bounds = list(dict.fromkeys(what for rows in ratios.values() for what, row in rows.items() if row["least"]))
    with matplotlib.rc_context({"svg.hashsalt": "cxr", "svg.fonttype": "none", "font.size": 8}):
        canvas = Figure(figsize=(10, 1.2 + 0.2 * len(bounds)), layout="constrained", facecolor="white")
        axes = canvas.subplots()
        places = range(len(bounds))
        axes.scatter([], [], marker="|", s=90, color="black", label="wanted at least")
        for number, (machine, rows) in enumerate(ratios.items()):
            there = [(rows[what], place) for place, what in enumerate(bounds) if what in rows]
            values, at = [row["value"] for row, _ in there], [place for _, place in there]
            axes.scatter(values, at, s=22, alpha=0.8, color=f"C{number}", label=machine)
            wanted = [row["least"] or math.nan for row, _ in there]
            axes.scatter(wanted, at, marker="|", s=90, color=f"C{number}")
        axes.set_xscale("log")
        axes.set_yticks(places, bounds)
        axes.set_ylim(len(bounds) - 0.5, -0.5)
        axes.set_xlabel("time of the peer over ours")
        axes.grid(alpha=0.3)
        axes.spines[["top", "left", "right"]].set_visible(False)
        canvas.legend(loc="outside upper left", frameon=False, ncols=len(ratios) + 1)
        written = io.StringIO()
        canvas.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return written.getvalue()


def _machines(documents: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Files by machine."""
    machines: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, document in documents.items():
        machines.setdefault(_machine(document["machine_info"]), {})[name] = document
    return machines


def _machine(info: Mapping[str, Any]) -> str:
    """Processor and what decides how fast it multiplies, cores and accelerator."""
    flags = info.get("flags") or []
    kind = next((flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in flags), "")
    cores = f"{info['cores']} core{'' if info['cores'] == 1 else 's'}"
    return ", ".join(part for part in (info["cpu"], kind, cores, info["gpu"]) if part)


def _about(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """What a machine is able to do, what it ran and when, and how many bounds hold."""
    lines = []
    for name, document in runs.items():
        info, commit = document["machine_info"], document["commit_info"]
        versions = [f"{package} {version}" for package, version in info["versions"].items() if version]
        threads = f"{info['torch_threads']} thread{'' if info['torch_threads'] == 1 else 's'} of torch"
        system = [f"{info['system']} {info['machine']}", *info.get("flags", [])]
        ran = ", ".join([*system, f"Python {info['python']}", *versions, threads])
        revision = commit["id"][:12] + (" with uncommitted changes" if commit["dirty"] else "")
        lines.append(f"{ran}; revision {revision}, {document['datetime'][:10]} (`{RESULTS}/{name}`).\n")
    rows = [row for _, _, rows in _tests(list(runs.values())) for row in rows]
    bounded = [row for row in rows if _bounds(row)]
    met = sum(row["met"] for row in bounded)
    return "\n".join([*lines, f"{len(rows)} figures; {met} of {len(bounded)} bounds hold.\n"])


def _tables(documents: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """One table for each file of benchmarks, in the order in which they ran."""
    for title in dict.fromkeys(title for title, _, _ in _tests(documents)):
        tests = [(test, rows) for of, test, rows in _tests(documents) if of == title]
        lines = [f"### {title}\n"]
        rows = [row for _, rows in tests for row in rows]
        if rows:
            lines += ["| what | peer | measured | wanted | detail |", "|---|---|---|---|---|"]
        for row in rows:
            shown = _quantity(row["value"], row["unit"]) + ("" if row["met"] else ", **missed**")
            cells = (row["what"], row["peer"], shown, _bounds(row), row["detail"])
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        failed = [test for test, rows in tests if not rows]
        if failed:
            names = ", ".join(f"`{test}`" for test in failed)
            lines.append(("\n" if rows else "") + f"Failed before a figure was measured: {names}.")
        yield "\n".join(lines) + "\n"


def _tests(documents: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, Sequence[Mapping[str, Any]]]]:
    """(title of its file, name of the test, its rows); benchmarks that record no rows are not ours to tell."""
    last: dict[tuple[str, str], Sequence[Mapping[str, Any]]] = {}
    for document in documents:
        actual = [(test["extra_info"], test["name"]) for test in document["benchmarks"]]
        last |= {(extra["title"], name): extra["rows"] for extra, name in actual if "rows" in extra}
        last |= {(test["title"], test["name"]): [] for test in document["failed"]}
    return [(title, name, rows) for (title, name), rows in last.items()]


def _bounds(row: Mapping[str, Any]) -> str:
    sides = [f"at {side} {_quantity(row[side], row['unit'])}" for side in ("least", "most") if row[side] is not None]
    return " and ".join(sides)


def _quantity(value: float, unit: str) -> str:
    """Three digits, more before the decimal point, and the unit."""
    number = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return (number + ("" if unit == "x" else " ") + unit).rstrip()


def main(argv: Sequence[str] | None = None) -> int:
    """Read the files, write the page; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write docs/performance.md from the files of --benchmark-json.")
    parser.add_argument("files", nargs="+", type=Path, help=f"files of --benchmark-json in {RESULTS}")
    parser.add_argument("--out", type=Path, help="file to write; without it the page goes to standard output")
    parser.add_argument("--plot", type=Path, help="SVG to write, which the page then shows; needs --out")
    given = parser.parse_args(argv)
    if given.plot and not given.out:
        parser.error("--plot needs --out: the page says where the plot lies")
    documents = {}
    for file in given.files:
        try:
            documents[file.name] = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            parser.error(f"expected a file of --benchmark-json, found {error}; where: {file}")
    if given.plot:
        given.plot.write_text(chart(documents), "utf-8")
    text = page(documents, given.plot and os.path.relpath(given.plot, given.out.parent).replace(os.sep, "/"))
    if given.out:
        given.out.write_text(text, "utf-8")
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
