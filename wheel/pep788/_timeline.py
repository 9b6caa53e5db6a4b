"""The exit of a watched program as a picture: a page that needs a browser and nothing else, and a trace for viewers of traces.

Both are made of what `_watch.report` tells. Times are in milliseconds since the program began. No single call is noted, only a thread's
first and last one: so between them the picture says no more than that there were calls. All text in a report may come from a program that nobody
trusts: the names of its threads, functions and files.
"""

import html
import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple, Optional

from pep788._html import HEAD, PATTERNS, Html, joined, plain, section, table, tag
from pep788._stacks import Frame
from pep788._watch import FATES, SLEEPS_SINCE, crash_of, kind_of, version

Told = dict[str, Any]

# --- What was when ------------------------------------------------------------------------------------


class Span(NamedTuple):
    kind: str
    begin: float
    end: float


class Mark(NamedTuple):
    kind: str
    at: float


# What is told of each kind of span and of mark.
SPANS = {
    "calls": "calls Python, again and again",
    "inside": "inside one call",
    "waited": "inside one call, and the exit waits for it",
    "asleep": "asleep without end",
    "outside": "outside Python (detached)",
}
MARKS = {
    "refused": "came too late: refused, and ended by the seatbelt",
    "late": "came too late: left to CPython",
    "crash": "crashed",
    "stop": "was here when the exit hung",
}


def exit_began(told: Told) -> Optional[float]:
    return told["exit"][0]["at_ms"] if told["exit"] else None


def part(told: Told, *names: str) -> Optional[dict[str, Any]]:
    return next((it for it in told["exit"] if it["part"] in names), None)


def late_at(thread: Told) -> Optional[float]:
    return thread["late"]["at_ms"] if thread["late"] else None


def spans(told: Told, thread: Told) -> list[Span]:
    """What a thread did, one after the other."""
    first, end, late = thread["first_ms"], told["ended"]["ms"], late_at(thread)
    if first is None:
        return []
    # The clock of the last call goes in steps of some milliseconds.
    last = max(first, thread["last_ms"] or 0)
    gone = end if late is None else max(late, last)
    looked = part(told, "waiting", "callbacks_over")
    found = []
    now = first
    if thread["inside_at_exit"] and looked:
        noted = max(looked["at_ms"], first)
        left = thread["left_ms"]
        leaves = max(noted, left if left is not None else gone if thread["is_inside"] else noted)
        entered = min(last, noted)
        found = [Span("calls", first, entered)]
        if thread["waited_ms"] is None:
            found.append(Span("inside", entered, leaves))
        else:
            # An exit that has waited in vain goes on.
            until = min(leaves, looked["at_ms"] + looked["ms"])
            found += [Span("inside", entered, noted), Span("waited", noted, until), Span("inside", until, leaves)]
        now = leaves
    if last > now:
        found.append(Span("calls", now, last))
        now = last
    if thread["is_inside"]:
        found.append(Span("inside", now, gone))
        now = max(now, gone)
    if late is not None:
        found.append(Span("outside", now, late))
        if thread["late"]["fate"] == "sleeps":
            found.append(Span("asleep", max(now, late), end))
    found = [Span(kind, min(begin, end), min(until, end)) for kind, begin, until in found if until > begin]
    # All its calls may be of one moment.
    is_shown = any(span.kind != "outside" for span in found)
    return found if is_shown else [Span("calls", first, first), *found]


def marks(told: Told, thread: Told) -> list[Mark]:
    found = []
    if thread["late"]:
        found.append(Mark("refused" if thread["late"]["fate"] == "ended" else "late", thread["late"]["at_ms"]))
    if told["where"] and told["where"]["thread"] == thread["id"]:
        found.append(stop_mark(told))
    return found


def stop_mark(told: Told) -> Mark:
    """Where the process was when it was ended."""
    at = (told["where"] or {}).get("at_ms")
    return Mark("stop" if told["ended"]["hung"] else "crash", told["ended"]["ms"] if at is None else at)


