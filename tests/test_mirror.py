"""Our sources have the stdlib's classes, methods, order and parameters; and the check can fail.

The sources are the installed ones, beside the imported package. What they are held to is the
asyncio of the Python that runs the tests, by the table in `uringloop.side_by_side.mirror`; the
check itself is in `mirror_checker`.
"""

import ast
import asyncio
import functools
import importlib
import inspect
import itertools
import re
from dataclasses import replace
from inspect import Parameter as Kind
from pathlib import Path

import pytest

import mirror_checker
import uringloop
from mirror_checker import Stdlib, check
from uringloop.side_by_side import mirror, pyx_scanner

# Of every method and class something is made wrong: that takes a minute.
of_the_checker = pytest.mark.any_python("it tries the checker")

PACKAGE = Path(uringloop.__file__).parent
PAIRS = {pair.ours: pair for pair in mirror.MODULES}
MIRROR = PAIRS["uring_events.pyx"]
STDLIB = Stdlib()
SCANNER = "side_by_side/pyx_scanner.py"      # its docstring explains the form
SOURCES = [str(path.relative_to(PACKAGE)) for path in sorted(PACKAGE.rglob("*.py*"))
           if path.suffix in (".py", ".pyx") and not path.stem.startswith("__")]


def read(name):
    return (PACKAGE / name).read_text(encoding="utf-8")


def told(problems):
    return "\n".join(map(str, problems))


# -- the real sources --


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_source_mirrors_stdlib(pair):
    problems = check(read(pair.ours), pair, STDLIB)
    assert not problems, f"{pair.ours} beside {pair.stdlib}:\n{told(problems)}"


def test_every_source_with_marks_is_in_the_table():
    marked = set()
    for name in set(SOURCES) - {SCANNER}:
        if any(item.mirrors for item in pyx_scanner.scan(read(name)).walk()):
            marked.add(name)
    assert marked - {mirror.C_OURS} == set(PAIRS)


def test_source_mirrors_stdlib_without_public_policies():
    """From 3.14 on the policies of windows_events have an underscore before their names."""
    source = Path(asyncio.__file__).with_name("windows_events.py").read_text(encoding="utf-8")
    later = re.sub(r"\b_?(Windows\w+Policy|DefaultEventLoopPolicy)\b", r"_\1", source)
    problems = check(read(MIRROR.ours), MIRROR, Stdlib({"windows_events": later}))
    assert not problems, told(problems)


def test_table_names_what_exists():
    """Every class and method of the table is in this stdlib, or was in another one."""
    modules = [Path(pair.stdlib).stem for pair in mirror.MODULES] + list(mirror.INHERITED)
    renamed = [*mirror.CLASSES, *mirror.ABSENT, *mirror.CHANGED, *mirror.LATER_PARAMETERS, *mirror.EARLIER_PARAMETERS]
    for name in renamed:
        # Policies changed their names: `_Windows...` from 3.14 on. An alias may be a new one.
        other = name.removeprefix("_") if name.startswith("_") else f"_{name}"
        assert (STDLIB.find(name, modules) or STDLIB.find(other, modules)
                or name == "EventLoop"), name
    text = Path(asyncio.__file__).with_name("windows_events.py").read_text(encoding="utf-8")
    for name in mirror.ATTRIBUTES:
        assert re.search(rf"\b{name}\b", text), name


def test_c_table_names_what_exists():
    # The C methods by their headers, the attributes by the built class.
    scanned = pyx_scanner.scan(read("_overlapped.pyx"))
    module = importlib.import_module("uringloop._overlapped")
    for name in mirror.C_NAMES.values():
        if scanned.find(name) is None:
            owner, _, attribute = name.partition(".")
            assert hasattr(getattr(module, owner), attribute), name
    both = set(mirror.C_NAMES) & set(mirror.C_ABSENT)
    assert not both


def test_numbers_of_every_source_are_in_its_list():
    """Also in sources that mirror nothing whole."""
    for name in set(SOURCES) - {SCANNER}:
        module = pyx_scanner.scan(read(name))
        used = {number for mark in module.marks if mark.kind == "differs" for number in mark.names}
        assert used == set(module.differences), name


