"""The side by side as text in two columns, for `python -m uringloop side-by-side [NAME]`.

Mirrors nothing. It owns the layout, of a class or method and of the table of all that is mirrored.
What belongs to what is `pairing`'s.
"""

import re
import textwrap

from . import mirror, pairing

_SEPARATOR = " | "


def show(name=None, width=160):
    """Return the text: a class or method in two columns of `width` together, or the whole table."""
    if name is None:
        return "\n".join(_table(width)) + "\n"
    entry = pairing.find(name)
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
    for title, section in pairing.entries():
        rows = _rows(section)
        left, right = (max(len(row[side]) for row in rows) for side in (0, 1))
        yield ""
        yield title
        for theirs, ours, note in rows:
            yield from _hang(f"  {theirs:<{left}}  {ours:<{right}}  ", note, width)
    yield ""
    yield "Absent constants and aliases"
    shown = {entry.stdlib for entry in pairing.every_entry()}
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
    notes += [note for note in (entry.right_note, entry.left_note) if note and note != pairing.C_NOTE]
    return " ".join(notes)
