"""`python -m uringloop side-by-side --html FILE`: the page, taken apart by html.parser."""

import functools
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from uringloop.__main__ import main
from uringloop.side_by_side import html_page, mirror, pairing, pyx_scanner

pytestmark = pytest.mark.any_python("it is about the page that is made of the sources")

VOID = {"meta"}
NAMES = [None, "IocpProactor", "recv", "recvfrom_into", "PipeServer", "accept_pipe", "WSARecv", "Overlapped",
         "IouringProactor._wake", "sock_recv", "IouringProactorEventLoopPolicy"]
SOURCES = [*(pair.ours for pair in mirror.MODULES), mirror.C_OURS]


class Element:
    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.content = []       # texts and elements

    def __getitem__(self, name):
        return self.attributes.get(name)

    @property
    def classes(self):
        return (self["class"] or "").split()

    def walk(self):
        yield self
        for part in self.content:
            if isinstance(part, Element):
                yield from part.walk()

    def find(self, tag=None, class_=None):
        return [e for e in self.walk() if e.tag == (tag or e.tag) and (class_ is None or class_ in e.classes)]

    def text(self, without=()):
        return "".join(part if isinstance(part, str) else part.text(without) for part in self.content
                       if isinstance(part, str) or not {*without}.intersection(part.classes))

    def links(self):
        return [e["href"] for e in self.find("a")]


class Page(HTMLParser):
    """A page as a tree; it raises where an end tag closes what is not open."""

    def __init__(self, text):
        super().__init__()
        self.root = self.open = Element(None, {}, None)
        self.feed(text)
        self.close()
        assert self.open is self.root, f"<{self.open.tag}> has no end"
        self.elements = list(self.root.walk())
        self.ids = {e["id"]: e for e in self.elements if e["id"] is not None}

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute twice: {attrs}"
        element = Element(tag, dict(attrs), self.open)
        self.open.content.append(element)
        if tag not in VOID:
            self.open = element

    def handle_endtag(self, tag):
        assert tag == self.open.tag, f"line {self.getpos()[0]}: </{tag}> in <{self.open.tag}>"
        self.open = self.open.parent

    def handle_data(self, data):
        self.open.content.append(data)

    def lines(self, side, within=None):
        """[(number, text, element)] of the code on one side, 0 or 1."""
        found = []
        for row in (within or self.root).find("div", "columns"):
            cells = [e for e in row.content if isinstance(e, Element)]
            for pre in [cells[side]] if cells[side].tag == "pre" else []:
                found += [(int(e["data-n"]), e.text(without=["card"]), e) for e in pre.content]
        return found


@functools.cache
def parsed(name=None):
    return Page(html_page.page(name))


@pytest.fixture
def run(capsys):
    """Run the command in this process: its status, output and errors."""
    def run(*arguments):
        try:
            status = main(["side-by-side", *map(str, arguments)])
        except SystemExit as exc:
            status = exc.code
        output, errors = capsys.readouterr()
        return status, output, errors
    return run


# -- the page as HTML --


@pytest.mark.parametrize("name", NAMES)
def test_page_is_well_formed(name):
    page = parsed(name)
    [html] = [e for e in page.root.content if isinstance(e, Element)]
    assert [e.tag for e in html.content if isinstance(e, Element)] == ["head", "body"]
    assert html_page.page(name).startswith("<!DOCTYPE html>\n")
    for tag in ("title", "nav", "main", "h1"):
        assert len(page.root.find(tag)) == 1
    # Nothing of a class or a table was left open or empty.
    assert all(len([e for e in row.content if isinstance(e, Element)]) == 2
               for row in page.root.find(class_="columns"))


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_what_is_there_once(name):
    page = parsed(name)
    with_id = [e for e in page.elements if e["id"] is not None]
    assert len(with_id) == len(page.ids)
    links = page.root.links()
    assert links and all(link[0] == "#" and link[1:] in page.ids for link in links)


@pytest.mark.parametrize("name", NAMES)
def test_page_needs_nothing_from_elsewhere(name):
    page = parsed(name)
    tags = {e.tag for e in page.elements}
    assert tags.isdisjoint({"script", "link", "img", "iframe", "object", "base"})
    assert not [e for e in page.elements if e["src"] or any(a.startswith("on") for a in e.attributes)]
    [style] = page.root.find("style")
    assert not re.search(r"url\(|@import|@font-face", style.text())


