"""Holds the headers of our sources to the installed stdlib's.

The table is `uringloop.side_by_side.mirror`. The stdlib is read with `ast`, ours with the
`pyx_scanner` beside it; bodies are never compared. What the installed asyncio has is
what counts, so the same check serves every version of Python.
"""

import ast
import asyncio
from dataclasses import dataclass, field
from inspect import Parameter
from pathlib import Path

from uringloop.side_by_side import mirror, pyx_scanner


@dataclass(frozen=True)
class Problem:
    """kind: missing, order, parameters, form, extra, mark, list or table."""

    kind: str
    name: str
    text: str
    line: int

    def __str__(self):
        return f"line {self.line}: {self.name}: {self.kind}: {self.text}"


@dataclass
class Header:
    """A class or function, or a name that a module assigns, as `ast` sees it."""

    kind: str
    name: str
    owner: str
    parameters: tuple
    decorators: tuple
    line: int
    last: int
    members: list = field(default_factory=list)

    @property
    def qualname(self):
        return f"{self.owner}.{self.name}" if self.owner else self.name


class Stdlib:
    """The headers of asyncio's modules; `sources` takes the place of some of the installed ones."""

    def __init__(self, sources=None):
        self._sources = sources or {}
        self._modules = {}

    def headers(self, name):
        if name not in self._modules:
            source = self._sources.get(name)
            if source is None:
                path = Path(asyncio.__file__).with_name(f"{name}.py")
                source = path.read_text(encoding="utf-8") if path.exists() else ""
            self._modules[name] = list(headers(ast.parse(source).body))
        return self._modules[name]

    def find(self, qualname, modules):
        for module in modules:
            for header in self.headers(module):
                for candidate in (header, *header.members):
                    if candidate.qualname == qualname:
                        return candidate
        return None


