"""Reads the headers of a `.pyx` or `.py` file: classes, functions, parameters, marks, line spans.

Mirrors nothing: it serves the mirror test and `python -m uringloop side-by-side`. `ast` refuses
Cython's syntax and Cython's own parser is not there at run time, so this scanner knows just enough
of both languages to find where a header starts, what its parameters are and where its body ends.
It never looks into a body, apart from the comments. Nothing here may import Cython, a compiled
module or asyncio.

What it takes from comments:

    # D1: why ...                     an entry of the numbered list at the head of the file;
    #     more of it                  continuation lines are indented by two spaces or more
    # stdlib: IocpProactor.recv       directly above a class or function: what that mirrors
    # differs[D1]: in short           inside or directly above a function; also in a docstring
    # absent: IocpProactor.accept_pipe: why
    # ours: why                       directly above: no counterpart, though before the banner
    # -- ours: no counterpart in the stdlib --        from here on in this class or module
"""

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from inspect import Parameter as _P

# One token of a logical line, as far as it matters here; names are taken whole, so that a string's
# prefix is the name directly before its quote.
_TOKEN = re.compile(r"""[^\\\n#'"()\[\]{}\w]+|\w+|\\\n|.|\n""", re.ASCII)
_STRING_PREFIXES = re.compile(r"[rbufct]{1,2}", re.IGNORECASE)

_CLASS = re.compile(r"(?P<kind>(?:cdef\s+(?:public\s+|api\s+)*)?class)\s+(?P<name>\w+)")
_DEF = re.compile(r"(?P<kind>async\s+def|def)\s+(?P<name>\w+)")
_CDEF = re.compile(r"(?P<kind>cp?def)\s+(?!(?:extern|struct|enum|union|packed|cppclass)\b)")
_CDEF_NAME = re.compile(r"(\w+)\s*\(")
_COMPOUND = re.compile(r"(?:if|elif|else|try|except|finally|with|for|while)\b")

_ENTRY = re.compile(r"#\s?(?P<number>[A-Z]\d+):\s+(?P<text>.*)")
_MARKS = (
    ("banner", re.compile(r"#\s*-+\s*ours: no counterpart in the stdlib\b(?P<names>)(?P<text>)")),
    ("stdlib", re.compile(r"#\s*stdlib:\s*(?P<names>[\w.]+)(?P<text>.*)")),
    ("absent", re.compile(r"#\s*absent:\s*(?P<names>[\w.]+)(?::\s*(?P<text>.*))?")),
    ("ours", re.compile(r"#\s*ours:(?P<names>)\s*(?P<text>.*)")),
)
_DIFFERS = re.compile(r"\bdiffers\[([^\]]*)\]")
_NUMBER = re.compile(r"[A-Z]\d+")
_CONTINUATION = re.compile(r"#\s{2,}(?P<text>\S.*)")


class ScanError(ValueError):
    """The text is no Python and no Cython: a bracket or a string without its end."""


@dataclass(frozen=True)
class Comment:
    line: int
    column: int
    text: str       # from the '#' on
    alone: bool     # nothing else on its line


@dataclass(frozen=True)
class Mark:
    """A comment that says how the code stands to the stdlib's."""

    kind: str       # banner, stdlib, differs, absent, ours
    names: tuple[str, ...]
    text: str
    line: int
    last: int       # of its continuation lines
    column: int
    alone: bool


@dataclass(frozen=True)
class Parameter:
    """One parameter: its default is source text, or None where there is none."""

    name: str
    kind: object
    default: str | None = None

    def __str__(self):
        stars = {_P.VAR_POSITIONAL: "*", _P.VAR_KEYWORD: "**"}.get(self.kind, "")
        return stars + self.name + ("" if self.default is None else f"={self.default}")


@dataclass
class Item:
    """A class or a function, with the lines it takes (both ends are inside, the first is 1)."""

    kind: str                   # class, cdef class, def, async def, cdef, cpdef
    name: str
    owner: str                  # the class's name, or ''
    parameters: tuple[Parameter, ...]
    arguments: str              # what stands between the parentheses
    decorators: tuple[str, ...]
    condition: str | None       # 'if ...' or 'else' that it stands under inside its class or module
    first: int                  # of the comments and decorators directly above
    header: int
    last: int
    column: int
    mirrors: str | None = None  # what `# stdlib:` above it names
    ours: bool = False          # after the banner, or `# ours:` above it
    members: list["Item"] = field(default_factory=list)

    @property
    def qualname(self):
        return f"{self.owner}.{self.name}" if self.owner else self.name

    @property
    def is_class(self):
        return self.kind.endswith("class")

    @property
    def signature(self):
        return signature(self.parameters)