# -- the scanner, against ast and against the built modules --


def flat(items):
    for item in items:
        yield item
        yield from flat(item.members)


@pytest.mark.parametrize("path", sorted(Path(asyncio.__file__).parent.glob("*.py")),
                         ids=lambda path: path.stem)
def test_scanner_sees_what_ast_sees(path):
    source = path.read_text(encoding="utf-8")
    wanted = [h for h in flat(mirror_checker.headers(ast.parse(source).body)) if h.kind != "name"]
    found = list(flat(pyx_scanner.scan(source).items))
    assert ([(h.kind, h.qualname, h.parameters, h.line) for h in wanted]
            == [(i.kind, i.qualname, mirror_checker.normal(i.parameters), i.header)
                for i in found])
    # A comment below the last statement belongs to the body, too.
    lines = source.split("\n")
    for header, item in zip(wanted, found, strict=True):
        assert item.last >= header.last
        assert all(not line.strip() or line.lstrip().startswith("#")
                   for line in lines[header.last:item.last])


def built_functions(name):
    """Return (items, function) of a source and its module: two items if an `if` has two arms."""
    module = importlib.import_module(".".join(["uringloop", *Path(name).with_suffix("").parts]))
    cases = {}
    for item in pyx_scanner.scan(read(name)).walk():
        if item.kind in ("def", "async def"):
            owner = getattr(module, item.owner) if item.owner else module
            function = inspect.getattr_static(owner, item.name, None)
            if isinstance(function, (staticmethod, classmethod)):
                function = function.__func__
            cases.setdefault(item.qualname, ([], function))[0].append(item)
    return list(cases.values())


def agrees(item, function):
    found = list(inspect.signature(function).parameters.values())
    if [(p.name, p.kind) for p in item.parameters] != [(p.name, p.kind) for p in found]:
        return False
    for ours, built in zip(item.parameters, found, strict=True):
        if (ours.default is None) != (built.default is inspect.Parameter.empty):
            return False
        try:
            if ours.default is not None and ast.literal_eval(ours.default) != built.default:
                return False
        except ValueError:
            pass    # The default is a name.
    return True


@pytest.mark.parametrize("name", SOURCES)
def test_scanner_sees_what_inspect_sees(name):
    for items, function in built_functions(name):
        item = items[0]
        if function is None:
            assert item.condition or item.name in ("__cinit__", "__dealloc__"), (
                f"{item.qualname} is not in the built module: was it built from this source?")
        elif any(word == "property" or word.endswith(".setter") for word in item.decorators):
            assert inspect.isdatadescriptor(function), item.qualname
        elif type(function).__name__ == "wrapper_descriptor" or item.name == "__getattr__" or (
                type(function).__name__ == "method_descriptor" and not function.__text_signature__):
            # A slot of an extension type has no signature of its own.
            assert item.name.startswith("__") and item.name.endswith("__"), item.qualname
        elif inspect.ismethoddescriptor(function) and type(function).__name__ == "method_descriptor":
            # A function in C stands in front of the def; its object has no name to be passed by.
            [item] = items
            parameters = item.parameters[1:]
            found = list(inspect.signature(function).parameters.values())[1:]
            text = str(inspect.signature(function))[1:-1].replace("/, ", "", 1)
            if text in mirror.EARLIER_PARAMETERS.get(item.qualname, ()):
                # It shows what this stdlib's takes; the def's last one takes the rest.
                parameters = [p for p in parameters if p.kind is not p.kind.VAR_KEYWORD]
                found = found[:len(parameters)]
            assert [(p.name, p.kind) for p in parameters] == [(p.name, p.kind) for p in found], item.qualname
        else:
            assert any(agrees(item, function) for item in items), item.qualname


