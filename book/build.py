"""build.py [MDBOOK]: the documents as one searchable book, in target/book.

The pages are the documents of the project, as they are, and the reference that the headers' comments make. Links between them lead
to pages; a link to another file becomes its name. Fails if a link leads nowhere, a document has no page, or mdbook has a complaint.
"""
import html.parser
import os
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
TARGET = os.path.abspath(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")))
# As mdbook expects it: the pages in `src`.
STAGE = os.path.join(TARGET, "book-source")
PAGES = os.path.join(STAGE, "src")
BOOK = os.path.join(TARGET, "book")

# Pages that are not in docs/ under their own name.
ELSEWHERE = {
    "readme.md": "README.md",
    "changes.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "c_suite.md": "c_tests/README.md",
    "matrix.md": "matrix/README.md",
    "sanitize.md": "sanitize/README.md",
}
HEADERS = {
    "pep788.md": ("Guards and views", "include/pep788.h"),
    "pep788_draft.md": ("The draft", "include/pep788_draft.h"),
    "pep788_gilstate.md": ("The seatbelt", "include/pep788_gilstate.h"),
    "pep788_keep.md": ("Keeping a thread state", "include/pep788_keep.h"),
    "pep788_doctor.md": ("The doctor", "include/pep788_doctor.h"),
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def fail(text):
    sys.exit("book: " + text)


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def pages():
    """Where each page comes from, by its name."""
    docs = os.path.join(ROOT, "docs")
    sources = {name: os.path.join(docs, name) for name in os.listdir(docs) if name.endswith(".md")}
    sources.update({name: os.path.join(ROOT, source) for name, source in ELSEWHERE.items()})
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", read(os.path.join(HERE, "SUMMARY.md"))))
    known = set(sources) | set(HEADERS)
    if listed != known:
        fail("SUMMARY.md lists what there is not, or not all: %s" % sorted(listed ^ known))
    return sources


def page_of(text, source, sources):
    """A document with its links as they are in the book."""
    names = {os.path.realpath(path): name for name, path in sources.items()}

    def relinked(match):
        mark, words, link = match.groups()
        if re.match(r"(https?|mailto):|#", link):
            return match[0]
        path, _, anchor = link.partition("#")
        path = os.path.realpath(os.path.join(os.path.dirname(source), path))
        if not os.path.exists(path):
            fail("%s: no such file: %s" % (source, link))
        if path in names:
            return "[%s](%s%s)" % (words, names[path], "#" + anchor if anchor else "")
        if mark:
            shutil.copy(path, PAGES)
            return "![%s](%s)" % (words, os.path.basename(path))
        name = os.path.relpath(path, ROOT)
        if name.endswith(words.strip("`")):
            return "`%s`" % name
        return words if name in words else "%s (`%s`)" % (words, name)

    return LINK.sub(relinked, text)


def reference(title, header):
    """The functions and types of a header: what is declared, and its comment."""
    text = read(os.path.join(ROOT, header))
    parts = ["# %s\n\n`#include <%s>`. What the words mean is in [What is promised](semantics.md).\n" % (title, os.path.basename(header))]
    names = set()
    # A constant, or a declaration: of a structure, up to its end.
    for comment, code in re.findall(r"/\*\*\n(.*?)\*/\n(#define[^\n]*\n|(?:(?!/\*\*).)*?;\n)", text, re.S):
        code = re.sub(r"PEP788_MUST_USE\s+", "", code).strip()
        name = re.search(r"#define (\w+)", code) or re.search(r"(\w+)\s*(?:\(|;|\{)", code)
        said = re.sub(r"^ \* ?", "", comment, flags=re.M).strip()
        parts.append("## `%s`\n\n```c\n%s\n```\n\n%s\n" % (name[1], code, said))
        names.add(name[1])
    if not names:
        fail("nothing is found in " + header)
    missing = set(re.findall(r"^(?:\w+ )+\**(\w+)\(", text, re.M)) - names
    if missing:
        fail("%s: no section for %s" % (header, ", ".join(sorted(missing))))
    return "\n".join(parts)


class Page(html.parser.HTMLParser):
    """The places in a page, and its links."""

    def __init__(self, text):
        super().__init__()
        self.places, self.links = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.places.add(value)
            elif name in ("href", "src") and value and not re.match(r"\w+:|//", value):
                self.links.append(value)


def check_links():
    names = [name for name in sorted(os.listdir(BOOK)) if name.endswith(".html") and name != "print.html"]
    read_pages = {name: Page(read(os.path.join(BOOK, name))) for name in names}
    dead = []
    for name, page in read_pages.items():
        for link in page.links:
            path, _, place = link.partition("#")
            path = path.partition("?")[0] or name
            there = read_pages.get(path)
            if there is None and not os.path.exists(os.path.join(BOOK, path)) or there and place and place not in there.places:
                dead.append("%s: %s" % (name, link))
    if dead:
        fail("links that lead nowhere:\n" + "\n".join(dead))
    return len(read_pages)


def main():
    mdbook = sys.argv[1] if len(sys.argv) > 1 else "mdbook"
    if shutil.which(mdbook) is None:
        fail("mdbook is missing: cargo install mdbook --no-default-features --features search")
    shutil.rmtree(STAGE, ignore_errors=True)
    shutil.rmtree(BOOK, ignore_errors=True)
    os.makedirs(PAGES)
    sources = pages()
    texts = {name: page_of(read(source), source, sources) for name, source in sources.items()}
    texts.update({name: reference(*what) for name, what in HEADERS.items()})
    texts["SUMMARY.md"] = read(os.path.join(HERE, "SUMMARY.md"))
    for name, text in texts.items():
        with open(os.path.join(PAGES, name), "w", encoding="utf-8") as file:
            file.write(text)
    for name in "book.toml", "wide.css":
        shutil.copy(os.path.join(HERE, name), STAGE)
    done = subprocess.run([mdbook, "build", "--dest-dir", BOOK, STAGE], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0 or re.search(r"WARN|ERROR", done.stdout):
        fail("mdbook says:\n" + done.stdout)
    print("book: %d pages in %s" % (check_links(), os.path.join(os.path.relpath(BOOK), "index.html")))


main()