@dataclass
class Module:
    """A scanned file."""

    lines: list[str]
    items: list[Item]
    marks: list[Mark]
    differences: dict[str, str]     # number -> text, from the list at the head
    repeated: list[str]             # numbers that the list has twice

    def walk(self):
        """Yield each class and function, members after their class."""
        for item in self.items:
            yield item
            yield from item.members

    def find(self, qualname):
        """Return the items of that name: two where both arms of an `if` define it."""
        return [item for item in self.walk() if item.qualname == qualname]

    def marks_of(self, item, kind):
        """Return the marks of one kind in the lines of an item."""
        return [m for m in self.marks if m.kind == kind and item.first <= m.line <= item.last]

    def text_of(self, item):
        """Return the source lines of an item."""
        return self.lines[item.first - 1:item.last]


def signature(parameters):
    """Write parameters as a header has them: `(self, conn, *, flags=0)`."""
    words, star, slash = [], False, False
    for p in parameters:
        if p.kind == _P.POSITIONAL_ONLY:
            slash = True
        elif slash:
            words.append("/")
            slash = False
        if p.kind == _P.KEYWORD_ONLY and not star:
            words.append("*")
            star = True
        star = star or p.kind == _P.VAR_POSITIONAL
        words.append(str(p))
    if slash:
        words.append("/")
    return f"({', '.join(words)})"


def parse_parameters(text):
    """Read the text between a header's parentheses, Python's or Cython's, into Parameters."""
    mask, plain, _, _ = _mask(f"({text})")
    parameters, kind = [], _P.POSITIONAL_OR_KEYWORD
    for start, end in _split(mask, 1, len(mask) - 1):
        piece, code = mask[start:end].strip(), plain[start:end].strip()
        if not piece:
            continue
        if piece == "/":
            parameters = [Parameter(p.name, _P.POSITIONAL_ONLY, p.default) for p in parameters]
        elif piece == "*":
            kind = _P.KEYWORD_ONLY
        elif piece.startswith("**"):
            parameters.append(Parameter(_name(piece), _P.VAR_KEYWORD))
        elif piece.startswith("*"):
            parameters.append(Parameter(_name(piece), _P.VAR_POSITIONAL))
            kind = _P.KEYWORD_ONLY
        else:
            equals = _find(piece, "=")
            default = None if equals < 0 else code[equals + 1:].strip()
            declaration = piece if equals < 0 else piece[:equals]
            parameters.append(Parameter(_name(declaration), kind, default))
    return tuple(parameters)


def scan(source):
    """Read the text of a `.pyx` or `.py` file and return its Module; ScanError where it can't."""
    mask, plain, comments, strings = _mask(source)
    lines = source.removesuffix("\n").split("\n")
    marks = sorted(_marks(comments) + _differs(comments, strings), key=lambda mark: mark.line)
    differences, repeated = _differences(comments)
    module = Module(lines, [], marks, differences, repeated)
    _Structure(source, mask, plain, comments, marks).fill(module)
    return module


# -- text: strings, comments and brackets --


def _mask(source):
    """Return (mask, plain, comments, strings), both texts as long as the source.

    plain: comments blanked. mask: also strings overwritten, and the line ends that end no logical
    line (in brackets, strings, after a backslash) blanked, so each one left ends a logical line.
    """
    mask, plain, comments, strings = [], [], [], []
    depth, i, word, line, line_start = 0, 0, "", 1, 0
    while i < len(source):
        token = _TOKEN.match(source, i).group()
        end = i + len(token)
        shown = kept = token
        if token == "#":
            end = source.find("\n", i)
            end = len(source) if end < 0 else end
            comments.append(Comment(line, i - line_start, source[i:end].rstrip(),
                                    not source[line_start:i].strip()))
            shown = kept = " " * (end - i)
        elif token in "'\"":
            end = _string_end(source, i, _is_formatted(word))
            kept = source[i:end]
            strings.append((line, kept))
            shown = f"'{'_' * (end - i - 2)}'"
        elif token in "([{":
            depth += 1
        elif token in ")]}":
            depth -= 1
            if depth < 0:
                raise ScanError(f"line {line}: {token!r} closes nothing")
        elif token == "\\\n" or token == "\n" and depth:
            shown = kept = " " * len(token)
        mask.append(shown)
        plain.append(kept)
        newlines = source.count("\n", i, end)
        if newlines:
            line += newlines
            line_start = source.rfind("\n", i, end) + 1
        word = token
        i = end
    if depth:
        raise ScanError("a bracket is not closed")
    return "".join(mask), "".join(plain), comments, strings


def _is_formatted(prefix):
    return (_STRING_PREFIXES.fullmatch(prefix) is not None
            and any(letter in "fFtT" for letter in prefix))


