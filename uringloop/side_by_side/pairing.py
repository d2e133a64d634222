"""Prints the stdlib's source of a mirrored class or method beside ours.

Mirrors nothing. It owns the pairing of the two sides, by the table in `mirror`, and the layout in
two columns. Both sides are read as text, the stdlib's from the installed Python: asyncio's Windows
modules can't be imported here, and ours can be read without a ring. `main` in `__main__` calls
`show`.
"""

import asyncio
import difflib
import functools
import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from . import mirror, pyx_scanner

_SEPARATOR = " | "
_C_NOTE = f"C, in {mirror.C_SOURCE} of CPython's sources, which are not installed with Python"


class NameNotFound(LookupError):
    """The name is unknown, or several things bear it; the text says so, with suggestions."""


@dataclass(frozen=True)
class Source:
    """A source file on either side; label is how it is called in the output."""

    label: str
    module: pyx_scanner.Module


@dataclass
class Entry:
    """A class or function on both sides; a side that lacks it has a name or None, and no item."""

    stdlib: str | None
    ours: str | None
    left: pyx_scanner.Item | None = None
    left_source: Source | None = None
    right: pyx_scanner.Item | None = None
    right_source: Source | None = None
    left_note: str = ""         # why a side has no item
    right_note: str = ""
    members: list["Entry"] = field(default_factory=list)

    def numbers(self, with_members=True):
        """Return the numbers of its differences, each once, in the order of the list.

        A method without any has those that its class says of itself.
        """
        if self.right is None:
            return []
        module = self.right_source.module
        marks = _marks_of(module, self.right, with_members)
        if not marks:
            marks = [mark for owner in module.find(self.right.owner)
                     for mark in _marks_of(module, owner, with_members=False)]
        used = {number for mark in marks for number in mark.names}
        listed = [number for number in module.differences if number in used]
        return listed + sorted(used.difference(listed))

    def changed(self):
        """Return the reasons for changed parameters of it and of its members."""
        names = [self.stdlib, *(member.stdlib for member in self.members)]
        changed = [(name, *mirror.CHANGED[name]) for name in names if name in mirror.CHANGED]
        return changed + [(name, f"..., {parameter}", reason) for name in names
                          for parameter, reason in mirror.LATER_PARAMETERS.get(name, {}).items()]


def _marks_of(module, item, with_members):
    members = () if with_members else item.members
    return [mark for mark in module.marks_of(item, "differs")
            if not any(member.first <= mark.line <= member.last for member in members)]


@functools.cache
def stdlib_source(name):
    """Scan a module of the installed asyncio; None where this Python has no such source file."""
    path = Path(asyncio.__file__).with_name(f"{name}.py")
    return _source(path, f"asyncio/{path.name}") if path.exists() else None


@functools.cache
def our_source(name):
    """Scan a source file that is installed with this package; None where it is not there."""
    path = Path(__file__).parents[1] / name
    return _source(path, f"uringloop/{name}") if path.exists() else None


def _source(path, label):
    return Source(label, pyx_scanner.scan(path.read_text(encoding="utf-8")))


# -- what belongs to what --


@functools.cache
def entries():
    """Return the sections of the table: [(title, [Entry, ...]), ...], classes with members."""
    sections = []
    for pair in mirror.MODULES:
        theirs = stdlib_source(Path(pair.stdlib).stem)
        ours = our_source(pair.ours)
        if theirs is None or ours is None:
            missing = pair.stdlib if theirs is None else f"uringloop/{pair.ours}"
            raise FileNotFoundError(f"{missing} is not installed: there is nothing to compare")
        pairing = _whole(theirs, ours) if pair.whole else _overrides(theirs, ours)
        sections.append((f"{pair.stdlib} and uringloop/{pair.ours}", pairing))
    ours = our_source(mirror.C_OURS)
    if ours is not None:
        sections.append((f"{mirror.C_SOURCE} and uringloop/{mirror.C_OURS}", _c_names(ours)))
    return sections


def _whole(theirs, ours):
    """Pair every class and function of the stdlib's module, then what only ours has."""
    result = []
    for item in theirs.module.items:
        entry = _pair(item, theirs, ours, ours.module.items)
        if item.is_class and entry.right is not None and entry.right.is_class:
            paired = [_pair(member, theirs, ours, entry.right.members) for member in item.members]
            entry.members = paired + _extras(entry.right.members, paired, ours)
        elif entry.right is None:
            entry.members = [Entry(m.qualname, None, m, theirs, right_note=entry.right_note)
                             for m in item.members]
        result.append(entry)
    for entry in _extras(ours.module.items, result, ours):
        entry.members = [_extra(member, ours) for member in entry.right.members]
        result.append(entry)
    return result