SAMPLE = '''"""A module; `# differs[Dn]` in here is no mark, though.

# D9: nor is this an entry.
"""
# D1: The first reason,
#     in two lines.
# D2: The second one.
import os
cdef extern from "x.h":
    int f(int)

cdef int LIMIT = 3      # D3: not at the start of a line

cdef class Ring:
    """Text: with a colon"""
    cdef object _x
    cdef dict d = {"a": 1}

    # stdlib: IocpProactor.recv
    # about recv
    @staticmethod
    @deco(1,
          "b")
    def recv(int fd, object x=None, Overlapped ov not None, const unsigned char[:] v=b"#(",
             *, bint deep=(1, [2]) == (1,), **kw):
        # differs[D1], differs[D2]
        s = f"{x['a']:{">"}} # {{ no comment"
        return 1

        # the end of recv

    cdef inline (int, int) both(self, char *p=NULL) except *:
        return 1, 2

    async def wait(self,
                   /,
                   timeout: float = 1.5 ,  # a comment, (with) things
                   *args: int):  pass

    # absent: IocpProactor.accept_pipe: no pipes
    #     at all
    if hasattr(os, "x"):
        def either(self): return """
def not_this(): pass
"""
    else:
        def either(self, \\
                   b):
            """differs[D2] in a docstring."""

    # -- ours: no counterpart in the stdlib --

    def extra(self):
        def inner(a): pass
        class Inner: pass

# ours: a reason
def function() -> {}:
    pass
'''


def test_scan_headers_of_cython():
    module = pyx_scanner.scan(SAMPLE)
    seen = [(i.kind, i.qualname, i.signature, i.condition, i.ours) for i in module.walk()]
    assert seen == [
        ("cdef class", "Ring", "()", None, False),
        ("def", "Ring.recv", '(fd, x=None, ov, v=b"#(", *, deep=(1, [2]) == (1,), **kw)', None,
         False),
        ("cdef", "Ring.both", "(self, p=NULL)", None, False),
        ("async def", "Ring.wait", "(self, /, timeout=1.5, *args)", None, False),
        ("def", "Ring.either", "(self)", 'if hasattr(os, "x")', False),
        ("def", "Ring.either", "(self, b)", "else", False),
        ("def", "Ring.extra", "(self)", None, True),
        ("def", "function", "()", None, True),
    ]


def test_scan_lines_of_items():
    module = pyx_scanner.scan(SAMPLE)
    [recv] = module.find("Ring.recv")
    text = module.text_of(recv)
    assert text[0].strip() == "# stdlib: IocpProactor.recv"
    assert text[recv.header - recv.first].strip().startswith("def recv(int fd")
    assert text[-1].strip() == "# the end of recv"
    assert recv.mirrors == "IocpProactor.recv"
    assert recv.decorators == ("staticmethod", 'deco(1, "b")')
    first, second = module.find("Ring.either")
    assert module.text_of(first)[-1] == '"""'
    assert module.text_of(second)[-1].strip() == '"""differs[D2] in a docstring."""'
    assert module.text_of(module.find("Ring")[0])[-1].strip() == "class Inner: pass"


def test_scan_marks_and_list():
    module = pyx_scanner.scan(SAMPLE)
    assert module.differences == {"D1": "The first reason, in two lines.", "D2": "The second one."}
    assert [(m.kind, m.names, m.text) for m in module.marks if m.kind == "absent"] == [
        ("absent", ("IocpProactor.accept_pipe",), "no pipes at all")]
    assert [m.names for m in module.marks if m.kind == "differs" and m.names != ("Dn",)] == [
        ("D1", "D2"), ("D2",)]


@pytest.mark.parametrize("text", ["f(", "f)", "'a", '"""a', "f'{a'"])
def test_scan_refuses_what_is_not_closed(text):
    with pytest.raises(pyx_scanner.ScanError):
        pyx_scanner.scan(text)


# -- the check fails: on the real source, with one thing changed --


@functools.cache
def real_module():
    return pyx_scanner.scan(read(MIRROR.ours))


@functools.cache
def mirrored():
    """Return the items of the real source that this stdlib has a counterpart of."""
    return tuple(item for item in real_module().walk() if item.mirrors
                 and STDLIB.find(item.mirrors, ["windows_events"]))


OWNERS = sorted({item.owner for item in mirrored() if item.owner})


def methods(owner, conditional=True):
    """Return a class's mirrored methods; also those under an `if`, where these will do."""
    return [item for item in mirrored()
            if item.owner == owner and (conditional or not item.condition)]


def real_lines():
    return list(real_module().lines)


def without(lines, item):
    return lines[:item.first - 1] + lines[item.last:]


