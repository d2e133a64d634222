"""The side by side as one HTML page, for `python -m uringloop side-by-side --html FILE [NAME]`.

Mirrors nothing. It owns the colouring of both languages and the layout of the page: two columns,
aligned by method, in which every line of our side stands once; what a side lacks is said in its
place. What belongs to what is `pairing`'s. The page is whole in itself: no script, no font,
no picture, nothing from elsewhere.
"""

import builtins
import dataclasses
import html
import keyword
import platform
import re
from bisect import bisect_right
from pathlib import Path

from . import mirror, pairing, pyx_scanner

# In the scanner's mask a string is '____' and comments are blank.
_TOKEN = re.compile(r"""
    (?P<s>  (?:\b[rbuft]{1,2})?'_*')            # a string with its prefix
  | (?P<a>  ^[ ]*@\w[\w.]*)                     # a decorator
  | (?P<n>  \b\d[\w.]*)
  | (?P<w>  [^\W\d]\w*)
""", re.VERBOSE | re.MULTILINE | re.IGNORECASE)

_KEYWORDS = {*keyword.kwlist} - {"None", "True", "False"} | {
    "cdef", "cpdef", "ctypedef", "cimport", "nogil", "noexcept"}
# Keywords behind one of Cython's only: `struct` is a module, too.
_DECLARING = {"cdef", "cpdef", "ctypedef", "public", "readonly"}
_DECLARED = {"extern", "struct", "enum", "union", "cppclass", "public", "readonly", "inline"}
_C_TYPES = {
    "bint", "char", "double", "float", "int", "long", "object", "short", "size_t", "ssize_t",
    "unsigned", "void", "Py_ssize_t", "Py_buffer",
    *(f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64))}
_BUILTINS = {name for name in dir(builtins) if not name.startswith("_")} | {"self", "cls"}

_DIFFERS = re.compile(r"\bdiffers\[[^\]]*\]")
_NUMBER = re.compile(r"\b[A-Z]\d+\b")
_LIST_ENTRY = re.compile(r"# ([A-Z]\d+): ")
_BLOCK_HEADER = re.compile(r"\s*(?:if|elif|else|try|except|finally)\b.*:\s*(?:#.*)?")


def page(name=None):
    """Return the page's text: of all that is mirrored, or of the class or method `name`.

    Raises pairing.NameNotFound, and FileNotFoundError where a source is not installed.
    """
    return _Page().whole() if name is None else _Page().one(pairing.find(name))


# -- colours --


def tokens(source):
    """Return for each line a list of (class, text); the texts of a line, joined, are the line.

    The classes: k keyword, s string, c comment, n number, a decorator, d the name that is defined,
    b builtin, t C type, and '' for what has no colour.
    """
    mask, _, comments, _ = pyx_scanner._mask(source)
    starts = [0, *(at + 1 for at, letter in enumerate(source) if letter == "\n")]
    spans = []
    for comment in comments:
        at = starts[comment.line - 1] + comment.column
        spans.append((at, at + len(comment.text), "c"))
    previous, line, defines_c = "", 0, False
    for match in _TOKEN.finditer(mask):
        kind, word = match.lastgroup, match.group()
        if kind == "w":
            if line != (line := bisect_right(starts, match.start())):
                defines_c = word in ("cdef", "cpdef")
            following = mask[match.end():match.end() + 1]
            if previous in ("def", "class") or defines_c and following == "(":
                kind, defines_c = "d", False
            else:
                kind = _kind(word, previous, mask[match.start() - 1:match.start()], following)
            previous = word
        spans.append((*match.span(), kind))
    result, at = [[]], 0
    for start, end, kind in [*sorted(spans), (len(source), len(source), "")]:
        for text, text_kind in ((source[at:start], ""), (source[start:end], kind)):
            first, *others = text.split("\n")
            for new_line, part in [(False, first), *((True, other) for other in others)]:
                if new_line:
                    result.append([])
                if part:
                    result[-1].append((text_kind, part))
        at = end
    return result


