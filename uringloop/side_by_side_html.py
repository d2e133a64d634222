"""The side by side as one HTML page; `python -m uringloop side-by-side --html FILE [NAME]` writes it.

Mirrors nothing. It owns the colouring of both languages and the layout of the page: two columns,
aligned by method, in which every line of ours stands once; what a side lacks is said in its place.
What belongs to what is `side_by_side`'s. The page is whole in itself: no script, no font, no
picture, nothing from elsewhere.
"""

import builtins
import dataclasses
import html
import keyword
import platform
import re
from bisect import bisect_right
from pathlib import Path

from . import mirror, pyx_scanner, side_by_side

# What the scanner's mask looks like: strings are '____', comments are blank.
_TOKEN = re.compile(r"""
    (?P<s>  (?:\b[rbuft]{1,2})?'_*')            # a string with its prefix
  | (?P<a>  ^[ ]*@\w[\w.]*)                     # a decorator
  | (?P<n>  \b\d[\w.]*)
  | (?P<w>  [^\W\d]\w*)
""", re.VERBOSE | re.MULTILINE | re.IGNORECASE)

_KEYWORDS = {*keyword.kwlist, "match", "case"} - {"None", "True", "False"} | {
    "cdef", "cpdef", "ctypedef", "cimport", "extern", "nogil", "gil", "noexcept", "readonly",
    "public", "api", "inline", "sizeof", "struct", "enum", "union", "cppclass"}
_C_TYPES = {
    "bint", "char", "double", "float", "int", "long", "object", "short", "signed", "size_t",
    "ssize_t", "unsigned", "void", "Py_ssize_t", "Py_buffer", "PyObject",
    *(f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64))}
_BUILTINS = {name for name in dir(builtins) if not name.startswith("_")} | {"self", "cls"}

_DIFFERS = re.compile(r"\bdiffers\[[^\]]*\]")
_NUMBER = re.compile(r"\b[A-Z]\d+\b")
_ENTRY = re.compile(r"# (?P<number>[A-Z]\d+): ")
_SHARED_NOTE = "only what ours overrides is shown of this file"


def page(name=None):
    """Return the page's text: of all that is mirrored, or of what `name` means.

    Raises side_by_side.NameNotFound, and FileNotFoundError where a source is not installed.
    """
    return _Page().whole() if name is None else _Page().one(side_by_side.find(name))


# -- colours --


def tokens(source):
    """Return for each line a list of (class, text): '' for what has no colour.

    The classes: k keyword, s string, c comment, n number, a decorator, d the name that is defined,
    b builtin, t C type. The texts of a line joined are the line.
    """
    mask, _, comments, _ = pyx_scanner._mask(source)
    starts = [0, *(i + 1 for i, letter in enumerate(source) if letter == "\n")]
    spans = [(at, at + len(comment.text), "c") for comment in comments
             for at in [starts[comment.line - 1] + comment.column]]
    previous, in_c_header, line = "", False, -1
    for match in _TOKEN.finditer(mask):
        kind, word = match.lastgroup, match.group()
        if kind == "w":
            number = bisect_right(starts, match.start())
            if number != line:
                line, in_c_header = number, word in ("cdef", "cpdef")
            kind = _kind_of(word, previous, mask[match.end():match.end() + 1], in_c_header)
            if kind == "d":
                in_c_header = False
            previous = word
        if kind:
            spans.append((*match.span(), kind))
    result, at = [[]], 0
    for start, end, kind in [*sorted(spans), (len(source), len(source), "")]:
        for part, class_ in ((source[at:start], ""), (source[start:end], kind)):
            for number, text in enumerate(part.split("\n")):
                if number:
                    result.append([])
                if text:
                    result[-1].append((class_, text))
        at = end
    return result


def _kind_of(word, previous, following, in_c_header):
    if previous in ("def", "class") or in_c_header and following == "(":
        return "d"
    if previous in (".", "import"):
        return ""
    for kind, words in (("k", _KEYWORDS), ("t", _C_TYPES), ("b", _BUILTINS)):
        # `int(...)` is Python's.
        if word in words and not (kind == "t" and following == "("):
            return kind
    return ""


# -- the page --


class _Page:
    def __init__(self):
        self._ids = set()
        self._tokens = {}       # label of a source -> its tokens
        self._places = {}       # id of a difference -> [(label, id of the line), ...]
        self._linked = {}       # id of a difference -> None, in the order of their use

    def whole(self):
        contents, sections = [], []
        for number, (title, entries) in enumerate(side_by_side.entries()):
            pair = mirror.MODULES[number] if number < len(mirror.MODULES) else None
            ours = side_by_side.our_source(pair.ours if pair else mirror.C_OURS)
            theirs = side_by_side.stdlib_source(Path(pair.stdlib).stem) if pair else None
            entries = _grouped(entries)
            id_ = self._id(_stem(ours))
            label = theirs.label if pair else mirror.C_SOURCE
            body = self._file(theirs, ours, entries, pair is not None and pair.whole)
            contents.append(f'<details open><summary><a href="#{id_}">{_text(_stem(ours))}</a>'
                            f"</summary>{self._contents(entries)}</details>")
            sections.append(
                f'<section class="file" id="{id_}">'
                f'<h2><span title="{_text(title)}">{_text(label)}</span>'
                f"<span>{_text(ours.label)}</span></h2>"
                f"{self._list(ours, ours.module.differences)}{body}</section>")
        sections.append(_renamed())
        return _document("asyncio and uringloop, side by side", "".join(contents),
                         "".join(sections))

    def one(self, entry):
        body = self._entry(entry, 2)
        contents = self._contents([entry])
        if entry.right is not None:
            listed = [number for number in entry.right_source.module.differences
                      if self._number_id(entry.right_source, number) in self._linked]
            body += self._list(entry.right_source, listed)
        return _document(f"{entry.stdlib or entry.ours}, side by side", contents, body)

    # -- parts, each as HTML --

    def _file(self, theirs, ours, entries, is_whole):
        """All of a file: its head, its classes and functions, and what stands between them."""
        shown = {entry.stdlib for entry in entries} | {
            member.stdlib for entry in entries for member in entry.members}
        left = _Gaps(theirs, theirs.module.items, 1, len(theirs.module.lines)) if is_whole else None
        right = _Gaps(ours, [entry.right for entry in entries], 1, len(ours.module.lines), shown)
        note = "" if is_whole else f"({_SHARED_NOTE})" if theirs else "(C, not installed)"
        head = self._columns(left.head() if left else [], right.head(), theirs, ours, 0, 0,
                             left_note=note)
        parts = [f'<div class="pair">{head}</div>']
        for entry in entries:
            parts.append(self._entry(entry, 3, shown))
            parts.append(self._between(left, right, entry, theirs, ours, 0, 0))
        return "".join(parts)

    def _entry(self, entry, level, shown=frozenset()):
        """A class with its members, or a function."""
        id_ = self._id(entry.ours or entry.stdlib)
        entry_ids[id(entry)] = id_
        return ""


def _text(text):
    return html.escape(text, quote=True)