def door(told: Told) -> list[tuple[str, str, float, float]]:
    """What became of threads that came: a state, what it means, and from when to when."""
    end = told["ended"]["ms"]
    waiting, closed = part(told, "waiting"), part(told, "closed", "callbacks_over")
    began = [0.0, *(it["at_ms"] for it in (waiting, closed) if it), end]
    states = [("open", "threads that come get in")]
    if waiting:
        states.append(("waits", "threads that are inside get on, others are held up"))
    if closed and told["protected"]:
        states.append(("closed", "threads that come are refused, and ended"))
    elif closed:
        plainly = "%s %s" % (told["python"], "has threads that come sleep without end" if version(told) >= SLEEPS_SINCE
                             else "unwinds threads that come")
        states.append(("closed", "views are refused, and CPython %s without one" % plainly) if waiting else ("finalizing", "CPython " + plainly))
    return [(state, words, begin, until) for (state, words), begin, until in zip(states, began, began[1:])]


def in_order(told: Told) -> list[Told]:
    """The threads that something was wrong with come first."""
    order = {"late": 1, "crashed": 0, "inside": 2, None: 3}
    return sorted(told["threads"], key=lambda thread: (0 if thread["crashed"] else order[kind_of(thread)], thread["of_python"],
                                                       thread["first_ms"] or 0))


# --- The trace -----------------------------------------------------------------------------------------


def perfetto(told: Told) -> str:
    """A trace in Chrome's JSON format, for ui.perfetto.dev and chrome://tracing."""
    main = told.get("process") or 1
    events = sorted(trace_events(told, main), key=lambda event: event["ts"])
    names = [trace_name("process_name", main, main, " ".join([os.path.basename(told["command"][0]), *told["command"][1:]]))]
    names.append(trace_name("thread_name", main, main, "main thread: the exit"))
    names += [trace_name("thread_name", main, thread["id"], thread["name"] or "thread") for thread in told["threads"] if thread["id"] != main]
    about = {key: plain(told[key]) for key in ("verdict", "python", "protected", "command")}
    return json.dumps({"traceEvents": names + events, "displayTimeUnit": "ms", "otherData": about}, indent=1) + "\n"


def trace_name(what: str, process: int, thread: int, name: str) -> Told:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "ts": 0, "args": {"name": plain(name)}}


def trace_events(told: Told, main: int) -> Iterator[Told]:
    def event(phase: str, thread: int, at: float, name: str, **more: Any) -> Told:
        return {"ph": phase, "name": name, "cat": "exit", "pid": main, "tid": thread, "ts": round(max(0.0, at) * 1000, 3), **more}

    def complete(thread: int, begin: float, end: float, name: str, args: Told) -> Told:
        return event("X", thread, begin, name, dur=round(max(0.0, end - begin) * 1000, 3), args=args)

    for it in told["exit"]:
        yield complete(main, it["at_ms"], it["at_ms"] + it["ms"], it["what"], {"part": it["part"]})
    began = exit_began(told)
    reports = {number: culprit["report"] for culprit in told["culprits"] for number in culprit["threads"]}
    for thread in told["threads"]:
        about = {key: plain(value) for key, value in facts(thread)}
        if thread["id"] in reports:
            about["for a bug report"] = plain(reports[thread["id"]])
        for span in spans(told, thread):
            # On one track nothing may overlap. There the parts of the exit come first.
            end = span.end if thread["id"] != main or began is None else min(span.end, began)
            if span.kind != "outside" and end >= span.begin:
                yield complete(thread["id"], span.begin, end, SPANS[span.kind], about)
            if span.kind == "waited":
                yield event("i", thread["id"], span.begin, "the exit waits for this thread", s="t", args={"ms": thread["waited_ms"]})
        for mark in marks(told, thread):
            yield event("i", thread["id"], mark.at, MARKS[mark.kind], s="t", args=dict(
                about, stack=[plain(frame) for frame in frames((told["where"] if mark.kind in ("crash", "stop") else thread["late"])["stack"])]))
    if told["where"] and told["where"]["thread"] not in {thread["id"] for thread in told["threads"]}:
        mark = stop_mark(told)
        yield event("i", told["where"]["thread"], mark.at, MARKS[mark.kind], s="t",
                    args={"stack": [plain(frame) for frame in frames(told["where"]["stack"])]})
    yield event("i", main, told["ended"]["ms"], "the process " + how_it_ended(told), s="p")


# --- Words ---------------------------------------------------------------------------------------------