def _kind(word, previous, before, following):
    if before == ".":
        return ""
    if word in _KEYWORDS or word in _DECLARED and previous in _DECLARING:
        return "k"
    if word in _C_TYPES and following != "(":       # int(...) is Python's
        return "t"
    return "b" if word in _BUILTINS else ""


# -- lines --


@dataclasses.dataclass(frozen=True)
class _Lines:
    """Some lines of a source."""

    source: pairing.Source
    numbers: list[int]
    column: int = 0     # their common indentation, which is not shown
    place: str = ""     # what they belong to

    def texts(self):
        return [self.source.module.lines[number - 1] for number in self.numbers]

    def split(self):
        """Return the comments above a header, and the rest."""
        count = next((at for at, text in enumerate(self.texts())
                      if not text.lstrip().startswith("#")), len(self.numbers))
        return (dataclasses.replace(self, numbers=self.numbers[:count]),
                dataclasses.replace(self, numbers=self.numbers[count:]))


def _item_lines(source, item):
    titles = {mark.line for mark in source.module.marks_of(item, "stdlib")}
    return _Lines(source, [n for n in range(item.first, item.last + 1) if n not in titles],
                  item.column, item.qualname)


def _gaps(source, items, shown, owner=None):
    """Return the lines that are in none of the items: {None: those before, item's first: after it}.

    shown: names, of which the page says by itself that they are absent.
    """
    module = source.module
    first, last = (owner.first, owner.last) if owner else (1, len(module.lines))
    column, place = (owner.column, owner.qualname) if owner else (0, "")
    said = {n for mark in module.marks
            if mark.kind == "banner" or mark.kind == "absent" and not shown.isdisjoint(mark.names)
            or mark.kind == "stdlib" and owner
            for n in range(mark.line, mark.last + 1)}
    said |= _list_lines(module) if not owner else set()
    gaps, before = {}, None
    for item in [*sorted(items, key=lambda item: item.first), None]:
        end = item.first if item else last + 1
        numbers = [n for n in range(first, end) if n not in said]
        texts = [module.lines[n - 1].strip() for n in numbers]
        while texts and not texts[-1]:
            del texts[-1], numbers[-1]
        while texts and not texts[0]:
            del texts[0], numbers[0]
        # The condition of a method stands in its title.
        if not all(_BLOCK_HEADER.fullmatch(text) for text in texts):
            gaps[before] = _Lines(source, numbers, column, place)
        if item:
            first, before = item.last + 1, item.first
    return gaps


def _list_lines(module):
    """Return the numbers of the lines that the list of differences takes."""
    numbers, inside = set(), False
    for number, line in enumerate(module.lines, 1):
        entry = _LIST_ENTRY.match(line)
        inside = bool(entry) and entry[1] in module.differences or inside and line[:3] == "#  "
        if inside:
            numbers.add(number)
    return numbers


def _by_class(entries):
    """Give the members to their classes, where the table has them one beside the other."""
    # What the file says of itself need not be said of each name.
    entries = [dataclasses.replace(entry, left_note="", members=[]) for entry in entries]
    classes = {entry.ours: entry for entry in entries if entry.right and entry.right.is_class}
    result = []
    for entry in entries:
        owner = classes.get((entry.ours or entry.stdlib).rpartition(".")[0])
        (owner.members if owner else result).append(entry)
    for owner in classes.values():
        named = {entry.ours for entry in owner.members}
        owner.members += [
            pairing.Entry(None, item.qualname, right=item, right_source=owner.right_source,
                               left_note="ours: no counterpart in the stdlib")
            for item in owner.right.members if item.qualname not in named]
    return result


# -- the page --


