"""Elements of a page, in which all text is escaped unless it says that it need not be; and what the page of `_timeline.py` looks like."""

import html
from collections.abc import Iterable, Sequence


def plain(text: object) -> str:
    """Text that neither breaks a file nor turns around what comes after it."""
    return "".join(it if it.isprintable() else "\N{REPLACEMENT CHARACTER}" for it in str(text))


class Html(str):
    """Text in which nothing has to be escaped any more."""


# Elements after which a line ends.
LINES = ("article", "dd", "div", "header", "li", "main", "p", "pre", "section", "svg", "tr")


def tag(name: str, *inside: object, **attributes: object) -> Html:
    """An element. All that is not `Html` is escaped. `class_` stands for `class`, and `stroke_width` for `stroke-width`."""
    written = "".join(' %s="%s"' % (key.rstrip("_").replace("_", "-"), html.escape(plain(value))) for key, value in attributes.items()
                      if value is not None)
    return Html("<%s%s>%s</%s>%s" % (name, written, joined(inside), name, "\n" if name in LINES else ""))


def joined(parts: Iterable[object]) -> Html:
    return Html("".join(it if isinstance(it, Html) else html.escape(plain(it)) for it in parts))


def section(key: str, title: str, *inside: object) -> Html:
    return tag("section", tag("h2", title, id=key + "-title"), *inside, aria_labelledby=key + "-title", id=key)


def table(columns: list[str], rows: Sequence[Sequence[object]], **attributes: object) -> Html:
    head = tag("thead", tag("tr", *(tag("th", it, scope="col") for it in columns)))
    # Where the page is narrow, each cell of a table with many columns says what it is.
    body = tag("tbody", *(tag("tr", *(tag("td", it, data_is=column) for column, it in zip(columns, row))) for row in rows))
    return tag("table", head, body, **attributes)


# The kinds of spans differ in their patterns, too, not only in colour.
PATTERNS = Html("""<svg class="patterns" width="0" height="0" aria-hidden="true">
<pattern id="again" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<rect width="6" height="6" fill="var(--pale)"/><rect width="2" height="6" fill="var(--call)"/></pattern>
<pattern id="wait" width="5" height="5" patternUnits="userSpaceOnUse">
<rect width="5" height="5" fill="var(--waiting)"/><rect width="2.500" height="5" fill="var(--wait)"/></pattern>
</svg>
""")

HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>%(title)s</title>
<style>
:root {
  --page: #f6f8fa; --card: #fff; --text: #1f2328; --soft: #59636e; --line: #d0d7de; --stub: #e4e8ed; --link: #0550ae;
  --call: #0969da; --wait: #d4860b; --bad: #cf222e; --good: #1a7f37; --sleep: #8250df; --pale: #b6d6fb; --paler: #c6e6cd; --rose: #f6c4c8;
  --joining: #cbb8f2; --callbacks: #9fdcc9; --waiting: #f2c877; --down: #c3ccd6; --ends: #9aa7b4; --onbar: #1f2328;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0d1117; --card: #161b22; --text: #f0f6fc; --soft: #9da7b3; --line: #3d444d; --stub: #262d36; --link: #79b8ff;
    --call: #58a6ff; --wait: #e3a23b; --bad: #ff7b72; --good: #3fb950; --sleep: #bc8cff; --pale: #1f4a80; --paler: #1c4f2b; --rose: #6e2a30;
    --joining: #55408c; --callbacks: #1e6150; --waiting: #7d5a14; --down: #444c56; --ends: #606a76; --onbar: #f0f6fc;
  }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif }
