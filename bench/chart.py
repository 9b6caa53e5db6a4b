"""Draws results/*.csv as chart.svg, which the README shows."""

import csv
import glob
import os
import re
from xml.sax.saxutils import escape

# What is drawn for each state, threads: in the main thread alone, or in another.
PANELS = [
    ("attached", "0", "The thread is attached already"),
    ("detached", "1", "The thread has a thread state, detached"),
    ("fresh", "1", "The thread has never been attached"),
]
SERIES = [
    ("PyGILState", "Ensure/Release", "PyGILState_Ensure, PyGILState_Release", "#9aa0a6"),
    ("accepted", "Ensure/Release", "libpep788: Ensure, Release", "#1a73e8"),
    ("accepted", "EnsureFromView/Release", "libpep788: EnsureFromView, Release", "#8ab4f8"),
    ("native", "Ensure/Release", "CPython 3.15: Ensure, Release", "#e8710a"),
    ("native", "EnsureFromView/Release", "CPython 3.15: EnsureFromView, Release", "#fbbc6b"),
]

WIDTH, LEFT, RIGHT = 900, 56, 16
PLOT, GAP, HEAD = 130, 62, 104
BAR = 11


def read(folder):
    """[(python, {(state, caller, pair, threads): ns})], oldest Python first."""
    tables = []
    for path in glob.glob(os.path.join(folder, "3.*.csv")):
        with open(path, newline="") as file:
            table = {(row["state"], row["caller"], row["pair"], row["threads"]): float(row["measured"])
                     for row in csv.DictReader(file)}
        tables.append((os.path.basename(path)[: -len(".csv")], table))
    return sorted(tables, key=lambda item: ([int(n) for n in re.findall(r"\d+", item[0])][:2], item[0]))


def nice_top(value):
    """The first round number above `value`, and the step of the lines up to it."""
    for step in (2, 5, 10, 20, 50, 100, 200, 250, 500, 1000):
        if value <= 5 * step:
            return -(-value // step) * step, step
    return value, value


class Drawing:
    def __init__(self):
        self.parts = []

    def rect(self, x, y, width, height, color, title=""):
        self.parts.append('<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s">%s</rect>' % (
            x, y, width, height, color, "<title>%s</title>" % escape(title) if title else ""))

    def text(self, x, y, text, anchor="start", size=12, color="#3c4043", weight="normal"):
        self.parts.append('<text x="%.1f" y="%.1f" text-anchor="%s" font-size="%d" fill="%s" font-weight="%s">%s</text>'
                          % (x, y, anchor, size, color, weight, escape(text)))

    def line(self, x1, x2, y, color):
        self.parts.append('<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s"/>' % (x1, x2, y, y, color))

    def svg(self, height):
        return ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d"'
                ' font-family="Helvetica, Arial, sans-serif">\n<rect width="100%%" height="100%%" fill="white"/>\n'
                % (WIDTH, height, WIDTH, height) + "\n".join(self.parts) + "\n</svg>\n")


def draw(tables):
    drawing = Drawing()
    drawing.text(LEFT, 24, "Nanoseconds for one pair of calls (less is better)", size=16, weight="bold")
    for i, (_, _, name, color) in enumerate(SERIES):
        # What is replaced, then ours and the interpreter's own, two of each.
        x, y = LEFT + (i + 1) // 2 * 270, 48 + (i > 0) * (i + 1) % 2 * 18
        drawing.rect(x, y - 9, 10, 10, color)
        drawing.text(x + 15, y, name)
    top = HEAD
    for state, threads, title in PANELS:
        panel(drawing, tables, state, threads, title, top)
        top += PLOT + GAP
    return drawing.svg(top - GAP + 34)


def panel(drawing, tables, state, threads, title, top):
    columns = []
    for python, table in tables:
        bars = [(name, color, table[state, caller, pair, threads]) for caller, pair, name, color in SERIES
                if (state, caller, pair, threads) in table]
        columns.append((python, bars))
    highest, step = nice_top(max(ns for _, bars in columns for _, _, ns in bars))
    base = top + PLOT
    drawing.text(LEFT, top - 10, title, weight="bold", size=13)
    for n in range(int(highest / step) + 1):
        y = base - PLOT * n * step / highest
        drawing.line(LEFT, WIDTH - RIGHT, y, "#dadce0" if n else "#5f6368")
        drawing.text(LEFT - 6, y + 4, "%d" % (n * step), anchor="end", size=11, color="#5f6368")
    # Columns are as wide as their bars; what is left is shared out between them.
    space = (WIDTH - RIGHT - LEFT - BAR * sum(len(bars) for _, bars in columns)) / len(columns)
    x = LEFT + space / 2
    for python, bars in columns:
        drawing.text(x + BAR * len(bars) / 2, base + 17, python, anchor="middle")
        for name, color, ns in bars:
            height = PLOT * ns / highest
            drawing.rect(x, base - height, BAR - 1, height, color, "%s, %s: %.1f ns" % (python, name, ns))
            x += BAR
        x += space


def write(folder):
    tables = read(folder)
    if tables:
        with open(os.path.join(os.path.dirname(folder), "chart.svg"), "w") as file:
            file.write(draw(tables))
