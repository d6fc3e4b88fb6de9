"""Results of an audit: a table on the terminal, and an HTML page with thumbnails; text from the data is escaped."""

import base64
from html import escape
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from cxr_data.cohorts.cohort import Cohort

if TYPE_CHECKING:
    from rich.table import Table

SHOWN, TILE = 24, 112
_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan", "ok": "green", "unknown": "dim"}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; padding: 0 1rem; color: #1a1a1a }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .3rem .7rem; vertical-align: top }
tr { border-bottom: 1px solid #ddd } td.count { text-align: right }
.level { border-radius: 4px; padding: 0 .5rem; color: #fff; white-space: nowrap }
.error { background: #b3261e } .warning { background: #9a6700 } .note { background: #0b57a4 }
.ok { background: #1a7f37 } .unknown { background: #6e6e6e }
.sheet { display: flex; flex-wrap: wrap; gap: 8px } figure { margin: 0; width: 112px }
figure img { width: 100%; aspect-ratio: 1 } figcaption { font-size: 11px; overflow-wrap: anywhere; line-height: 1.25 }
.wide { overflow-x: auto } td { overflow-wrap: break-word } summary { cursor: pointer; margin: 1rem 0 }
summary h2 { display: inline; font-size: 1.2rem }
@media (max-width: 640px) {
  body { margin: 1rem auto } figure { width: 88px }
  .checks tr { display: grid; grid-template-columns: auto 1fr auto; padding: .4rem 0 }
  .wide th, .wide td { padding: .2rem .25rem; font-size: 13px }
  .checks th { display: none } .checks td { padding: .1rem .4rem } .checks td:last-child { grid-column: 1 / -1 }
}
"""


def count_table(report: dict[str, Any]) -> "Table":
    """The checks as a table: level, name, and what was found."""
    from rich import markup
    from rich.table import Table
    from rich.text import Text

    table = Table(title=markup.escape(f"audit of {report['cohort']['name']}"), title_justify="left", show_lines=True)
    table.add_column("level", no_wrap=True)
    table.add_column("check", ratio=1)
    table.add_column("found", ratio=3)
    for check in report["checks"]:
        level = Text(check["level"], style=_COLOURS[check["level"]])
        table.add_row(level, Text(check["name"]), Text(check["text"]))
    return table


def totals(report: dict[str, Any]) -> str:
    """How many errors and warnings there are: "0 errors, 1 warning"."""
    counts = (("error", report["errors"]), ("warning", report["warnings"]))
    return ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for word, count in counts)


def html(report: dict[str, Any], cohort: Cohort) -> str:
    """One page that needs no other file and no network."""
    name = escape(report["cohort"]["name"])
    rows = {image: row for row, image in enumerate(cohort.table["image"])}
    lines = "\n".join(
        f"<tr><td>{_badge(check['level'])}</td><td>{escape(check['name'])}</td>"
        f'<td class="count">{check["count"] or ""}</td><td>{escape(check["text"])}</td></tr>'
        for check in report["checks"]
    )
    sheets = "\n".join(_section(check, cohort, rows) for check in report["checks"])
    summary = (
        f"{len(cohort):,} images, {cohort.table['patient'].n_unique():,} patients, fingerprint "
        f"{escape(cohort.fingerprint[:12])}: {totals(report)}"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>Audit of {name}</title>\n'
        f"<style>{_STYLE}</style></head><body>\n<h1>Audit of {name}</h1>\n<p>{summary}</p>\n"
        f'<table class="checks"><tr><th>level</th><th>check</th><th>count</th><th>found</th></tr>\n{lines}\n</table>\n'
        f"{sheets}\n<p>For research; not for clinical use.</p>\n</body></html>\n"
    )


def _badge(level: str) -> str:
    return f'<span class="level {level}">{level}</span>'


def _section(check: dict[str, Any], cohort: Cohort, rows: dict[str, int]) -> str:
    """Thumbnails, or the table of figures, of one check; nothing where there is nothing to show."""
    shown = [rows[image] for image in check["images"] if image in rows][:SHOWN]
    told = check["details"].get("confounders", ())[:40]
    files = check["details"].get("files", ())[:40]
    body = ""
    if shown:
        body += '<div class="sheet">' + "".join(_figure(cohort, row) for row in shown) + "</div>"
    if told:
        cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in _cells(row))}</tr>" for row in told)
        heads = "<tr><th>label</th><th>told by</th><th>how well</th><th>that is</th></tr>"
        body += f'<div class="wide"><table>{heads}{cells}</table></div>'
    if files:
        cells = "".join(f"<tr><td>{escape(f['file'])}</td><td>{escape(f['reason'])}</td></tr>" for f in files)
        body += f'<div class="wide"><table>{cells}</table></div>'
    if not body:
        return ""
    shown_at_once = " open" if check["level"] in ("error", "warning") else ""
    heading = f"<summary><h2>{_badge(check['level'])} {escape(check['name'])}</h2></summary>"
    return f"<details{shown_at_once}>{heading}\n<p>{escape(check['text'])}</p>\n{body}</details>"


def _cells(row: dict[str, Any]) -> list[str]:
    if "auroc" in row:
        figure = f"AUROC {row['auroc']:.3f} ± {row['error']:.3f}"
        meaning = f"mean {row['mean_positive']:,.4g} with, {row['mean_negative']:,.4g} without"
    else:
        figure = f"Cramér's V {row['cramers_v']:.3f}"
        meaning = ", ".join(f"{share:.1%} of {value}" for value, share in list(row["shares"].items())[:6])
    return [row["label"], row["by"], figure + (" (confounded)" if row["confounded"] else ""), meaning]


def _figure(cohort: Cohort, row: int) -> str:
    image = np.ascontiguousarray(cohort.pixels[row])
    method = cv2.INTER_AREA if len(image) >= TILE else cv2.INTER_LINEAR
    small = cv2.resize(image, (TILE, TILE), interpolation=method)
    jpeg = base64.b64encode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()).decode()
    labels = [label for label, value in zip(cohort.labels, cohort.targets[row], strict=True) if value == 1]
    caption = f"{cohort.table['image'][row]} · {cohort.table['split'][row]} · {', '.join(labels) or 'no label'}"
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/jpeg;base64,{jpeg}"><figcaption>{text}</figcaption></figure>'