def with_arguments(item, parameters):
    """Return the real source's lines with other parameters in the header of one function."""
    lines = real_lines()
    text = "\n".join(lines[item.header - 1:item.last])
    header = re.compile(rf"((?:async )?def {item.name})\((?:[^()]|\([^()]*\))*\):")
    found = header.match(text.lstrip())
    start = len(text) - len(text.lstrip())
    changed = (text[:start] + found[1] + pyx_scanner.signature(parameters) + ":"
               + text[start + found.end():])
    return [*lines[:item.header - 1], *changed.split("\n"), *lines[item.last:]]


def reported(lines):
    """Return the problems of changed lines, as `kind name`, in order of the lines."""
    return [f"{p.kind} {p.name}" for p in check("\n".join(lines), MIRROR, STDLIB)]


@of_the_checker
@pytest.mark.parametrize("owner", OWNERS)
def test_missing_method_is_reported(owner):
    for item in methods(owner):
        # What only it used of the list at the head is not used any more.
        numbers = {f"list {number}" for mark in real_module().marks_of(item, "differs")
                   for number in mark.names}
        found = reported(without(real_lines(), item))
        assert [problem for problem in found if problem not in numbers] == [
            f"missing {item.qualname}"]


@of_the_checker
def test_missing_class_is_reported():
    for item in mirrored():
        if item.owner:
            continue
        found = reported(without(real_lines(), item))
        name = next((ours for ours, at in mirror.LAZY.items() if at == item.name), item.name)
        assert [problem for problem in found if not problem.startswith("list ")] == [
            f"missing {name}"]


@of_the_checker
@pytest.mark.parametrize("owner", OWNERS)
def test_moved_method_is_reported(owner):
    members = methods(owner, conditional=False)
    first, last = members[0], members[-1]
    # Over at least two others: then it is the one that moved, and not one of them.
    for item in members[2:]:
        moved = without(real_lines(), item)
        moved[first.first - 1:first.first - 1] = [*real_module().text_of(item), ""]
        assert reported(moved) == [f"order {item.qualname}"]
    for item in members[:-2]:
        moved = real_lines()
        moved[last.last:last.last] = ["", *real_module().text_of(item)]
        assert reported(without(moved, item)) == [f"order {item.qualname}"]


@of_the_checker
@pytest.mark.parametrize("owner", OWNERS)
def test_swapped_methods_are_reported(owner):
    members = methods(owner, conditional=False)
    for first, second in [*itertools.pairwise(members), *zip(members[:1] * 99, members[3:]),
                          *zip(members[:-3], members[-1:] * 99)]:
        lines = real_lines()
        found = reported([*lines[:first.first - 1], *lines[second.first - 1:second.last],
                          *lines[first.last:second.first - 1], *lines[first.first - 1:first.last],
                          *lines[second.last:]])
        if members.index(second) - members.index(first) >= 3:
            assert sorted(found) == sorted([f"order {first.qualname}", f"order {second.qualname}"])
        else:
            # Of two neighbours one stands wrong, and it may be either; or what is between them.
            assert found and all(problem.startswith("order ") for problem in found)


def renamed(parameters):
    return [*parameters[:-1], replace(parameters[-1], name="renamed")]


def added(parameters):
    last = max(n for n, p in enumerate(parameters) if p.kind is Kind.POSITIONAL_OR_KEYWORD)
    new = pyx_scanner.Parameter("added", Kind.POSITIONAL_OR_KEYWORD, "None")
    return [*parameters[:last + 1], new, *parameters[last + 1:]]


def added_keyword(parameters):
    return [*parameters, pyx_scanner.Parameter("added", Kind.KEYWORD_ONLY, "None")]


def dropped(parameters):
    return parameters[:-1]


def other_default(parameters):
    return [*parameters[:-1], replace(parameters[-1], default="'another'")]


def no_defaults(parameters):
    return [replace(p, default=None) for p in parameters]


def keywords_for_all(parameters):
    return [parameters[0], *(replace(p, kind=Kind.KEYWORD_ONLY) for p in parameters[1:])]


@of_the_checker
@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("change", [renamed, added, added_keyword, dropped, other_default,
                                    no_defaults, keywords_for_all])