class _Page:
    def __init__(self):
        self._ids = {}          # id of an owner -> (its id in the page, the owner)
        self._used = set()
        self._tokens = {}       # label of a source -> its tokens
        self._places = {}       # (label of a source, number) -> [(what, id of the line), ...]

    def whole(self):
        contents, sections = [], []
        pairs = [*mirror.MODULES, mirror.ModulePair(mirror.C_SOURCE, mirror.C_OURS, whole=False)]
        for pair, (_, entries) in zip(pairs, pairing.entries()):
            theirs = pairing.stdlib_source(Path(pair.stdlib).stem)
            ours = pairing.our_source(pair.ours)
            if theirs is None:
                entries = _by_class(entries)
            id_ = self._id(ours, pair.ours)
            body = self._file(pair, theirs, ours, entries)
            sections.append(
                f'<section class="file" id="{id_}">{_title(2, pair.stdlib, ours.label, id_)}'
                f"{self._list(ours, ours.module.differences)}{body}</section>")
            contents.append(f'<li><a href="#{id_}">{_escape(pair.ours)}</a>'
                            f"{self._contents(entries)}</li>")
        renamed = "".join(f"<dt>{_escape(theirs)}</dt><dd>{_escape(ours)}</dd>"
                          for theirs, ours in mirror.ATTRIBUTES.items())
        sections.append('<section class="list" id="renamed"><h2>Renamed attributes</h2>'
                        f"<dl>{renamed}</dl></section>")
        contents.append('<li><a href="#renamed">Renamed attributes</a></li>')
        return _document("asyncio and uringloop", f"<ol>{''.join(contents)}</ol>",
                         "".join(sections))

    def one(self, entry):
        labels = "".join(f"<span>{_escape(source.label) if source else ''}</span>"
                         for source in (entry.left_source, entry.right_source))
        body = f'<div class="columns">{labels}</div>{self._entry(entry, 2)}'
        if entry.right is not None:
            used = {number for label, number in self._places}.union(entry.numbers())
            body += self._list(entry.right_source,
                               [n for n in entry.right_source.module.differences if n in used])
        return _document(entry.stdlib or entry.ours, self._contents([entry]), body)

    # -- its parts, as HTML --

    def _file(self, pair, theirs, ours, entries):
        """A file: its head, its classes and functions, and what stands between them."""
        shown = {member.stdlib for entry in entries for member in (entry, *entry.members)}
        left = _gaps(theirs, theirs.module.items, shown) if pair.whole else {}
        right = _gaps(ours, [entry.right for entry in entries if entry.right], shown)
        note = "" if pair.whole else "only what has a counterpart is shown of this file"
        if theirs is None:
            note = entries[0].left_note
        parts = [self._pair(left.get(None), right.get(None), note)]
        for entry in entries:
            parts += [self._entry(entry, 3), self._after(entry, left, right)]
        return "".join(parts)

    def _entry(self, entry, level, is_told=False):
        """A class with its members, or a function; is_told: its class is absent, and says why."""
        left, right = self._inside(entry, "left"), self._inside(entry, "right")
        right_note = "" if is_told else entry.right_note
        id_ = self._id(entry, entry.ours or entry.stdlib)
        parts = [f'<section class="entry" id="{id_}">', _title(level, *_names(entry), id_),
                 self._pair(left.get(None), right.get(None), entry.left_note, right_note),
                 self._notes(entry)]
        for member in entry.members:
            parts += [self._entry(member, level + 1, is_told=entry.right is None),
                      self._after(member, left, right)]
        return "".join([*parts, "</section>"])

    @staticmethod
    def _inside(entry, side):
        """The lines of an item; of a class with members those outside them, as _gaps gives them."""
        item, source = getattr(entry, side), getattr(entry, f"{side}_source")
        if item is None:
            return {}
        if not entry.members:
            return {None: _item_lines(source, item)}
        items = [getattr(member, side) for member in entry.members]
        items = [member for member in items if member in item.members]
        if side == "right" or len(items) == len(item.members):
            return _gaps(source, items, {member.stdlib for member in entry.members}, item)
        # Of a class that ours refines in some methods, the others are not shown.
        return {None: _gaps(source, item.members, set(), item).get(None)}

    def _after(self, entry, left, right):
        """What stands on either side between this entry and the next."""
        sides = [gaps.get(item.first) if item else None
                 for gaps, item in ((left, entry.left), (right, entry.right))]
        return self._pair(*sides) if any(sides) else ""

    def _pair(self, left, right, left_note="", right_note=""):
        """Two columns: the comments above the headers end on one line, the headers begin on one."""
        rows = [[], []]
        for lines, note in ((left, left_note), (right, right_note)):
            above, below = lines.split() if lines else (None, None)
            rows[0].append(self._cell(above, "above"))
            rows[1].append(self._cell(below, "code", note))
        return "".join(f'<div class="columns">{"".join(row)}</div>' for row in rows
                       if row != ["<div></div>"] * 2)

    def _cell(self, lines, class_, note=""):
        if lines is not None and lines.numbers:
            return (f'<pre class="{class_}">'
                    f"{''.join(self._line(lines, number) for number in lines.numbers)}</pre>")
        return f'<div class="absent">{_prose(note)}</div>' if note else "<div></div>"

    def _line(self, lines, number):
        source = lines.source
        if source.label not in self._tokens:
            self._tokens[source.label] = tokens("\n".join(source.module.lines))
        text = source.module.lines[number - 1]
        indentation = len(text) - len(text.lstrip())
        hidden = min(lines.column, indentation)
        parts, id_ = [], f"{Path(source.label).stem}-{number}"
        for kind, part in self._tokens[source.label][number - 1]:
            part, hidden = part[hidden:], max(0, hidden - len(part))
            marked = _escape(part)
            if kind in ("c", "s"):
                marked = _DIFFERS.sub(
                    lambda match: self._linked(match.group(), lines, number, id_), marked)
            parts.append(f'<span class="{kind}">{marked}</span>' if kind else marked)
        place = f' id="{id_}" class="marked"' if any("<a " in part for part in parts) else ""
        indented = indentation - lines.column
        style = f' style="--i:{indented}"' if indented > 0 else ""
        return f'<span{place} data-n="{number}"{style}>{"".join(parts)}\n</span>'

    def _linked(self, text, lines, line, id_):
        """Make links of the numbers in a mark, with the reason to be seen at once."""
        listed = lines.source.module.differences

        def link(match):
            number = match.group()
            if number not in listed:
                return number
            places = self._places.setdefault((lines.source.label, number), [])
            place = (f"{lines.place or 'line'}:{line}", id_)
            if place not in places:
                places.append(place)
            target = _difference_id(lines.source, number)
            return (f'<a class="mark" href="#{target}">{number}'
                    f'<span class="card">{_prose(listed[number])}</span></a>')

        return _NUMBER.sub(link, text)

    def _notes(self, entry):
        """The differences of a method, or of a class apart from its methods, below the code."""
        rows = []
        if entry.right is not None:
            listed = entry.right_source.module.differences
            for number in entry.numbers(with_members=not entry.members):
                target = _difference_id(entry.right_source, number)
                rows.append((f'<a href="#{target}">{number}</a>', _prose(listed.get(number, ""))))
        rows += [("parameters", f"<code>({_escape(parameters)})</code>: {_prose(reason)}")
                 for name, parameters, reason in entry.changed() if name == entry.stdlib]
        if not rows:
            return ""
        body = "".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in rows)
        return f'<div class="columns"><div></div><dl class="notes">{body}</dl></div>'

    def _list(self, source, numbers):
        """The numbered differences, each with links to where it stands."""
        rows = []
        for number in numbers:
            places = " ".join(f'<a href="#{id_}">{_escape(what)}</a>'
                             for what, id_ in self._places.get((source.label, number), ()))
            rows.append(f'<dt id="{_difference_id(source, number)}">{number}</dt>'
                        f"<dd>{_prose(source.module.differences[number])}"
                        f'<span class="places">{places}</span></dd>')
        if not rows:
            return ""
        return (f'<div class="list"><h3>Differences in {_escape(source.label)}</h3>'
                f"<dl>{''.join(rows)}</dl></div>")

    def _contents(self, entries):
        """Links to the entries, with their numbers, as nested lists."""
        items = []
        for entry in entries:
            full = entry.stdlib or entry.ours
            name = entry.ours if entry.right is not None else full
            name = name.rpartition(".")[2]
            words = entry.numbers(with_members=not entry.members)
            if entry.right is None and entry.right_note.startswith("absent"):
                words = ["absent"]
            elif entry.left is None and entry.stdlib is None:
                words.append("ours")
            more = f" <small>{_escape(' '.join(words))}</small>" if words else ""
            members = self._contents(entry.members) if entry.right is not None else ""
            items.append(f'<li><a href="#{self._id(entry, full)}" title="{_escape(full)}">'
                         f"{_escape(name)}</a>{more}{members}</li>")
        return f"<ol>{''.join(items)}</ol>" if items else ""

    def _id(self, owner, wanted):
        """Return the owner's id in the page, which is `wanted` unless another has that."""
        if id(owner) not in self._ids:
            wanted = re.sub(r"[^\w.]", "-", wanted)
            id_, count = wanted, 1
            while id_ in self._used:
                count += 1
                id_ = f"{wanted}-{count}"
            self._used.add(id_)
            self._ids[id(owner)] = id_, owner
        return self._ids[id(owner)][0]