def how_it_ended(told: Told) -> str:
    ended = told["ended"]
    if ended["hung"]:
        return "hung in its exit, and was ended"
    return "was ended by %s" % ended["signal"] if "signal" in ended else "ended with status %s" % ended["status"]


def number_of(count: int, what: str) -> str:
    return "%d %s%s" % (count, what, "" if count == 1 else "s")


def headline(told: Told) -> str:
    late = sum(thread["late"] is not None for thread in told["threads"])
    guarded = sum(thread["is_guarded"] and thread["waited_ms"] is not None for thread in told["threads"])
    inside = sum(kind_of(thread) == "inside" for thread in told["threads"])
    return {
        "hung": "The exit hung",
        "crashed": "The program crashed in its exit" if told["exit"] else "The program crashed",
        "late": "%s came back to Python too late" % number_of(late, "thread"),
        "inside": "%s inside Python when it exited" % (number_of(inside, "thread") + (" was" if inside == 1 else " were")),
        "clean": "A clean exit: it waited for %s, and none came too late" % number_of(guarded, "guarded thread") if guarded
        else "A clean exit: no thread was inside Python, and none came too late",
    }[told["verdict"]]


def lasted(ms: float) -> str:
    return "%.2f s" % (ms / 1e3) if ms >= 1000 else "%.1f ms" % ms


def when(told: Told, ms: Optional[float]) -> str:
    began = exit_began(told)
    if ms is None:
        return "never"
    if began is None:
        return "after " + lasted(ms)
    if ms == began:
        return "as the exit began"
    return "%s before the exit" % lasted(began - ms) if ms < began else "%s into the exit" % lasted(ms - began)


def state(thread: Told) -> str:
    """What became of a thread, in a word or two."""
    if thread["crashed"]:
        return "crashed"
    if thread["late"]:
        return {"ended": "late: refused", "unwound": "late: unwound", "sleeps": "late: asleep"}.get(thread["late"]["fate"], "late")
    if thread["inside_at_exit"] and thread["waited_ms"] is not None:
        return "waited for, " + lasted(thread["waited_ms"])
    if thread["inside_at_exit"] or thread["is_inside"]:
        return "inside"
    return "outside in time" if thread["calls"] else "never got in"


def became(told: Told, thread: Told) -> str:
    """The same in sentences."""
    said = []
    if thread["inside_at_exit"]:
        waited = thread["waited_ms"]
        said.append("It was inside a call when Python exited%s." % ("" if waited is None else ", and left it %s later" % lasted(waited)))
    elif thread["is_inside"]:
        said.append("It was inside a call at the end.")
    if thread["late"]:
        said.append("It came back by %s when Python was finalizing, or gone, %s." % (thread["late"]["way"], when(told, thread["late"]["at_ms"])))
        if not thread["crashed"]:
            said.append(FATES[thread["late"]["fate"]](told) % {"it": "it"})
    if thread["crashed"]:
        said.append(crash_of(told))
    if said:
        return " ".join(said)
    if not thread["calls"]:
        return "It was about to enter Python, and never got in."
    return "It was outside Python when Python exited, and did not come back." if told["exit"] else "It was outside Python at the end."


def facts(thread: Told) -> Iterator[tuple[str, str]]:
    if thread["starter"]:
        yield "started by", thread["starter"]["is"]
    elif thread["of_python"]:
        yield "started by", "Python's threading, or it is the main thread"
    if thread["caller"]:
        yield "calls from", thread["caller"]["is"]
    yield "calls", "%d, by %s" % (thread["calls"], thread["way"])
    for which in ("first", "last"):
        function = thread[which + "_function"]
        if function:
            yield which + " Python function noted", "%s, %s:%d" % (function["name"], function["file"], function["line"])


def frames(stack: list[Told]) -> list[str]:
    """Frames of the program and of Python, innermost first."""
    return [str(Frame(**frame)) for frame in stack if not frame["library"].startswith("libpep788")]


# --- The axis ------------------------------------------------------------------------------------------

# How much of the width is for what came before, and at most for one stretch in which nothing was noted, in percent.
STUB, QUIET = 9.0, 34.0
# A stretch of so many milliseconds is never squeezed.
SHORT = 8.0