def test_other_parameters_are_reported(owner, change):
    for item in methods(owner):
        changed = change(list(item.parameters))
        expected = [f"parameters {item.qualname}"] if changed != list(item.parameters) else []
        assert reported(with_arguments(item, changed)) == expected


@of_the_checker
@pytest.mark.parametrize("owner", OWNERS)
def test_other_form_is_reported(owner):
    """A coroutine for a function, and a method for a static or class method."""
    for item in methods(owner):
        lines = real_lines()
        header = lines[item.header - 1]
        if item.decorators:
            del lines[item.header - 2]
        elif "async def" in header:
            lines[item.header - 1] = header.replace("async def", "def", 1)
        else:
            lines[item.header - 1] = header.replace("def", "async def", 1)
        assert reported(lines) == [f"form {item.qualname}"]


# -- marks, the list and what else can be wrong --


STDLIB_SAMPLE = '''
class IocpProactor:
    def __init__(self, concurrency=1): pass
    @staticmethod
    def helper(a): pass
    def recv(self, conn, nbytes, flags=0): pass
    async def connect_pipe(self, address): pass
    def close(self): pass
class PipeServer:
    def close(self): pass
class WindowsProactorEventLoopPolicy: pass
'''

OURS_SAMPLE = '''"""Ours."""
# D1: a reason

# stdlib: IocpProactor
cdef class IouringProactor:
    cdef int _helper(self) except -1:
        return 0

    # stdlib: IocpProactor.__init__
    def __init__(self, rung=None, kernel=None, *, spin_us=None, sq_entries=None, cq_entries=None, receive_buffer=None):
        # differs[D1]
        pass

    # stdlib: IocpProactor.helper
    @staticmethod
    def helper(a):
        pass

    # stdlib: IocpProactor.recv
    def recv(self, conn, Py_ssize_t nbytes, int flags=0):
        pass

    # absent: IocpProactor.connect_pipe: none

    # stdlib: IocpProactor.close
    def close(self):
        pass

    # -- ours: no counterpart in the stdlib --

    def extra(self):
        pass

# absent: PipeServer: none

# stdlib: WindowsProactorEventLoopPolicy
def _make_policy():
    class IouringProactorEventLoopPolicy: pass

# ours: for a test
def extra():
    pass
'''


def check_sample(source):
    return [(p.kind, p.name) for p in
            check(source, MIRROR, Stdlib({"windows_events": STDLIB_SAMPLE}))]


def test_sample_is_right():
    assert not check_sample(OURS_SAMPLE)


@pytest.mark.parametrize(("old", "new", "problems"), [
    ("    # stdlib: IocpProactor.recv\n", "", ["mark IouringProactor.recv"]),
    ("# stdlib: IocpProactor.recv\n", "# stdlib: IocpProactor.close\n",
     ["mark IouringProactor.recv"]),
    ("# stdlib: IocpProactor.recv\n", "# stdlib: IocpProactor.recv\n\n",
     ["mark IocpProactor.recv", "mark IouringProactor.recv"]),
    ("# stdlib: IocpProactor\n", "", ["mark IouringProactor"]),
    ("    # absent: IocpProactor.connect_pipe: none\n", "", ["mark IocpProactor.connect_pipe"]),
    ("connect_pipe: none", "send: none",
     ["mark IocpProactor.connect_pipe", "mark IocpProactor.send"]),
    ("    # absent: IocpProactor.connect_pipe: none\n",
     "    # absent: IocpProactor.connect_pipe: none\n    def connect_pipe(self): pass\n",
     ["table IocpProactor.connect_pipe"]),
    ("# absent: PipeServer: none\n", "", ["mark PipeServer"]),
    ("# absent: PipeServer: none\n", "# absent: PipeServer: none\nclass PipeServer: pass\n",
     ["table PipeServer"]),
    ("differs[D1]", "differs[D2]", ["list D1", "list D2"]),
    ("# differs[D1]", "# nothing", ["list D1"]),
    ("# D1: a reason", "# D1: a reason\n# D1: another", ["list D1"]),
    ("# D1: a reason", "# D1: a reason\n# D4: another", ["list D4"]),
    ("    # -- ours: no counterpart in the stdlib --\n", "", ["extra IouringProactor.extra"]),
    ("# ours: for a test\n", "", ["extra extra"]),
    ("rung=None, kernel=None", "concurrency=1", ["parameters IouringProactor.__init__"]),
    ("Py_ssize_t nbytes", "Py_ssize_t size", ["parameters IouringProactor.recv"]),
    ("int flags=0", "int flags=1", ["parameters IouringProactor.recv"]),
    ("int flags=0", "int flags", ["parameters IouringProactor.recv"]),
    ("int flags=0", "*, int flags=0", ["parameters IouringProactor.recv"]),
    ("    @staticmethod\n", "", ["form IouringProactor.helper"]),
])
def test_sample_problem_is_reported(old, new, problems):
    assert OURS_SAMPLE.count(old) == 1
    found = check_sample(OURS_SAMPLE.replace(old, new))
    assert sorted(f"{kind} {name}" for kind, name in found) == problems


