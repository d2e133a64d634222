"""Pairs the stdlib's classes and methods with ours, and finds the pair that a name means.

Mirrors nothing. It owns the pairing of the two sides, by the table in `mirror`; how a pair is shown
is `two_columns`'s and `html_page`'s. Both sides are read as text, the stdlib's from the installed
Python: asyncio's Windows modules can't be imported here, and ours can be read without a ring.
"""

import asyncio
import difflib
import functools
from dataclasses import dataclass, field
from pathlib import Path

from . import mirror, pyx_scanner

C_NOTE = f"C, in {mirror.C_SOURCE} of CPython's sources, which are not installed with Python"


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
        entry.left_note = C_NOTE
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
