"""The gate's result as one self-contained HTML page (Great Expectations' own Data Docs need scripts from elsewhere)."""

from __future__ import annotations

from html import escape

from voice_pipeline.dataset.expectations import ExpectationResult, Validation

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{padding:.35rem .6rem;border-bottom:1px solid #ddd;text-align:left}"
    ".ok{color:#17663a}.critical{color:#a11}.warning{color:#8a5a00}code{font-size:.85em}"
)


def render(title: str, validation: Validation) -> str:
    """An HTML page that shows every expectation, broken ones first."""
    ordered = sorted(validation.results, key=lambda r: (r.success, r.severity))
    verdict = "passed" if validation.passed else "blocked"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
        f"<h1>{escape(title)}: {verdict}</h1><p>{validation.rows} rows, {escape(validation.engine)}</p>"
        "<table><tr><th>result</th><th>column</th><th>expectation</th><th>why</th><th>unexpected</th><th>clips</th></tr>"
        + "".join(_row(r) for r in ordered)
        + "</table></html>"
    )


def _row(result: ExpectationResult) -> str:
    mark, kind = ("holds", "ok") if result.success else (result.severity, result.severity)
    cells = (result.column, result.expectation, result.why, str(result.unexpected), " ".join(result.clip_ids))
    return f'<tr><td class="{kind}">{mark}</td>' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