def _difference_id(source, number):
    return f"{Path(source.label).stem}-{number}"


def _names(entry):
    """Return both names, with `class` and the condition that an item stands under."""
    names = []
    for name, item in ((entry.stdlib, entry.left), (entry.ours, entry.right)):
        name = name or ""
        if item is not None and item.is_class:
            name = f"class {name}"
        if item is not None and item.condition:
            name += f" (under `{item.condition}`)"
        names.append(name)
    return names


def _title(level, left, right, id_):
    level = min(level, 6)
    return (f'<h{level} class="columns"><span>{_prose(left)}</span>'
            f'<span>{_prose(right)}<a class="self" href="#{id_}" aria-label="link">#</a></span>'
            f"</h{level}>")


def _escape(text):
    return html.escape(text, quote=True)


def _prose(text):
    """Escape a comment's words; `code` in them is set as such."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _escape(text))


def _document(title, contents, body):
    version = platform.python_version()
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{_escape(title)}, side by side</title>
<style>{_STYLE}</style>
</head>
<body>
<nav aria-label="Contents">{contents}</nav>
<main>
<header>
<h1>{_escape(title)}, side by side</h1>
<p>Left: the standard library, CPython {version}. Right: uringloop. A marked line differs for a
reason that has a number: point at it, or follow it to the list, which leads back to each place.
What a side lacks is said where it would stand.</p>
</header>
{body}
<footer><p>The sources at the left are CPython's, © Python Software Foundation, under its
license.</p></footer>
</main>
</body>
</html>
"""