class Piece(NamedTuple):
    """A stretch of time, and where it is drawn, in percent of the width."""

    begin: float
    end: float
    left: float
    right: float
    is_cut: bool


class Axis:
    """Where a moment is drawn. All that matters is in one scale; what came before, and long stretches in which nothing was noted, are squeezed."""

    def __init__(self, told: Told) -> None:
        end = max(told["ended"]["ms"], 0.001)
        self.zero = exit_began(told) or 0.0
        noted = {it["at_ms"] for it in told["exit"]} | {stop_mark(told).at, end, self.zero}
        for thread in told["threads"]:
            noted |= {it for span in spans(told, thread) for it in (span.begin, span.end)} | {mark.at for mark in marks(told, thread)}
        moments = sorted(it for it in noted if self.zero <= it <= end)
        lengths = [after - before for before, after in zip(moments, moments[1:])]
        most = longest_drawn(lengths)
        # What would not be much shorter stays as it is.
        length = sum(most if it > 1.5 * most else it for it in lengths) or end
        lead = min(self.zero, length * 0.2)
        stub = STUB if self.zero > lead else 0.0
        scale = (100 - stub) / (length + lead)
        # What is in one scale, and not cut, is one piece.
        stretches = [(self.zero - lead, self.zero, False)]
        for begin, after in zip(moments, moments[1:]):
            is_cut = after - begin > 1.5 * most
            if not is_cut and not stretches[-1][2]:
                begin = stretches.pop()[0]
            stretches.append((begin, after, is_cut))
        self.pieces = [Piece(0.0, self.zero - lead, 0.0, stub, True)] if stub else []
        left = stub
        for begin, after, is_cut in stretches:
            right = left + scale * (most if is_cut else after - begin)
            self.pieces.append(Piece(begin, after, left, right, is_cut))
            left = right
        self.scale = scale

    def at(self, ms: float) -> float:
        piece = next((it for it in self.pieces if ms <= it.end), self.pieces[-1])
        share = (ms - piece.begin) / (piece.end - piece.begin) if piece.end > piece.begin else 0.0
        return round(piece.left + min(max(share, 0.0), 1.0) * (piece.right - piece.left), 3)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Round numbers of milliseconds, where there is room for them."""
        about = 15 / self.scale
        step = next((size * 10.0 ** power for power in range(-3, 9) for size in (1, 2, 5) if size * 10.0 ** power >= about), about)
        until = -100.0
        for piece in self.pieces:
            if piece.is_cut:
                continue
            number = max(0, -int((self.zero - piece.begin) // step))
            while self.zero + number * step <= piece.end:
                left = self.at(self.zero + number * step)
                if left - until >= 12 and left <= 93:
                    yield left, "%.6g" % (number * step)
                    until = left
                number += 1


def longest_drawn(lengths: list[float]) -> float:
    """How many milliseconds a quiet stretch may be long, so that none has more than its share of the width."""
    lengths = sorted(lengths, reverse=True)
    share = max(QUIET / 100, 1.2 / (len(lengths) or 1))
    # With that share there is always a number of cut ones from which on all others are shorter.
    for cut, longest in enumerate(lengths):
        most = share * sum(lengths[cut:]) / (1 - cut * share)
        if longest <= most:
            return max(most, SHORT)
    return SHORT


# --- The page ------------------------------------------------------------------------------------------


def page(told: Told) -> str:
    """A page of its own: no scripts, and nothing that is loaded."""
    axis = Axis(told)
    body = tag(
        "main",
        tag("header", tag("p", "pep788 watch: the exit of a program", class_="over"), tag("h1", headline(told)), ending(told)),
        parts_section(told), timeline_section(told, axis), culprits_section(told), where_section(told), threads_section(told))
    return HEAD % {"title": html.escape(headline(told)), "grid": grid(told, axis)} + "<body>\n" + PATTERNS + body + "</body>\n</html>\n"


def ending(told: Told) -> Html:
    return joined([
        tag("p", "The program ", how_it_ended(told), " after ", lasted(told["ended"]["ms"]), ", on Python ", told["python"], ", ",
            tag("strong", "protected by the seatbelt" if told["protected"] else "without protection"), "."),
        tag("pre", " ".join(told["command"]), class_="command"),
    ])


def parts_section(told: Told) -> Html:
    parts = told["exit"]
    if not parts:
        return section("parts", "The exit", tag("p", "The program ended before an exit of Python began."))
    total = sum(it["ms"] for it in parts)
    bars, left = [], 0.0
    for number, it in enumerate(parts, 1):
        width = 100 * it["ms"] / total if total else 100 / len(parts)
        text = tag("text", number, x="%.2f%%" % (left + width / 2), y=19, class_="inbar", text_anchor="middle") if width >= 5 else Html()
        bars.append(joined([tag("rect", tag("title", "%d: %s, %s" % (number, it["what"], lasted(it["ms"]))), x="%.2f%%" % left, y=1,
                                width="%.2f%%" % max(width, 0.4), height=26, class_="part " + it["part"]), text]))
        left += width
    bar = tag("svg", tag("title", "The exit's parts, each as long as it took"),
              tag("desc", "; ".join("%s: %s" % (it["what"], lasted(it["ms"])) for it in parts)), *bars, role="img", class_="bar", height=28)
    rows = [[joined([swatch("part " + it["part"]), str(number), " ", it["what"]]), when(told, it["at_ms"]), lasted(it["ms"])]
            for number, it in enumerate(parts, 1)]
    until = "hung" if told["ended"]["hung"] else "crashed" if told["verdict"] == "crashed" else None
    title = "The exit took %s" % lasted(total)
    if until:
        title = "The exit %s after %s" % (until, lasted(max(0.0, stop_mark(told).at - parts[0]["at_ms"])))
    return section("parts", title, bar, table(["part", "began", "took"], rows, class_="few"))


def swatch(kind: str) -> Html:
    return tag("svg", tag("rect", x=1, y=1, width=20, height=12, class_=kind), class_="swatch", width=22, height=14, aria_hidden="true")


def timeline_section(told: Told, axis: Axis) -> Html:
    dash = tag("svg", tag("line", x1=1, x2=21, y1=7, y2=7, class_="outside"), class_="swatch", width=22, height=14, aria_hidden="true")
    seen = {span.kind for thread in told["threads"] for span in spans(told, thread)}
    legend = [tag("li", swatch("span " + kind) if kind != "outside" else dash, words) for kind, words in SPANS.items() if kind in seen]
    seen = {mark.kind for thread in told["threads"] for mark in marks(told, thread)} | ({stop_mark(told).kind} if told["where"] else set())
    legend += [tag("li", tag("svg", SHAPES[kind], class_="swatch", width=22, height=14, viewBox="-11 -7 22 14", aria_hidden="true"), words)
               for kind, words in MARKS.items() if kind in seen]
    legend.append(tag("li", "no line: nothing was noted"))
    lanes = [exit_lane(told, axis), door_lane(told, axis)] + [
        thread_lane(told, axis, thread, index) for index, thread in enumerate(in_order(told))]
    more = told["threads_seen"] - len(told["threads"])
    return section(
        "timeline", "The timeline",
        tag("p", scale_words(told, axis)),
        tag("div", axis_lane(axis), *lanes, class_="lanes"),
        tag("p", "There is no room in the notes for %s more." % number_of(more, "thread")) if more > 0 else Html(),
        tag("ul", *legend, class_="legend", aria_label="What the lanes show"))


def scale_words(told: Told, axis: Axis) -> str:
    words = "Milliseconds since the exit began." if told["exit"] else "Milliseconds since the program began."
    if axis.pieces[0].is_cut and told["exit"]:
        words += " The grey stretch at the left is what came before: %s, squeezed." % lasted(axis.pieces[0].end)
    cuts = [piece.end - piece.begin for piece in axis.pieces if piece.is_cut and (piece.begin > 0 or not told["exit"])]
    if cuts:
        words += " Where the ground is striped, nothing was noted for long, and time is squeezed: %s." % ", ".join(map(lasted, cuts))
    return words + " Times of last calls are exact to some milliseconds."


def lane(label: object, *inside: object, title: str, description: str, **attributes: object) -> Html:
    return tag("div", tag("div", label, class_="who"),
               tag("svg", tag("title", title), tag("desc", description), *inside, role="img", height=26), **dict({"class_": "lane"}, **attributes))


def box(axis: Axis, kind: str, begin: float, end: float, words: str, text: str = "") -> Html:
    left, right = axis.at(begin), axis.at(end)
    rect = tag("rect", tag("title", words), x="%.3f%%" % left, width="%.3f%%" % max(right - left, 0.5), y=5, height=16, class_=kind)
    # Text that has no room is left out. It is said elsewhere.
    if not text or right - left < 3 + 2 * len(text):
        return rect
    return joined([rect, tag("text", text, x="%.3f%%" % ((left + right) / 2), y=17, text_anchor="middle", class_="inbar")])


def axis_lane(axis: Axis) -> Html:
    ticks = [tag("text", text, x="%.3f%%" % left, y=17, text_anchor="middle", class_="tick") for left, text in axis.ticks()]
    end = tag("text", "%.6g ms" % round(axis.pieces[-1].end - axis.zero, 1), x="100%", y=17, text_anchor="end", class_="tick")
    return tag("div", tag("div", "", class_="who"), tag("svg", *ticks, end, height=24, aria_hidden="true"), class_="lane axis")


def exit_lane(told: Told, axis: Axis) -> Html:
    boxes = [box(axis, "part " + it["part"], it["at_ms"], it["at_ms"] + it["ms"], "%s: %s" % (it["what"], lasted(it["ms"])), str(number))
             for number, it in enumerate(told["exit"], 1)]
    if told["where"] and told["where"]["thread"] not in {thread["id"] for thread in told["threads"]}:
        boxes.append(placed(axis, stop_mark(told)))
    return lane(joined([tag("b", "the exit"), tag("small", number_of(len(told["exit"]), "part"))]), *boxes,
                title="The exit", description="; ".join("%s, %s" % (it["what"], when(told, it["at_ms"])) for it in told["exit"]) or "none")


def door_lane(told: Told, axis: Axis) -> Html:
    states = door(told)
    boxes = [box(axis, "door " + state, begin, end, "%s: %s" % (state, words), state) for state, words, begin, end in states]
    name, small = ("the door", "of the seatbelt" if told["protected"] else "for guards") if part(told, "waiting") or told["protected"] \
        else ("Python", "without a door")
    description = "; ".join("%s, %s: %s" % (state, when(told, begin) if begin else "from the beginning", words) for state, words, begin, _ in states)
    return lane(joined([tag("b", name), tag("small", small)]), *boxes, title="Who gets in", description=description)


def thread_lane(told: Told, axis: Axis, thread: Told, index: int) -> Html:
    drawn = []
    for span in spans(told, thread):
        words = "%s: %s to %s" % (SPANS[span.kind], when(told, span.begin), when(told, span.end))
        if span.kind == "outside":
            drawn.append(tag("line", tag("title", words), x1="%.3f%%" % axis.at(span.begin), x2="%.3f%%" % axis.at(span.end), y1=13, y2=13,
                             class_="outside"))
        else:
            drawn.append(box(axis, "span " + span.kind, span.begin, span.end, words))
    drawn += [placed(axis, mark) for mark in marks(told, thread)]
    whose = (thread["starter"] or thread["caller"] or {"library": "threading" if thread["of_python"] else ""})["library"]
    label = joined([tag("a", thread["name"] or "thread", " ", tag("span", thread["id"], class_="id"), href="#thread-%d" % index),
                    tag("small", ", ".join(filter(None, [whose, state(thread)])))])
    return lane(label, *drawn, title="Thread %s, %s: %s" % (thread["id"], thread["name"], state(thread)), description=became(told, thread),
                class_="lane thread", id="lane-%d" % index)


SHAPES = {
    "refused": Html('<g class="mark refused"><circle r="6"/><path d="M-4 4L4 -4"/></g>'),
    "late": Html('<g class="mark late"><path d="M-5 -5L5 5M-5 5L5 -5"/></g>'),
    "crash": Html('<g class="mark crash"><path d="M0 -7L2 -2.500L7 -4L3.500 0L7 4L2 2.500L0 7L-2 2.500L-7 4L-3.500 0L-7 -4L-2 -2.500Z"/></g>'),
    "stop": Html('<g class="mark stop"><path d="M-5 -6H-1V6H-5ZM1 -6H5V6H1Z"/></g>'),
}


def placed(axis: Axis, mark: Mark) -> Html:
    # Away from the edges, where half of it would be cut off.
    left = min(max(axis.at(mark.at), 1.0), 99.0)
    return tag("svg", tag("title", MARKS[mark.kind]), SHAPES[mark.kind], x="%.3f%%" % left, y=13, overflow="visible", class_="placed")


def culprits_section(told: Told) -> Html:
    if not told["culprits"]:
        return Html()
    said = [tag("li", tag("h3", culprit["library"]), tag("pre", "%s: %s" % (culprit["library"], culprit["report"]), class_="copy", tabindex=0))
            for culprit in told["culprits"]]
    return section("report", "For a bug report", tag("p", "A click selects all of a text."), tag("ol", *said, class_="culprits"))


def where_section(told: Told) -> Html:
    if not told["where"]:
        return Html()
    hung = told["ended"]["hung"]
    return section("where", "Where it %s" % ("hung" if hung else "crashed"),
                   tag("p", "Thread %s, the innermost function first:" % told["where"]["thread"]), stack_list(told["where"]["stack"]))


def stack_list(stack: list[Told]) -> Html:
    return tag("ol", *(tag("li", tag("code", frame)) for frame in frames(stack)), class_="stack")


def threads_section(told: Told) -> Html:
    threads = in_order(told)
    if not threads:
        return section("threads", "The threads", tag("p", "No thread called Python by a function that is watched."))
    rows = [
        [joined([tag("a", thread["name"] or "thread", " ", str(thread["id"]), href="#thread-%d" % index)]), str(thread["calls"]),
         when(told, thread["first_ms"]), when(told, thread["last_ms"] and max(thread["first_ms"], thread["last_ms"])),
         "yes" if thread["inside_at_exit"] else "no",
         "-" if thread["waited_ms"] is None else lasted(thread["waited_ms"]), state(thread)] for index, thread in enumerate(threads)]
    seen: dict[tuple, int] = {}
    blocks = [thread_block(told, thread, index, seen) for index, thread in enumerate(threads)]
    columns = ["thread", "calls", "first", "last", "inside at exit", "waited for", "became"]
    return section("threads", "The threads", table(columns, rows, class_="many"), *blocks)


def thread_block(told: Told, thread: Told, index: int, seen: dict[tuple, int]) -> Html:
    about = [joined([tag("dt", key), tag("dd", value)]) for key, value in facts(thread)]
    stacks = []
    late_stack = thread["late"]["stack"] if thread["late"] else []
    for title, stack in (("The stack of its first call", thread["stack"]), ("The stack when it came too late", late_stack)):
        if not stack:
            continue
        # Threads that do the same have the same stacks, which are written once.
        first = seen.setdefault((title, *frames(stack)), index)
        if first == index:
            stacks.append(tag("details", tag("summary", title), stack_list(stack)))
        else:
            stacks.append(tag("p", title, " is that of ", tag("a", "another thread", href="#thread-%d" % first), "."))
    heading = tag("h3", thread["name"] or "thread", " ", tag("span", thread["id"], class_="id"), tag("span", state(thread), class_="state"))
    return tag("article", heading, tag("p", became(told, thread)), tag("dl", *about), *stacks, id="thread-%d" % index)


STRIPES = "repeating-linear-gradient(90deg,var(--stub) 0 2px,transparent 2px 10px)"


def grid(told: Told, axis: Axis) -> str:
    """The ground of all lanes: lines where the parts of the exit begin, and stripes where time is squeezed."""
    grounds = ["linear-gradient(var(--line),var(--line)) %.3f%% 0/1px 100%% no-repeat" % axis.at(it["at_ms"]) for it in told["exit"]]
    for piece in axis.pieces:
        if piece.is_cut:
            width = piece.right - piece.left
            # Of the room that the width leaves.
            place = 100 * piece.left / (100 - width) if width < 100 else 0
            image = "linear-gradient(var(--stub),var(--stub))" if piece.begin == 0 and told["exit"] else STRIPES
            grounds.append("%s %.3f%% 0/%.3f%% 100%% no-repeat" % (image, place, width))
    return ",".join(grounds) or "none"