def _extras(items, paired, ours):
    """Make entries of ours that found no counterpart by their names.

    Of two arms of an `if` there is one, that of the installed Python.
    """
    names = [entry.right.qualname for entry in paired if entry.right is not None]
    entries = {}
    for item in items:
        if item.qualname not in names:
            entry = _extra(item, ours)
            if item.qualname not in entries or entry.left is not None:
                entries[item.qualname] = entry
    return list(entries.values())


def _overrides(theirs, ours):
    """Pair what ours has with what its marks name."""
    result = []
    for item in ours.module.items:
        entry = _extra(item, ours)
        if item.is_class and entry.stdlib is None:
            # The class that it refines: its first base.
            base = item.arguments.partition(",")[0].rpartition(".")[2].strip()
            found = theirs.module.find(base)
            if found:
                entry.stdlib, entry.left, entry.left_source = base, found[0], theirs
                entry.left_note = ""
        entry.members = [_extra(member, ours) for member in item.members]
        result.append(entry)
    return result


def _c_names(ours):
    result = []
    for theirs, name in mirror.C_NAMES.items():
        found = ours.module.find(name)
        if found:
            entry = Entry(theirs, name, right=found[0], right_source=ours)
        else:
            entry = Entry(theirs, name, right_note="an attribute, declared in _overlapped.pxd")
        result.append(entry)
    result += [Entry(theirs, None, right_note=f"absent: {reason}")
               for theirs, reason in mirror.C_ABSENT.items()]
    for entry in result:
        entry.left_note = _C_NOTE
    return result


def _pair(item, theirs, ours, candidates):
    reason = mirror.absence(item.qualname)
    name = mirror.our_name(item.qualname)
    if reason is not None:
        return Entry(item.qualname, None, item, theirs, right_note=f"absent: {reason}")
    place = mirror.LAZY.get(name, name).rpartition(".")[2]
    # Two arms of an `if` may have it, and the mark says which of them is the mirror.
    found = sorted((candidate for candidate in candidates if candidate.name == place),
                   key=lambda candidate: candidate.mirrors is None)
    if not found:
        return Entry(item.qualname, name, item, theirs, right_note="missing")
    return Entry(item.qualname, name, item, theirs, found[0], ours)


def _extra(item, ours):
    """Make an entry of what its own side alone decides: its mark names a counterpart, or none."""
    entry = Entry(None, item.qualname, right=item, right_source=ours)
    if item.mirrors:
        entry.stdlib = item.mirrors
        entry.left, entry.left_source = locate(item.mirrors)
        if entry.left is None:
            when = mirror.SOME_PYTHONS.get(item.mirrors)
            entry.left_note = "not in this Python's asyncio" + (f", {when}" if when else "")
    else:
        entry.left_note = "ours: no counterpart in the stdlib"
    return entry


def locate(name):
    """Find a class or method of the installed asyncio: (item, source), or (None, None)."""
    own = [Path(pair.stdlib).stem for pair in mirror.MODULES]
    for module in dict.fromkeys([*own, *mirror.INHERITED]):
        source = stdlib_source(module)
        found = source.module.find(name) if source else ()
        if found:
            return found[0], source
    return None, None


def every_entry():
    """Return all entries, members after their class."""
    return [entry for _, section in entries() for parent in section
            for entry in (parent, *parent.members)]


# -- finding a name --


def find(name):
    """Return the entry that a user's words mean.

    Raises NameNotFound, with suggestions, where there is none, or more than one.

    `recv`, `IocpProactor.recv`, `IouringProactor.recv`, `proactor.recv`, `uringloop.recv()` are
    all the same. A closer match goes before a looser one.
    """
    candidates = every_entry()
    wanted = _without_modules(name.strip().removesuffix("()"))
    for matches in (_is_named, _is_member_named, _is_loosely_named, _is_class_like):
        found = [entry for entry in candidates if matches(entry, wanted)]
        # What stands on both sides is what most people mean.
        found = [entry for entry in found if entry.left and entry.right] or found
        if len(found) == 1:
            return found[0]
        if found:
            raise NameNotFound(f"{name!r} may be any of: {_join(found)}")
    words = {}
    for entry in candidates:
        for full in (entry.stdlib, entry.ours):
            if full:
                words.setdefault(full.rpartition(".")[2], []).append(entry)
                words.setdefault(full, []).append(entry)
    close = difflib.get_close_matches(wanted, words, n=5, cutoff=0.6)
    suggested = list({id(entry): entry for word in close for entry in words[word]}.values())
    hint = f"; did you mean: {_join(suggested[:8])}?" if suggested else ""
    raise NameNotFound(f"nothing here is called {name!r}{hint}\n"
                       "Without a name, the command lists all names.")


def _join(found):
    return ", ".join(dict.fromkeys(entry.stdlib or entry.ours for entry in found))