def test_mirrored_after_the_banner_is_reported():
    banner = "    # -- ours: no counterpart in the stdlib --\n"
    changed = OURS_SAMPLE.replace(banner, "").replace("    # stdlib: IocpProactor.close",
                                                      banner + "    # stdlib: IocpProactor.close")
    assert check_sample(changed) == [("order", "IouringProactor.close")]


def test_absence_out_of_order_is_reported():
    mark = "    # absent: IocpProactor.connect_pipe: none\n"
    changed = OURS_SAMPLE.replace(mark, "").replace("    # stdlib: IocpProactor.__init__",
                                                    mark + "    # stdlib: IocpProactor.__init__")
    assert check_sample(changed) == [("order", "IocpProactor.connect_pipe")]


def test_method_of_another_python_is_no_problem():
    """`_finish_recvfrom` is new in 3.13: without one in the stdlib, ours is not too many."""
    name = "    # stdlib: IocpProactor._finish_recvfrom\n    def _finish_recvfrom(self): pass\n\n"
    changed = OURS_SAMPLE.replace("    # stdlib: IocpProactor.recv\n",
                                  name + "    # stdlib: IocpProactor.recv\n")
    assert not check_sample(changed)


OVERRIDES = '''"""Overrides."""
# T1: a reason
from asyncio import proactor_events

# stdlib: _ProactorReadPipeTransport
class _ProactorReadPipeTransport(proactor_events._ProactorReadPipeTransport):
    # stdlib: _ProactorReadPipeTransport.pause_reading
    def pause_reading(self):
        pass    # differs[T1]

    # stdlib: _ProactorReadPipeTransport.resume_reading
    def resume_reading(self):
        pass
'''


@pytest.mark.parametrize(("old", "new", "problems"), [
    ("", "", []),
    ("(self)", "(self, more)", [("parameters", "_ProactorReadPipeTransport.pause_reading")]),
    ("    # stdlib: _ProactorReadPipeTransport.pause_reading\n", "",
     [("extra", "_ProactorReadPipeTransport.pause_reading")]),
    ("    # stdlib: _ProactorReadPipeTransport.pause_reading\n    def pause_reading",
     "    # stdlib: _ProactorReadPipeTransport.is_reading\n    def pause_reading",
     [("mark", "_ProactorReadPipeTransport.pause_reading")]),
    ("Transport.pause_reading", "Transport.pause_writing",
     [("mark", "_ProactorReadPipeTransport.pause_reading")]),
    ("Transport.resume_reading\n    def resume_reading", "Transport.is_reading\n    def is_reading",
     [("order", "_ProactorReadPipeTransport.is_reading")]),
    ("differs[T1]", "differs[T2]", [("list", "T1"), ("list", "T2")]),
    ("# stdlib: _ProactorReadPipeTransport\n", "class Plain:\n    def method(self): pass\n\n"
     "# stdlib: _ProactorReadPipeTransport\n", []),
])
def test_overrides_are_held_to_their_marks(old, new, problems):
    found = check(OVERRIDES.replace(old, new, 1), PAIRS["stdlib_transports.py"], STDLIB)
    assert sorted((p.kind, p.name) for p in found) == problems, told(found)