def _string_end(source, start, formatted):
    quote = source[start]
    if source.startswith(quote * 3, start):
        quote *= 3
    i = start + len(quote)
    while i < len(source):
        if source[i] == "\\":
            i += 2
        elif source.startswith(quote, i):
            return i + len(quote)
        elif formatted and source.startswith("{{", i):
            i += 2
        elif formatted and source[i] == "{":
            i = _field_end(source, i + 1, quote)
        elif source[i] == "\n" and len(quote) == 1:
            break
        else:
            i += 1
    line = source.count("\n", 0, start) + 1
    raise ScanError(f"line {line}: a string is not closed")


def _field_end(source, i, quote):
    """Find the end of an f-string's replacement field, which may hold strings of its own."""
    depth, in_format = 0, False
    word = ""
    while i < len(source):
        token = _TOKEN.match(source, i).group()
        if in_format:
            if source[i] == "{":
                i = _field_end(source, i + 1, quote)
            elif source[i] == "}":
                return i + 1
            elif source.startswith(quote, i):
                return i
            else:
                i += 1
            continue
        if token in "'\"":
            i = _string_end(source, i, _is_formatted(word))
        elif token == "#":
            i = source.find("\n", i) + 1 or len(source)
        elif token == "}" and not depth:
            return i + 1
        elif not depth and ":" in token:
            i += token.index(":") + 1
            in_format = True
            continue
        else:
            depth += (token in "([{") - (token in ")]}")
            i += len(token)
        word = token
    raise ScanError("a replacement field is not closed")


def _split(mask, start, end):
    """Yield the spans between the commas outside brackets."""
    depth, first = 0, start
    for i in range(start, end):
        depth += (mask[i] in "([{") - (mask[i] in ")]}")
        if mask[i] == "," and not depth:
            yield first, i
            first = i + 1
    yield first, end


def _find(mask, wanted, start=0):
    """Find a character outside brackets; -1 where there is none."""
    depth = 0
    for i in range(start, len(mask)):
        if mask[i] == wanted and not depth:
            return i
        depth += (mask[i] in "([{") - (mask[i] in ")]}")
    return -1


def _name(declaration):
    """Return the parameter's name in `int fd`, `Overlapped ov not None`, `*args: T`, `char *p`."""
    colon = _find(declaration, ":")
    if colon >= 0:
        declaration = declaration[:colon]
    declaration = re.sub(r"\b(?:not|or)\s+None\s*$", "", declaration)
    return re.findall(r"\w+", declaration)[-1]


# -- comments: the list at the head, marks --


def _following(comments, index, column):
    """Return the continuation lines below comments[index], joined, and the last line's number."""
    words, line = [], comments[index].line
    for comment in comments[index + 1:]:
        match = _CONTINUATION.fullmatch(comment.text)
        if (not comment.alone or comment.line != line + 1 or comment.column != column or not match
                or any(pattern.match(comment.text) for _, pattern in _MARKS)):
            break
        words.append(match["text"])
        line = comment.line
    return words, line


def _differences(comments):
    differences, repeated = {}, []
    for index, comment in enumerate(comments):
        match = comment.alone and not comment.column and _ENTRY.fullmatch(comment.text)
        if match:
            words, _ = _following(comments, index, 0)
            if match["number"] in differences:
                repeated.append(match["number"])
            differences[match["number"]] = " ".join([match["text"].strip(), *words])
    return differences, repeated


def _differs(comments, strings):
    """Find what names numbers; a string, which may quote the form only, has to name real ones."""
    marks = []
    for comment in comments:
        names = [name.strip() for match in _DIFFERS.finditer(comment.text)
                 for name in match[1].split(",")]
        if names:
            marks.append(Mark("differs", tuple(names), comment.text.lstrip("# "), comment.line,
                              comment.line, comment.column, comment.alone))
    for first, text in strings:
        for line, words in enumerate(text.split("\n"), first):
            names = [name for match in _DIFFERS.finditer(words)
                     for name in _NUMBER.findall(match[1])]
            if names:
                marks.append(Mark("differs", tuple(names), words.strip(), line, line, 0, False))
    return marks


def _marks(comments):
    marks = []
    for index, comment in enumerate(comments):
        for kind, pattern in _MARKS:
            match = pattern.match(comment.text)
            if match:
                names = tuple(name.strip() for name in match["names"].split(",") if name.strip())
                words, last = _following(comments, index, comment.column)
                text = " ".join([(match["text"] or "").strip(" :"), *words]).strip()
                marks.append(Mark(kind, names, text, comment.line, last, comment.column,
                                  comment.alone))
                break
    return marks


# -- structure: what is in what --


@dataclass(frozen=True)
class _Line:
    """A logical line."""

    first: int
    last: int
    column: int
    mask: str
    plain: str