def _without_modules(name):
    modules = {"asyncio", "uringloop", "_overlapped", *mirror.INHERITED}
    for pair in mirror.MODULES:
        modules |= {Path(pair.stdlib).stem, Path(pair.ours).stem}
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in modules:
        parts = parts[1:]
    return ".".join(parts)


def _is_named(entry, wanted):
    return wanted in (entry.stdlib, entry.ours)


def _is_member_named(entry, wanted):
    return any(full and full.rpartition(".")[2] == wanted for full in (entry.stdlib, entry.ours))


def _is_loosely_named(entry, wanted):
    owner, dot, member = (_loose(part) for part in wanted.rpartition("."))
    for full in (entry.stdlib, entry.ours):
        if not full:
            continue
        full_owner, full_dot, full_member = (_loose(part) for part in full.rpartition("."))
        if full_member == member and (full_dot or not dot) and owner in full_owner:
            return True
    return False


def _is_class_like(entry, wanted):
    return any(full and "." not in full and _loose(wanted) in _loose(full)
               for full in (entry.stdlib, entry.ours))


def _loose(word):
    return word if word == "." else word.casefold().replace("_", "")


# -- two columns --


def show(name=None, width=160):
    """Return the text: a class or method in two columns of `width` together, or the whole table."""
    if name is None:
        return "\n".join(_table(width)) + "\n"
    entry = find(name)
    return "\n".join([*_columns(entry, width), "", *_differences(entry, width)]) + "\n"


def _columns(entry, width):
    column = (width - len(_SEPARATOR)) // 2
    yield from _row([_kind(entry.stdlib, entry.left) or "not in the stdlib"],
                    [_kind(entry.ours, entry.right) or "not here"], column)
    yield from _row(_place(entry.left, entry.left_source), _place(entry.right, entry.right_source),
                    column)
    yield _rule(column)
    if not any(member.left or member.right for member in entry.members):
        yield from _aligned(_text(entry, "left"), _text(entry, "right"), column)
        return
    yield from _aligned(_head(entry, "left"), _head(entry, "right"), column)
    for member in entry.members:
        right = _text(member, "right") if entry.right is not None else [""]
        yield _rule(column, _line(member.left), _line(member.right))
        yield from _aligned(_text(member, "left"), right, column)


def _place(item, source):
    if item is None:
        return [""]
    under = f" (under `{item.condition}`)" if item.condition else ""
    return [f"{source.label}:{item.header}{under}"]


def _line(item):
    return str(item.header) if item else ""


def _text(entry, side):
    """Return one side's lines, or why it has none."""
    item = getattr(entry, side)
    if item is not None:
        return _dedented(getattr(entry, f"{side}_source").module.text_of(item))
    note = getattr(entry, f"{side}_note")
    return [f"({note})"] if note else [""]


def _head(entry, side):
    """Return a class's lines before its first member: comments, docstring, attributes."""
    item = getattr(entry, side)
    if item is None:
        return _text(entry, side)
    lines = getattr(entry, f"{side}_source").module.text_of(item)
    if item.members:
        end = min(member.first for member in item.members)
        # The condition and the comment of what follows belong to that.
        lines = lines[:end - item.first]
        while lines and re.match(r"\s*(?:#|if\b|else\b|try\b|$)", lines[-1]) and len(lines) > 1:
            lines = lines[:-1]
    return _dedented(lines)


def _dedented(lines):
    """Take the common indentation away, and the marks that the title repeats."""
    text = textwrap.dedent("\n".join(line.expandtabs() for line in lines))
    return [line for line in text.split("\n") if not line.startswith("# stdlib:")]


def _aligned(left, right, column):
    """Yield rows with the two headers on one line, the comments above them on the lines before."""
    above, below = [], []
    for lines in (left, right):
        start = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
        above.append([part for line in lines[:start] for part in wrap(line, column)])
        below.append(lines[start:])
    height = max(map(len, above))
    yield from _row(*([""] * (height - len(lines)) + lines for lines in above), column)
    yield from _row(*below, column)


def _row(left, right, column):
    """Yield lines of two columns, long lines of either wrapped."""
    left = [part for line in left for part in wrap(line, column)]
    right = [part for line in right for part in wrap(line, column)]
    for number in range(max(len(left), len(right))):
        first = left[number] if number < len(left) else ""
        second = right[number] if number < len(right) else ""
        yield f"{first:<{column}}{_SEPARATOR}{second}".rstrip()


def _rule(column, left="", right=""):
    """Return a line between rows, with the line numbers of what follows."""
    first = f"- {left} " if left else ""
    second = f" {right} " if right else ""
    return f"{first:-<{column + 1}}+{second:-<{column + 1}}"