_STYLE = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --panel: #f5f6f8; --line: #dfe2e8; --ink: #1f2430; --faint: #667085;
  --link: #1d5fbf; --mark: #9a3b00; --mark-ground: #fff1e3; --target: #ffe9a8;
  --k: #7a2fb5; --s: #1a6b3c; --c: #667085; --n: #9a4a00; --a: #8a5a00; --d: #1d5fbf;
  --b: #0b6a75; --t: #0b6a75;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #15181e; --panel: #1c2028; --line: #323845; --ink: #d9dde6; --faint: #939cad;
    --link: #82b4ff; --mark: #ffb27a; --mark-ground: #3a2718; --target: #5a4a12;
    --k: #cda4f5; --s: #93d3a2; --c: #939cad; --n: #f0b37e; --a: #e3c078; --d: #82b4ff;
    --b: #7fd0d8; --t: #7fd0d8;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; display: grid; grid-template-columns: 16rem minmax(0, 1fr);
  background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
}
a { color: var(--link); text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; }
code, pre, nav ol ol, .columns > span, dt, .places {
  font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
}
code { font-size: 0.92em; }
main { padding: 0 1.25rem 4rem; }
header, footer { max-width: 52rem; }
footer { margin-top: 3rem; color: var(--faint); }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 1.5rem 0 0.5rem; }

nav {
  position: sticky; top: 0; height: 100vh; overflow: auto; padding: 1rem;
  border-right: 1px solid var(--line); background: var(--panel); font-size: 13px;
}
nav ol { list-style: none; margin: 0; padding: 0; }
h2 { font-size: 1rem; }
nav > ol > li { margin-bottom: 1rem; font-weight: 600; }
nav ol ol { font-weight: normal; font-size: 12px; overflow-wrap: anywhere; }
nav ol ol > li { margin-top: 0.4rem; }
nav ol ol ol { padding-left: 0.9rem; }
nav ol ol ol > li { margin-top: 0; }
nav small { color: var(--mark); font-size: 0.85em; }