def headers(body, owner=""):
    """Yield the classes and functions of an `ast` body, also those under an `if` and the like."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield Header("class", node.name, owner, (), _decorators(node), node.lineno,
                         node.end_lineno, list(headers(node.body, node.name)))
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            kind = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
            yield Header(kind, node.name, owner, _parameters(node.args), _decorators(node),
                         node.lineno, node.end_lineno)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            # Only those that the table names are looked at: ours has none that a scanner sees.
            if mirror.absence(node.targets[0].id) and not owner:
                yield Header("name", node.targets[0].id, owner, (), (), node.lineno,
                             node.end_lineno)
        else:
            for name in ("body", "handlers", "orelse", "finalbody"):
                yield from headers(getattr(node, name, ()), owner)


def _decorators(node):
    return tuple(ast.unparse(decorator) for decorator in node.decorator_list)


def _parameters(args):
    def default(node):
        return None if node is None else ast.unparse(node)

    positional = [(arg.arg, Parameter.POSITIONAL_ONLY) for arg in args.posonlyargs]
    positional += [(arg.arg, Parameter.POSITIONAL_OR_KEYWORD) for arg in args.args]
    defaults = [None] * (len(positional) - len(args.defaults)) + args.defaults
    result = [(name, kind, default(node)) for (name, kind), node in zip(positional, defaults)]
    if args.vararg:
        result.append((args.vararg.arg, Parameter.VAR_POSITIONAL, None))
    result += [(arg.arg, Parameter.KEYWORD_ONLY, default(node))
               for arg, node in zip(args.kwonlyargs, args.kw_defaults)]
    if args.kwarg:
        result.append((args.kwarg.arg, Parameter.VAR_KEYWORD, None))
    return tuple(result)


def normal(parameters):
    """Return the scanner's parameters in the form that this module has the stdlib's in."""
    return tuple((p.name, p.kind, None if p.default is None
                  else ast.unparse(ast.parse(f"({p.default})", mode="eval"))) for p in parameters)


def _written(parameters):
    return pyx_scanner.signature([pyx_scanner.Parameter(*p) for p in parameters])


def check(source, pair, stdlib=None):
    """Return the Problems of one of our sources against its counterpart, in order of its lines."""
    checker = _Checker(source, pair, stdlib or Stdlib())
    checker.run()
    return sorted(checker.problems, key=lambda problem: (problem.line, problem.kind))


class _Checker:
    def __init__(self, source, pair, stdlib):
        self.problems = []
        self._ours = pyx_scanner.scan(source)
        self._whole = pair.whole
        self._own = Path(pair.stdlib).stem
        self._stdlib = stdlib
        self._matched = []      # items that _sequence() has dealt with

    def run(self):
        if self._whole:
            self._check_whole()
        self._check_marks()
        self._check_list()

    def _report(self, kind, name, text, line):
        self.problems.append(Problem(kind, name, text, line))

    # -- a module that ours has the whole of --

    def _check_whole(self):
        theirs = self._stdlib.headers(self._own)
        pairs = self._check_sequence(theirs, self._ours.items, 1, len(self._ours.lines), 1)
        for header, item in pairs:
            if header.kind == "class" and item.is_class:
                self._check_sequence(header.members, item.members, item.first, item.last,
                                     item.header)

    def _check_sequence(self, theirs, items, first, last, line):
        """Hold a class's members, or a module's, to the stdlib's; return [(header, item), ...]."""
        absent = {}
        for mark in self._ours.marks:
            if mark.kind == "absent" and first <= mark.line <= last:
                absent.setdefault(mark.names[0], mark)
        pairs, places = [], []
        for index, header in enumerate(theirs):
            ours = mirror.our_name(header.qualname)
            name = mirror.LAZY.get(ours, ours).rpartition(".")[2]
            # Two arms of an `if` may have it, and the mark says which of them is the mirror.
            named = [item for item in items if item.name == name]
            found = [item for item in named if item.mirrors == header.qualname] \
                or [item for item in named if not item.condition]
            if mirror.absence(header.qualname):
                if found:
                    self._report("table", header.qualname, "an absence in the table, but here",
                                 found[0].header)
                # Policies have an underscore from 3.14 on.
                mark = absent.get(header.qualname) or absent.get(header.name.removeprefix("_"))
                if mark is None:
                    self._report("mark", header.qualname,
                                 f"no `# absent: {header.qualname}`", line)
                else:
                    places.append((mark.line, index, header.qualname))
            elif not found:
                self._report("missing", ours, f"the stdlib has {header.qualname}", line)
            else:
                for item in found:
                    pairs.append((header, item))
                    self._matched.append(item)
                    self._check_pair(header, item)
                places.append((found[0].header, index, found[0].qualname))
        self._check_order(places, theirs)
        for item in items:
            self._check_extra(item, theirs)
        return pairs

    def _check_order(self, places, theirs):
        places.sort()
        kept = _longest_increasing([index for _, index, _ in places])
        for position, (line, index, name) in enumerate(places):
            if position not in kept:
                before = f"after {theirs[index - 1].name}" if index else "first"
                self._report("order", name, f"in the stdlib it stands {before}", line)

    def _check_pair(self, header, item):
        if item.ours:
            self._report("order", item.qualname, "mirrored, but after the banner", item.header)
        if f"_{item.mirrors}" != header.qualname != item.mirrors:
            self._report("mark", item.qualname, f"no `# stdlib: {header.qualname}` directly above",
                         item.header)
        self._check_header(header, item)

    def _check_header(self, header, item):
        if item.name in mirror.LAZY.values():
            return      # A function for a class.
        if header.kind == "class" or item.is_class:
            if not (header.kind == "class" and item.is_class):
                self._report("form", item.qualname, f"{item.kind}, the stdlib's is a "
                             f"{header.kind}", item.header)
            return
        theirs, ours = _form(header), _form(item)
        if theirs != ours:
            self._report("form", item.qualname, f"{ours}, the stdlib's is {theirs}", item.header)
        expected, whose = header.parameters, "the stdlib has"
        if header.qualname in mirror.CHANGED:
            expected = normal(pyx_scanner.parse_parameters(mirror.CHANGED[header.qualname][0]))
            whose = "the table of changes has"
            if expected == header.parameters:
                self._report("table", header.qualname, "listed as changed, but the same",
                             item.header)
        found = normal(item.parameters)
        later = mirror.LATER_PARAMETERS.get(header.qualname, {})
        found = _without_later(found, expected, later)
        earlier = mirror.EARLIER_PARAMETERS.get(header.qualname, ())
        if expected in [normal(pyx_scanner.parse_parameters(text)) for text in earlier]:
            # This Python has not got to the form that ours has; that it takes everything is what counts.
            expected = (*expected[:2], ("kwargs", Parameter.VAR_KEYWORD, None))
        if found != expected:
            self._report("parameters", item.qualname,
                         f"{_written(found)}, {whose} {_written(expected)}", item.header)

    def _check_extra(self, item, theirs):
        names = {mirror.our_name(header.qualname) for header in theirs}
        if (item.qualname in names or item.name in mirror.LAZY.values() or item.ours
                or item.kind in ("cdef", "cpdef") or item.name in mirror.HOOKS):
            return
        elsewhere = {mirror.our_name(name) for name in mirror.SOME_PYTHONS}
        if item.qualname not in elsewhere:
            self._report("extra", item.qualname, "no counterpart in the stdlib, and neither after "
                         "the banner nor marked `# ours:`", item.header)

    # -- marks --

    def _check_marks(self):
        modules = [self._own, *(Path(pair.stdlib).stem for pair in mirror.MODULES),
                   *mirror.INHERITED]
        others = {}
        mirroring = {item.owner for item in self._ours.walk() if item.mirrors}
        mirroring |= {item.name for item in self._ours.items if item.mirrors}
        for item in self._ours.walk():
            if item.mirrors is None:
                # A class that mirrors nothing at all is plainly ours.
                if not self._whole and item.owner in mirroring:
                    self._check_unmarked(item)
                continue
            header = self._stdlib.find(item.mirrors, modules) \
                or self._stdlib.find(f"_{item.mirrors}", modules)
            if header is None:
                if item.mirrors not in mirror.SOME_PYTHONS and not item.condition:
                    self._report("mark", item.qualname,
                                 f"`# stdlib: {item.mirrors}`: there is none", item.header)
            elif not any(item is matched for matched in self._matched):
                self._check_named(header, item)
                others.setdefault((item.owner, header.owner), []).append(
                    (item.header, header.line, item.qualname))
        for places in others.values():
            places.sort()
            kept = _longest_increasing([line for _, line, _ in places])
            for position, (line, _, name) in enumerate(places):
                if position not in kept:
                    self._report("order", name, "not in the stdlib's order", line)
        for mark in self._ours.marks:
            self._check_mark(mark)

    def _check_unmarked(self, item):
        if not (item.ours or item.is_class or item.kind in ("cdef", "cpdef")
                or item.name in mirror.HOOKS):
            self._report("extra", item.qualname, "no `# stdlib:` above it, and neither after the "
                         "banner nor marked `# ours:`", item.header)

    def _check_named(self, header, item):
        """Check what a mark alone says to be a counterpart: its header, and the name."""
        name = mirror.our_name(header.qualname).rpartition(".")[2]
        if item.name not in (name, mirror.LAZY.get(name)):
            self._report("mark", item.qualname, f"`# stdlib: {item.mirrors}` has another name",
                         item.header)
        self._check_header(header, item)

    def _check_mark(self, mark):
        if mark.kind == "stdlib" and not any(
                item.first <= mark.line < item.header and item.mirrors == mark.names[0]
                for item in self._ours.walk()):
            self._report("mark", mark.names[0], "`# stdlib:` above no class or function", mark.line)
        elif mark.kind == "absent" and not mirror.absence(mark.names[0]):
            self._report("mark", mark.names[0], "`# absent:`, but not in the table of absences",
                         mark.line)

    def _check_list(self):
        used = set()
        for mark in self._ours.marks:
            if mark.kind == "differs":
                used.update(mark.names)
                for number in mark.names or ("",):
                    if number not in self._ours.differences:
                        self._report("list", number, "not in the list at the head of the file",
                                     mark.line)
        for number in self._ours.differences:
            if number not in used:
                self._report("list", number, "in the list at the head, but nowhere below", 1)
        for number in self._ours.repeated:
            self._report("list", number, "twice in the list at the head", 1)


def _without_later(found, expected, later):
    """Drop what this stdlib has not got yet."""
    names = [name for name, _, _ in expected]
    return tuple(p for p in found if p[0] in names or p[0] not in later or p[2] is None)


def _form(header):
    """`async def`, `@staticmethod def` and the like: what decides how it is called."""
    words = [f"@{word}" for word in header.decorators
             if word in ("staticmethod", "classmethod", "property")]
    return " ".join([*words, header.kind])


def _longest_increasing(numbers):
    """Return the positions of the longest increasing subsequence: the rest is out of order."""
    best, before = [], []
    for position, number in enumerate(numbers):
        length, previous = max(((best[i] + 1, i) for i in range(position) if numbers[i] < number),
                               default=(1, None))
        best.append(length)
        before.append(previous)
    kept = set()
    position = max(range(len(best)), key=best.__getitem__, default=None)
    while position is not None:
        kept.add(position)
        position = before[position]
    return kept