main { max-width: 1180px; margin: 0 auto; padding: 20px 24px 60px }
.over { margin: 0; color: var(--soft); font-size: 13px }
h1 { margin: 0 0 6px; font-size: 28px; line-height: 1.2 }
h2 { margin: 0 0 10px; font-size: 19px }
h3 { margin: 0 0 4px; font-size: 15px; overflow-wrap: anywhere }
p { margin: 0 0 8px }
a { color: var(--link) }
section { margin-top: 18px; padding: 16px 18px; background: var(--card); border: 1px solid var(--line); border-radius: 8px }
pre, code { font: 12.5px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace }
pre { margin: 0; padding: 8px 10px; background: var(--page); border: 1px solid var(--line); border-radius: 6px }
pre { white-space: pre-wrap; overflow-wrap: anywhere }
.command { background: var(--card) }
.copy { user-select: all; -webkit-user-select: all }
.culprits { margin: 0; padding-left: 20px }
.culprits li { margin-bottom: 12px }
svg { overflow: visible }
.bar, .lane > svg { display: block; width: 100%% }
.bar { margin-bottom: 10px }
.swatch { vertical-align: -2px; margin-right: 6px; flex: none }
table { border-collapse: collapse; width: 100%%; font-size: 14px }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 13px }
th, td { padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top }
.many td { overflow-wrap: anywhere }
.few td:last-child { white-space: nowrap }
td { font-variant-numeric: tabular-nums }
.lane { display: grid; grid-template-columns: 220px 1fr; column-gap: 12px; align-items: center; border-top: 1px solid var(--line) }
.lane > svg { background: %(grid)s; height: 38px; padding: 6px 0 }
.axis { position: sticky; top: 0; z-index: 1; background: var(--card); border-top: 0 }
.axis > svg { height: 24px; padding: 0 }
.who { min-width: 0; padding: 3px 0; line-height: 1.3; overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
.who small { display: block; color: var(--soft); font-size: 12px; overflow: hidden; text-overflow: ellipsis }
.id { color: var(--soft); font-weight: 400 }
.legend { margin: 12px 0 0; padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: 4px 22px; font-size: 13px }
.legend li { display: flex; align-items: center }
article { margin-top: 14px; padding-top: 12px; border-top: 1px solid var(--line) }
:target { outline: 2px solid var(--link); outline-offset: 4px }
.state { margin-left: 8px; padding: 1px 7px; border: 1px solid var(--line); border-radius: 10px; font-size: 12px; font-weight: 400 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 0 0 8px; font-size: 14px }
dt { color: var(--soft) }
dd { margin: 0; overflow-wrap: anywhere }
.stack { margin: 4px 0; padding-left: 34px; overflow-wrap: anywhere }
.stack li::marker { color: var(--soft); font-size: 12px }
summary { cursor: pointer; color: var(--link) }
text { font-size: 12px; fill: var(--text) }
.inbar { fill: var(--onbar); pointer-events: none }
.tick { fill: var(--soft); font-size: 11px; font-variant-numeric: tabular-nums }
.part { stroke: var(--card); stroke-width: 1 }
.joining { fill: var(--joining) } .callbacks { fill: var(--callbacks) } .waiting { fill: var(--waiting) }
.closed, .callbacks_over { fill: var(--down) } .process_ends { fill: var(--ends) }
.door { stroke-width: 1 }
.door.open { fill: var(--paler); stroke: var(--good) } .door.waits { fill: var(--waiting); stroke: var(--wait) }
.door.closed, .door.finalizing { fill: var(--rose); stroke: var(--bad) }
.span.calls { fill: url(#again); stroke: var(--call) } .span.inside { fill: var(--call); stroke: var(--call) }
.span.waited { fill: url(#wait); stroke: var(--wait); stroke-width: 2 }
.span.asleep { fill: none; stroke: var(--sleep); stroke-width: 2; stroke-dasharray: 5 4 }
.outside { stroke: var(--soft); stroke-width: 2; stroke-dasharray: 2 4 }
.mark { stroke-width: 2; stroke: var(--bad); fill: var(--card) } .mark.late { stroke-width: 3 }
.mark.crash { fill: var(--bad); stroke: var(--card); stroke-width: 1 }
.mark.stop { fill: var(--sleep); stroke: var(--card); stroke-width: 1 }
.patterns { position: absolute }
@media (max-width: 720px) {
  main { padding: 12px 10px 40px }
  h1 { font-size: 22px }
  section { padding: 12px }
  .lane { grid-template-columns: 1fr }
  .lane > svg { height: 32px; padding: 3px 0 }
  .axis > svg { height: 24px; padding: 0 }
  .who { display: flex; gap: 8px; align-items: baseline; padding-bottom: 0 }
  .axis .who { display: none }
  dl { grid-template-columns: 1fr; gap: 0 }
  dd { margin-bottom: 6px }
  .stack { padding-left: 28px }
  .many thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%%) }
  .many tr { display: block; padding: 6px 0; border-bottom: 1px solid var(--line) }
  .many td { display: flex; gap: 10px; padding: 1px 0; border: 0 }
  .many td::before { content: attr(data-is); flex: 0 0 96px; color: var(--soft) }
}
</style>
</head>
"""