.columns { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 0 1rem; }
.columns > span { overflow-wrap: anywhere; }
h2.columns {
  position: sticky; top: 0; z-index: 1; margin: 2.5rem 0 1rem; padding: 0.5rem 0;
  background: var(--ground); border-bottom: 2px solid var(--line);
}
h3.columns, h4.columns, h5.columns { margin: 0; font-size: 13px; font-weight: 600; }
h3.columns {
  margin-top: 2rem; padding: 0.4rem 0; border-top: 1px solid var(--ink); font-size: 14px;
}
h4.columns, h5.columns {
  margin-top: 1rem; padding: 0.3rem 0 0.1rem; border-top: 1px solid var(--line);
  color: var(--faint); font-weight: normal;
}
.self { margin-left: 0.5em; opacity: 0; }
.columns:hover > span > .self, .self:focus-visible { opacity: 1; }

pre {
  margin: 0; background: var(--panel); font-size: 12px; line-height: 1.45;
  white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 8;
}
pre.code { padding-bottom: 0.4rem; }
pre.above { align-self: end; }
/* A long line goes on deeper than it began; its number stands at the left. */
pre > span {
  display: block; position: relative;
  --deeper: min((var(--i, 0) + 4) * 1ch, 40%);
  padding: 0 0.5rem 0 calc(6ch + var(--deeper)); text-indent: calc(-1 * var(--deeper));
}
pre > span::before {
  content: attr(data-n); position: absolute; left: 0; width: 5ch; text-align: right;
  text-indent: 0; color: var(--faint); font-size: 0.85em; line-height: 1.7;
}
.k { color: var(--k); } .s { color: var(--s); } .n { color: var(--n); } .a { color: var(--a); }
.c { color: var(--c); font-style: italic; } .d { color: var(--d); font-weight: 600; }
.b { color: var(--b); } .t { color: var(--t); }
.absent {
  align-self: start; padding: 0.5rem 0.75rem; border: 1px dashed var(--line); color: var(--faint);
  font-style: italic; font-size: 13px;
}

.marked { background: var(--mark-ground); box-shadow: -3px 0 var(--mark); }
.mark, .notes dt, .list dt { color: var(--mark); font-weight: 700; font-style: normal; }
.notes a { color: inherit; }
.mark { position: relative; text-decoration: underline dotted; }
.card {
  display: none; position: absolute; right: -1rem; top: 1.6em; z-index: 2;
  width: min(26rem, 60vw); padding: 0.6rem 0.8rem; border: 1px solid var(--mark);
  border-radius: 4px; background: var(--ground); color: var(--ink); box-shadow: 0 4px 16px #0004;
  font: 13px/1.45 system-ui, sans-serif; text-indent: 0; white-space: normal;
}
.mark:hover .card, .mark:focus-visible .card { display: block; }
dl {
  margin: 0; display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 0.3rem 0.9rem;
}
dt { font-size: 12px; line-height: 1.7; }
dd { margin: 0; font-size: 13px; }
.notes { padding: 0.4rem 0.75rem; border-left: 3px solid var(--mark); }
.list { margin: 1rem 0 1.5rem; max-width: 60rem; }
.list h3 { font-size: 14px; margin: 0 0 0.5rem; }
.places { display: block; font-size: 11.5px; }
.places a { margin-right: 1.2em; }

[id] { scroll-margin-top: 3.5rem; }
pre > :target, dt:target { background: var(--target); }
.entry:target > .columns:first-child { background: var(--target); }

@media (max-width: 85rem) {
  body { display: block; }
  nav { position: static; height: auto; max-height: 40vh; border: 0; }
  nav > ol > li > ol { columns: 14rem; }
}
@media (max-width: 45rem) {
  main { padding: 0 0.5rem 3rem; }
  .columns { grid-template-columns: minmax(0, 1fr); }
  .card { position: fixed; left: 1rem; right: 1rem; top: auto; bottom: 1rem; width: auto; }
}
@media print {
  body { display: block; }
  nav { display: none; }
  h2.columns { position: static; }
}
"""