def wrap(line, width):
    """Break a line of code after a blank, indented deeper and with a backslash at each break.

    Where no blank is near, the break comes after a comma, a dot or a parenthesis. A comment goes on
    as a comment instead.
    """
    line = line.rstrip()
    blanks = len(line) - len(line.lstrip())
    if line.lstrip().startswith("#"):
        hanging, sign = " " * min(blanks, width // 2) + "# ", ""
    else:
        hanging, sign = " " * min(blanks + 8, width // 2), " \\"
    room = width - len(sign)
    parts = []
    while len(line) > width:
        start = len(hanging) if parts else blanks
        cut = line.rfind(" ", max(start, room // 2), room + 1)
        if cut < 0:
            cut = max(line.rfind(after, start, room) for after in " ,.([{") + 1
        if cut <= start:
            cut = room
        parts.append(line[:cut].rstrip() + sign)
        line = hanging + line[cut:].lstrip()
    return [*parts, line]


def _differences(entry, width):
    """Yield the numbered differences of an entry and the reasons for changed parameters."""
    listed = entry.right_source.module.differences if entry.right else {}
    reasons = [(number, listed.get(number, "(not in the list at the head of the file)"))
               for number in entry.numbers()]
    reasons += [("parameters", f"{name}({parameters}): {reason}")
                for name, parameters, reason in entry.changed()]
    if entry.right is None:
        yield from textwrap.wrap(f"{entry.stdlib}: {entry.right_note}", width)
        return
    if entry.left is None:
        yield from textwrap.wrap(f"{entry.ours}: {entry.left_note}", width)
    if reasons:
        yield "Differences:"
        yield from _definitions(reasons, width)
    elif entry.left is not None:
        yield "No numbered differences."


def _definitions(pairs, width):
    for term, text in pairs:
        yield from textwrap.wrap(text, width, initial_indent=f"  {term:<4} ",
                                 subsequent_indent=" " * 7, break_on_hyphens=False)


# -- the table --


def _table(width):
    yield from textwrap.wrap(
        "What mirrors what: the standard library on the left, uringloop on the right, then the "
        "numbers of the differences. `python -m uringloop side-by-side NAME` shows one of them.",
        width)
    for title, section in entries():
        rows = _rows(section)
        left, right = (max(len(row[side]) for row in rows) for side in (0, 1))
        yield ""
        yield title
        for theirs, ours, note in rows:
            yield from _hang(f"  {theirs:<{left}}  {ours:<{right}}  ", note, width)
    yield ""
    yield "Absent constants and aliases"
    shown = {entry.stdlib for entry in every_entry()}
    for name, reason in mirror.ABSENT.items():
        if not shown & {name, f"_{name}", name.removeprefix("_")}:
            yield from _hang(f"  {name}  ", reason, width)
    yield ""
    yield "Renamed attributes"
    for theirs, ours in mirror.ATTRIBUTES.items():
        yield f"  {theirs}  {ours}"
    yield ""
    yield "Changed parameters (ours)"
    for name, (parameters, reason) in mirror.CHANGED.items():
        yield f"  {mirror.our_name(name)}({parameters})"
        yield from textwrap.wrap(reason, width, initial_indent="    ", subsequent_indent="    ")


def _hang(line, note, width):
    """Yield a row with its note; the note below it where there is no room for it."""
    if not note:
        yield line.rstrip()
    elif len(line) + len(note) <= width or len(line) + 30 <= width:
        yield from textwrap.wrap(note, width, initial_indent=line,
                                 subsequent_indent=" " * len(line))
    else:
        yield line.rstrip()
        yield from textwrap.wrap(note, width, initial_indent="      ", subsequent_indent="      ")


def _rows(section):
    """Return (stdlib, ours, note) of the entries that belong in a table: no helpers of ours."""
    result = []
    for entry in section:
        members = [m for m in entry.members if m.stdlib and entry.right is not None]
        if entry.stdlib is None and not members:
            continue
        theirs, ours = (_kind(name, item) for name, item in ((entry.stdlib, entry.left),
                                                             (entry.ours, entry.right)))
        result.append((theirs, ours, _note(entry, with_members=not members)))
        for member in members:
            owner, _, name = (member.stdlib or "").rpartition(".")
            theirs = f"  {name}" if owner == entry.stdlib else f"  {member.stdlib}"
            ours = "  " + member.ours.rpartition(".")[2] if member.ours else ""
            result.append((theirs, ours, _note(member)))
    return result


def _kind(name, item):
    is_class = item is not None and item.is_class or name in mirror.LAZY
    return f"class {name}" if name and is_class else name or ""


def _note(entry, with_members=True):
    notes = entry.numbers(with_members)
    notes += [note for note in (entry.right_note, entry.left_note) if note and note != _C_NOTE]
    return " ".join(notes)