class _Structure:
    def __init__(self, source, mask, plain, comments, marks):
        self._comments = {c.line: c for c in comments if c.alone}
        self._marks = marks
        ends = [i for i, c in enumerate(source) if c == "\n"]
        self._lines = []
        offset = 0
        for text in mask.split("\n"):
            stripped = text.strip()
            if stripped:
                start = offset + len(text) - len(text.lstrip())
                end = offset + len(text.rstrip())
                first, last = (bisect_right(ends, at - 1) + 1 for at in (start, end - 1))
                # A tab counts as in Python: up to the next multiple of 8. Blanks before `start`
                # may be blanked line ends of brackets only, and these cannot come first.
                column = len(source[source.rfind("\n", 0, start) + 1:start].expandtabs())
                self._lines.append(_Line(first, last, column, stripped, plain[start:end]))
            offset += len(text) + 1

    def fill(self, module):
        module.items = self._block(0, len(self._lines), "", None)
        self._after_banner(module.items, 0, len(module.lines) + 1, 0)
        for item in module.items:
            columns = [member.column for member in item.members]
            if columns:
                self._after_banner(item.members, item.header, item.last, min(columns))

    def _block(self, index, end, owner, condition):
        items, above = [], None     # above: the first decorator's line and the decorators
        while index < end:
            line = self._lines[index]
            body = index + 1
            while body < end and self._lines[body].column > line.column:
                body += 1
            item = None
            if line.mask.startswith("@"):
                above = above or (line.first, [])
                above[1].append(" ".join(line.plain[1:].split()))
                index += 1
                continue
            if match := _CLASS.match(line.mask):
                item = self._item(match, line, body, owner, condition, above)
                item.members = self._block(index + 1, body, item.name, None)
            elif match := _DEF.match(line.mask) or self._c_function(line):
                item = self._item(match, line, body, owner, condition, above)
            elif _COMPOUND.match(line.mask):
                colon = _find(line.mask, ":")
                items += self._block(index + 1, body, owner,
                                     " ".join(line.plain[:colon].split()))
            if item:
                items.append(item)
            above = None
            index = body
        return items

    @staticmethod
    def _c_function(line):
        """Match a `cdef` line that has a body; a declaration without one is none of ours."""
        match = _CDEF.match(line.mask)
        return match if match and _c_name(line.mask) else None

    def _item(self, match, line, body, owner, condition, above):
        colon = _find(line.mask, ":")
        kind = " ".join(match["kind"].split())
        arguments, parameters = "", ()
        if kind.startswith("cdef class"):
            kind = "cdef class"
        if kind in ("cdef", "cpdef"):
            found = _c_name(line.mask)
            name, opening = found[1], found.end() - 1
        else:
            name, opening = match["name"], _find(line.mask, "(", match.end())
        if 0 <= opening < colon:
            closing = _find_closing(line.mask, opening)
            arguments = " ".join(line.plain[opening + 1:closing].split())
            if not kind.endswith("class"):
                parameters = parse_parameters(line.plain[opening + 1:closing])
        first, decorators = above or (line.first, ())
        # The comments directly above, but for the marks that speak of something else.
        foreign = {at for m in self._marks if m.kind in ("absent", "banner")
                   for at in range(m.line, m.last + 1)}
        while (comment := self._comments.get(first - 1)) and comment.column == line.column \
                and comment.line not in foreign and not _ENTRY.match(comment.text):
            first -= 1
        last = self._lines[body - 1].last
        at = last + 1
        limit = (self._lines[body].first if body < len(self._lines)
                 else max(self._comments, default=0) + 1)
        while at < limit:
            if (comment := self._comments.get(at)) and comment.column > line.column:
                last = at
            elif comment:
                break
            at += 1
        item = Item(kind, name, owner, parameters, arguments, tuple(decorators), condition,
                    first, line.first, last, line.column)
        for mark in self._marks:
            if first <= mark.line < line.first and mark.alone and mark.column == line.column:
                if mark.kind == "stdlib" and mark.names:
                    item.mirrors = mark.names[0]
                item.ours = item.ours or mark.kind == "ours"
        return item

    def _after_banner(self, items, first, last, column):
        for mark in self._marks:
            if mark.kind == "banner" and first < mark.line <= last and mark.column == column:
                for item in items:
                    if item.header > mark.line:
                        item.ours = True


def _c_name(mask):
    """Match the name and the parenthesis of a `cdef` function with a body."""
    colon, equals = _find(mask, ":"), _find(mask, "=")
    if colon < 0 or 0 <= equals < colon:
        return None
    # The last of them: a return type may have parentheses, too.
    found = [m for m in _CDEF_NAME.finditer(mask, 0, colon) if not _depth(mask, m.start())]
    return found[-1] if found else None


def _depth(mask, end):
    return sum((c in "([{") - (c in ")]}") for c in mask[:end])


def _find_closing(mask, opening):
    depth = 0
    for i in range(opening, len(mask)):
        depth += (mask[i] in "([{") - (mask[i] in ")]}")
        if not depth:
            return i
    raise ScanError("a bracket is not closed")