def test_style_has_light_and_dark():
    [style] = parsed().root.find("style")
    light, dark = (dict(re.findall(r"(--[\w-]+): (#\w+);", part))
                   for part in style.text().split("@media (prefers-color-scheme: dark)")[:2])
    assert light.keys() == dark.keys() and not set(light.values()) & set(dark.values())
    # Each colour that is used is defined, apart from the indentation of lines.
    used = set(re.findall(r"var\((--[\w-]+)", style.text()))
    assert used - {"--i", "--deeper"} == light.keys()


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_can_be_read_on_its_ground(scheme):
    """WCAG 2.1, 1.4.3: a contrast of 4.5 at least."""
    [style] = parsed().root.find("style")
    part = style.text().split("@media (prefers-color-scheme: dark)")[scheme]
    colours = dict(re.findall(r"--([\w-]+): #(\w{6});", part))

    def luminance(colour):
        channels = [int(colour[i:i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    grounds = {name: "kscnadbt" if name == "panel" else () for name in ("ground", "panel")}
    for ground, codes in grounds.items():
        for ink in ("ink", "faint", "link", "mark", *codes):
            darker, lighter = sorted((luminance(colours[ink]), luminance(colours[ground])))
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (ink, ground)


# -- what is on it --


def test_every_mirrored_method_is_there_with_both_names():
    page = parsed()
    titles = {tuple(re.sub(r"^class |#$| \(under .*\)#?$", "", span.text()) for span in e.content)
              for e in page.root.find(class_="columns") if e.tag.startswith("h")}
    [contents] = page.root.find("nav")
    targets = {page.ids[link[1:]] for link in contents.links()}
    entries = pairing.every_entry()
    assert len(entries) > 150
    for entry in entries:
        assert (entry.stdlib or "", entry.ours if entry.right or entry.ours else "") in titles
        assert page.ids[entry.ours or entry.stdlib]
    for entry in entries:
        if entry.right:
            assert page.ids[entry.ours] in targets


def test_method_stands_beside_its_counterpart():
    page = parsed()
    count = 0
    for entry in pairing.every_entry():
        if not (entry.left and entry.right) or entry.members:
            continue
        sections = [e for id_, e in page.ids.items() if re.fullmatch(rf"{re.escape(entry.ours)}(-\d+)?", id_)]
        spans = []
        for section in sections:
            lefts, rights = ([number for number, *_ in page.lines(side, section)] for side in (0, 1))
            spans.append((set(lefts) >= {entry.left.header, entry.left.last}
                          and set(rights) >= {entry.right.header, entry.right.last}))
        assert True in spans, entry.ours
        count += 1
    assert count > 60


def test_headers_begin_in_one_row():
    page = parsed()
    [section] = [page.ids["IouringProactor.recv"]]
    rows = [[cell.content[0].text() for cell in row.content if cell.tag == "pre"]
            for row in section.find("div", "columns")]
    header = "def recv(self, conn, nbytes, flags=0):\n"
    assert [header, header] in rows


@pytest.mark.parametrize("name", SOURCES)
def test_every_line_of_ours_stands_once(name):
    page, source = parsed(), pairing.our_source(name)
    shown = {}
    for number, text, _ in page.lines(1, page.ids[name]):
        assert number not in shown, number
        shown[number] = text
    left_out = re.compile(r"|# stdlib: .*|#  .*|# -+ ours: .*|# [A-Z]\d+: .*|(if|else)\b.*:")
    absent = {number for mark in source.module.marks if mark.kind == "absent"
              for number in range(mark.line, mark.last + 1)}
    for number, line in enumerate(source.module.lines, 1):
        if number in shown:
            assert shown[number].strip() == line.strip()
        else:
            assert left_out.fullmatch(line.strip()) or number in absent, (number, line)


def test_every_line_of_the_mirrored_file_stands_once():
    page, source = parsed(), pairing.stdlib_source("windows_events")
    lines = page.lines(0, page.ids["uring_events.pyx"])
    # What ours takes from another file of the stdlib is shown, too.
    foreign = [e for e in pairing.every_entry() if e.left_source not in (None, source)]
    other = {line.strip() for e in foreign for line in e.left_source.module.text_of(e.left)}
    whole = {number: line for number, line in enumerate(source.module.lines, 1) if line.strip()}
    found = [number for number, text, _ in lines if number in whole and text.strip() == whole[number].strip()]
    assert set(found) == set(whole)
    twice = {number for number in found if found.count(number) > 1}
    assert all(whole[number].strip() in other for number in twice)


def test_source_is_escaped():
    text = html_page.page("IouringProactor")
    entry = pairing.find("IouringProactor")
    lines = [(side, number) for side, item, source in ((0, entry.left, entry.left_source),
                                                       (1, entry.right, entry.right_source))
             for number in range(item.first, item.last + 1)
             if re.search("[<>&]", source.module.lines[number - 1])]
    assert {side for side, _ in lines} == {0, 1}
    page = parsed("IouringProactor")
    for side, number in lines:
        source = (entry.left_source, entry.right_source)[side]
        [shown] = [text for n, text, _ in page.lines(side) if n == number]
        assert shown.strip() == source.module.lines[number - 1].strip()
    assert "&lt;" in text and "<%s" not in text


def test_escaping_covers_what_ends_an_attribute_or_a_tag():
    assert html_page._prose("a `<b>` & \"c\" 'd'") == (
        "a <code>&lt;b&gt;</code> &amp; &quot;c&quot; &#x27;d&#x27;")
    assert html_page._title(2, "</h2>", "<script>", "id").count("<script>") == 0


def test_lines_keep_their_indentation_but_the_common_one():
    page = parsed("recv")
    texts = [text for _, text, _ in page.lines(1)]
    assert "def recv(self, conn, nbytes, flags=0):\n" in texts
    assert "    ov = Overlapped(self._ring)\n" in texts


# -- differences --


@pytest.mark.parametrize("name", SOURCES)
def test_each_difference_is_linked_both_ways(name):
    page, source = parsed(), pairing.our_source(name)
    stem = Path(name).stem
    marks = [mark for mark in source.module.marks if mark.kind == "differs"]
    assert source.module.differences.keys() <= {n for mark in marks for n in mark.names}
    for number, reason in source.module.differences.items():
        term = page.ids[f"{stem}-{number}"]
        siblings = [e for e in term.parent.content if isinstance(e, Element)]
        description = siblings[siblings.index(term) + 1]
        assert reason.replace("`", "") in description.text()
        there = [mark.line for mark in marks if number in mark.names]
        assert sorted(description.links()) == sorted(f"#{stem}-{line}" for line in there)
        for line in there:
            element = page.ids[f"{stem}-{line}"]
            assert element["data-n"] == str(line) and "marked" in element.classes
            [link] = [e for e in element.find("a", "mark") if e["href"] == f"#{stem}-{number}"][:1]
            [card] = link.find(class_="card")
            assert card.text() == reason.replace("`", "")


def test_reasons_stand_below_the_method():
    page = parsed()
    for entry in pairing.every_entry():
        if entry.right is None or entry.members or entry.right_source.label.endswith(mirror.C_OURS):
            continue
        notes = [e for id_, section in page.ids.items()
                 if re.fullmatch(rf"{re.escape(entry.ours)}(-\d+)?", id_) for e in section.find("dl", "notes")]
        terms = {e.text() for dl in notes for e in dl.find("dt")}
        assert terms >= set(entry.numbers()), entry.ours
        for _, parameters, reason in entry.changed():
            assert any(f"({parameters}): {reason}" in dl.text() for dl in notes)


def test_absences_are_shown_with_their_reasons():
    page = parsed()
    absent = [e for e in pairing.every_entry() if e.right_note.startswith("absent: ") and not e.ours]
    assert len(absent) > 20
    for entry in absent:
        if entry.stdlib.rpartition(".")[0] in mirror.ABSENT:
            continue        # its class says so
        [note] = page.ids[entry.stdlib].find("div", "absent")[-1:]
        assert note.text() == entry.right_note
    for name in ("NULL", "ERROR_CONNECTION_REFUSED", "CONNECT_PIPE_MAX_DELAY", "SelectorEventLoop"):
        assert any(text.startswith(f"# absent: {name}") for _, text, _ in page.lines(1))


def test_own_methods_say_that_they_are():
    notes = parsed().ids["IouringProactor._wake"].find("div", "absent")
    assert [e.text() for e in notes] == ["ours: no counterpart in the stdlib"]


# -- the page of one name --


def test_page_of_a_method_has_it_alone():
    page = parsed("IouringProactor.recv")
    entry = pairing.find("IouringProactor.recv")
    assert {n for n, *_ in page.lines(0)} == set(range(entry.left.first, entry.left.last + 1))
    listed = [e["id"] for e in page.elements if e.tag == "dt" and e["id"]]
    assert listed == [f"uring_events-{number}" for number in entry.numbers()]
    assert page.root.find("title")[0].text() == "IocpProactor.recv, side by side"


def test_page_of_a_class_has_its_members_and_their_differences():
    page, entry = parsed("IocpProactor"), pairing.find("IocpProactor")
    assert {member.ours or member.stdlib for member in entry.members} <= page.ids.keys()
    listed = [e["id"] for e in page.elements if e.tag == "dt" and e["id"]]
    assert listed == [f"uring_events-{number}" for number in entry.numbers()]


# -- colours --


@pytest.mark.parametrize("source", [
    *(pairing.our_source(name) for name in SOURCES),
    *(pairing.stdlib_source(name) for name in ("windows_events", "proactor_events", "unix_events",
                                                    "selector_events", *mirror.INHERITED)),
], ids=lambda source: source.label)
def test_tokens_are_the_source(source):
    lines = html_page.tokens("\n".join(source.module.lines))
    assert ["".join(text for _, text in line) for line in lines] == source.module.lines


def coloured(text):
    return [(kind, part.strip()) for line in html_page.tokens(text) for kind, part in line if kind]


@pytest.mark.parametrize(("text", "expected"), [
    ("x = None  # it's", [("b", "None"), ("c", "# it's")]),
    ("def f(self): pass", [("k", "def"), ("d", "f"), ("b", "self"), ("k", "pass")]),
    ("async def class_(): ...", [("k", "async"), ("k", "def"), ("d", "class_")]),
    ("@cython.freelist(256)", [("a", "@cython.freelist"), ("n", "256")]),
    ("a = b @ c", []),
    ("cdef int f(self, int64_t n) except -1:",
     [("k", "cdef"), ("t", "int"), ("d", "f"), ("b", "self"), ("t", "int64_t"), ("k", "except"), ("n", "1")]),
    ("cdef readonly list names", [("k", "cdef"), ("k", "readonly"), ("b", "list")]),
    ("cdef class A(B):", [("k", "cdef"), ("k", "class"), ("d", "A")]),
    ("n = int(0x7f) + 1e3", [("b", "int"), ("n", "0x7f"), ("n", "1e3")]),
    ("import struct; struct.pack('@P', x.open)", [("k", "import"), ("s", "'@P'")]),
    ('s = rb"#" f"{a!r:>{w}}" b\'"\'', [("s", 'rb"#"'), ("s", 'f"{a!r:>{w}}"'), ("s", "b'\"'")]),
    ("x.print = x.None_", []),
    ('"""one\n\n  # two"""', [("s", '"""one'), ("s", '# two"""')]),
    ("if x:\n\n    return '<&>'", [("k", "if"), ("k", "return"), ("s", "'<&>'")]),
])
def test_tokens_have_their_classes(text, expected):
    assert coloured(text) == expected


def test_page_is_coloured_on_both_sides():
    for side in (0, 1):
        kinds = {span["class"] for _, _, line in parsed().lines(side, parsed().ids["uring_events.pyx"])
                 for span in line.find("span") if span["data-n"] is None and "card" not in span.classes}
        assert kinds >= {"k", "s", "c", "n", "d", "b"}


# -- the command --


def test_command_writes_the_page(run, tmp_path):
    path = tmp_path / "page.html"
    for name in ([], ["recv"]):
        status, output, errors = run("--html", path, *name)
        assert (status, errors) == (0, "")
        assert path.read_text(encoding="utf-8") == html_page.page(*name)
        # It says what it wrote.
        assert output == f"wrote {path}, {path.stat().st_size // 1000} kB: open it in a browser\n"


def test_command_with_a_wrong_name_writes_nothing(run, tmp_path):
    status, output, errors = run("--html", tmp_path / "page.html", "recvv")
    assert (status, output) == (2, "")
    assert "did you mean: IocpProactor.recv" in errors
    assert not list(tmp_path.iterdir())


def test_command_without_a_place_for_the_file(run, tmp_path):
    path = tmp_path / "nowhere" / "page.html"
    status, output, errors = run("--html", path, "recv")
    assert (status, output) == (1, "")
    assert str(path) in errors and "Traceback" not in errors


def test_command_without_sources(run, tmp_path, monkeypatch):
    pairing.entries.cache_clear()
    monkeypatch.setattr(pairing, "our_source", lambda name: None)
    try:
        status, output, errors = run("--html", tmp_path / "page.html")
    finally:
        pairing.entries.cache_clear()
    assert (status, output) == (1, "")
    assert "uringloop/uring_events.pyx is not installed" in errors


def test_command_has_no_width_for_a_page(run, tmp_path):
    status, output, errors = run("--html", tmp_path / "page.html", "--width", "100")
    assert (status, output) == (2, "")
    assert "--width" in errors


def test_command_in_a_process_of_its_own(tmp_path):
    done = subprocess.run([sys.executable, "-m", "uringloop", "side-by-side", "--html", "page.html", "recv"],
                          capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("wrote page.html, ")
    assert Page((tmp_path / "page.html").read_text(encoding="utf-8")).ids["IouringProactor.recv"]


def test_page_is_the_same_each_time():
    assert html_page.page() == html_page.page()


def test_list_of_differences_is_not_shown_as_code():
    page = parsed()
    heads = [text for _, text, _ in page.lines(1)]
    assert not [text for text in heads if pyx_scanner._ENTRY.match(text)]
