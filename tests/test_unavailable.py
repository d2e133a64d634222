"""Where no ring can be had: each cause is told by its own text, and the real ones are told as well.

The first half hands `explain` a made-up /proc; the second has the running kernel refuse a ring.
Those run in a process of their own: a seccomp filter stays for good, and limits hit everything in a process.
"""

import concurrent.futures
import errno
import os
import pathlib
import pickle
import resource
import subprocess
import sys
import textwrap
from functools import partial

import pytest

from blocked import ALL_CAPS, INSTALL_FILTER, NO_CAPS, limits, made_up_proc
import uringloop
from uringloop.unavailable import IouringUnavailableError, explain

@pytest.fixture
def make_proc(tmp_path):
    return partial(made_up_proc, tmp_path)


def test_explain_returns_an_oserror_with_the_errno(make_proc):
    error = explain(errno.EPERM, stage="io_uring_register", proc=make_proc(seccomp=2))
    assert type(error) is IouringUnavailableError
    assert isinstance(error, OSError)
    assert error.errno == errno.EPERM
    assert "io_uring_register failed (EPERM)" in str(error)


@pytest.mark.parametrize("stage", ["io_uring_enter", "io_uring_register"])
def test_explain_what_comes_after_the_set_up(make_proc, stage):
    """The sysctl stands before the set-up only."""
    error = explain(errno.EPERM, stage=stage, proc=make_proc(seccomp=2, disabled=2))
    assert error.cause == "seccomp"
    assert f"{stage} failed (EPERM)" in str(error)
    assert "kernel.io_uring_disabled" not in str(error)


def test_explain_what_comes_after_the_set_up_without_a_filter(make_proc):
    assert explain(errno.EPERM, stage="io_uring_enter", proc=make_proc(disabled=2)).cause == "security-module"


def test_error_survives_pickling(make_proc):
    error = pickle.loads(pickle.dumps(explain(errno.EPERM, proc=make_proc(seccomp=2))))
    assert type(error) is IouringUnavailableError
    assert (error.errno, error.cause) == (errno.EPERM, "seccomp")


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.ENOSYS], ids=errno.errorcode.get)
def test_explain_seccomp(make_proc, number):
    error = explain(number, proc=make_proc(seccomp=2), release="6.1.0-28-amd64")
    assert error.cause == "seccomp"
    assert error.errno == number
    for word in ("seccomp", "Docker", "containerd", "--security-opt", "io_uring_setup", "docs/seccomp.json"):
        assert word in str(error)
    assert "kernel.io_uring_disabled" not in str(error)


def test_explain_seccomp_before_linux_6_6(make_proc):
    assert explain(errno.EPERM, proc=make_proc(seccomp=2, disabled=None)).cause == "seccomp"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES], ids=errno.errorcode.get)
def test_explain_disabled_2(make_proc, number):
    error = explain(number, proc=make_proc(disabled=2, caps=ALL_CAPS))
    assert error.cause == "sysctl"
    assert "kernel.io_uring_disabled is 2" in str(error)
    assert "sysctl kernel.io_uring_disabled=0" in str(error)
    assert "seccomp" not in str(error)
    assert "kernel.io_uring_group" not in str(error)


def test_explain_disabled_1_without_group(make_proc):
    error = explain(errno.EPERM, proc=make_proc(disabled=1))
    assert error.cause == "sysctl"
    assert "kernel.io_uring_disabled is 1" in str(error)
    assert "kernel.io_uring_group names no group" in str(error)
    assert "sysctl kernel.io_uring_group=GID" in str(error)


def test_explain_disabled_1_and_not_in_the_group(make_proc):
    error = explain(errno.EPERM, proc=make_proc(disabled=1, group=4711))
    assert error.cause == "sysctl"
    assert "kernel.io_uring_group is 4711 and this process is not in that group" in str(error)


def test_explain_disabled_and_seccomp_names_both(make_proc):
    error = explain(errno.EPERM, proc=make_proc(disabled=2, seccomp=2))
    assert error.cause == "sysctl"
    assert "kernel.io_uring_disabled is 2" in str(error)
    assert "seccomp filter is active as well" in str(error)


@pytest.mark.parametrize("who", [{"caps": ALL_CAPS}, {"gid": 4711}, {"groups": "27 4711"}], ids=str)
def test_explain_disabled_1_does_not_hide_seccomp_from_those_allowed(make_proc, who):
    error = explain(errno.EPERM, proc=make_proc(disabled=1, group=4711, seccomp=2, **who))
    assert error.cause == "seccomp"
    assert "kernel.io_uring_disabled" not in str(error)


def test_explain_disabled_1_in_a_user_namespace(make_proc):
    error = explain(errno.EPERM, proc=make_proc(disabled=1, caps=ALL_CAPS))
    assert error.cause == "sysctl"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES], ids=errno.errorcode.get)
def test_explain_refused_by_neither(make_proc, number):
    error = explain(number, proc=make_proc())
    assert error.cause == "security-module"
    assert "SELinux" in str(error)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS], ids=errno.errorcode.get)
@pytest.mark.parametrize("release", ["5.18.19", "5.4.0-150-generic", "4.19.0", "5.18-rc1"])
def test_explain_old_kernel(make_proc, number, release):
    error = explain(number, proc=make_proc(), release=release)
    assert error.cause == "kernel"
    assert "too old" in str(error)
    assert f"Linux 5.19 or newer is needed, found {release}." in str(error)


@pytest.mark.parametrize("release", ["5.19.0", "5.19", "6.1.0-28-amd64", "10.0.1", "nonsense"])
@pytest.mark.parametrize(
    "number, words",
    [(errno.ENOSYS, "CONFIG_IO_URING"), (errno.EINVAL, "oldest set of flags")],
    ids=["ENOSYS", "EINVAL"],
)
def test_explain_new_kernel_without_io_uring(make_proc, number, words, release):
    error = explain(number, proc=make_proc(), release=release)
    assert error.cause == "kernel"
    assert "too old" not in str(error)
    assert words in str(error)
    assert "5.19" in str(error) and release in str(error)


@pytest.mark.parametrize("release", ["", ".", "6", "6.x", "5.\N{SUPERSCRIPT TWO}", "\N{SUPERSCRIPT TWO}.1", "1." + 5000 * "1"])
def test_explain_a_release_that_is_none(make_proc, release):
    assert "too old" not in str(explain(errno.EINVAL, proc=make_proc(), release=release))


def test_explain_kernel_reads_the_running_one(make_proc):
    assert os.uname().release in str(explain(errno.EINVAL, proc=make_proc()))


def test_explain_memlock_says_needed_and_allowed(make_proc):
    error = explain(errno.ENOMEM, memory_needed=69632, proc=make_proc(), getrlimit=limits(MEMLOCK=65536))
    assert error.cause == "memlock"
    assert "one ring needs 69632 bytes" in str(error)
    assert "RLIMIT_MEMLOCK allows 65536 bytes" in str(error)
    assert "ulimit -l" in str(error)


def test_explain_memlock_without_an_amount(make_proc):
    error = explain(errno.ENOMEM, proc=make_proc(), getrlimit=limits(MEMLOCK=0))
    assert error.cause == "memlock"
    assert "RLIMIT_MEMLOCK allows 0 bytes" in str(error)
    assert "None" not in str(error)


@pytest.mark.parametrize(
    "caps, memlock", [(ALL_CAPS, 65536), (NO_CAPS, resource.RLIM_INFINITY)], ids=["privileged", "unlimited"]
)
def test_explain_no_memory_where_memlock_does_not_count(make_proc, caps, memlock):
    error = explain(errno.ENOMEM, memory_needed=69632, proc=make_proc(caps=caps), getrlimit=limits(MEMLOCK=memlock))
    assert error.cause == "memory"
    assert "cgroup" in str(error)


def test_explain_files_of_the_process(make_proc):
    error = explain(errno.EMFILE, proc=make_proc(), getrlimit=limits(NOFILE=1024))
    assert error.cause == "files"
    assert "RLIMIT_NOFILE is 1024" in str(error)
    assert "ulimit -n" in str(error)
    assert "fs.file-max" not in str(error)


def test_explain_files_of_the_system(make_proc):
    error = explain(errno.ENFILE, proc=make_proc(file_max=9223))
    assert error.cause == "system-files"
    assert "fs.file-max is 9223" in str(error)
    assert "RLIMIT_NOFILE" not in str(error)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES], ids=errno.errorcode.get)
def test_explain_an_operation_that_is_refused(make_proc, number):
    """A filter sees io_uring's three calls, and no operation."""
    error = explain(number, stage="IORING_OP_POLL_ADD", proc=make_proc(seccomp=2, disabled=1))
    assert (error.cause, error.call) == ("restriction", "IORING_OP_POLL_ADD")
    assert "IORING_OP_POLL_ADD failed" in str(error) and "IORING_REGISTER_RESTRICTIONS" in str(error)
    assert "kernel.io_uring_disabled" not in str(error)


def test_explain_an_operation_that_is_not_known(make_proc):
    error = explain(errno.EINVAL, stage="IORING_OP_POLL_ADD", proc=make_proc(), release="5.4.0")
    assert error.cause == "kernel"
    assert "IORING_OP_POLL_ADD failed (EINVAL)" in str(error)


def test_explain_unknown_errno(make_proc):
    error = explain(errno.EIO, proc=make_proc())
    assert (error.cause, error.errno) == ("unknown", errno.EIO)
    assert "EIO" in str(error)


def test_each_cause_has_its_own_text(tmp_path, make_proc):
    made = [
        explain(errno.EPERM, proc=make_proc(seccomp=2, disabled=1, group=7, groups="7")),
        explain(errno.EPERM, proc=str(tmp_path / "none")),
        explain(errno.EINVAL, release="5.10"),
        explain(errno.EINVAL, release="6.1"),
        explain(errno.ENOMEM, proc="/none", getrlimit=limits(MEMLOCK=1)),
        explain(errno.ENOMEM, proc="/none", getrlimit=limits()),
        explain(errno.EMFILE),
        explain(errno.ENFILE),
        explain(errno.EIO),
    ]
    assert len({str(error).partition("): ")[2] for error in made}) == len(made)


@pytest.mark.parametrize(
    "number",
    [errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL, errno.ENOMEM, errno.EMFILE, errno.ENFILE, 9999],
    ids=lambda number: errno.errorcode.get(number, str(number)),
)
def test_explain_without_proc(number):
    def getrlimit(which):
        raise OSError(errno.EPERM, "no")

    error = explain(number, proc="/nowhere", getrlimit=getrlimit)
    assert error.errno == number
    assert "None" not in str(error)


def test_explain_with_garbage_in_proc(tmp_path):
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_bytes(b"Seccomp\n\xff\xfe:\nCapEff:\tzz\nGid:\n:\n")
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "sys/kernel/io_uring_disabled").write_text("many\n")
    assert explain(errno.EPERM, proc=str(tmp_path)).cause == "security-module"
    assert explain(errno.ENOMEM, proc=str(tmp_path), getrlimit=limits(MEMLOCK=1)).cause == "memlock"


# The running kernel refuses.

# What a child does about its error: print it, one field a line, for the parent to look at.
REPORT = """
import sys, uringloop

def report():
    try:
        loop = uringloop.new_event_loop()
    except uringloop.IouringUnavailableError as error:
        print("errno", error.errno)
        print("cause", error.cause)
        print("text", error)
    else:
        loop.close()
        print("cause none")
"""


def run_child(body):
    # With every ResourceWarning told: what was set up before the refusal must have been closed.
    child = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", REPORT + textwrap.dedent(body)],
        cwd=pathlib.Path(uringloop.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.returncode == 0, child.stderr
    assert child.stderr == ""
    return dict(line.split(" ", 1) for line in child.stdout.splitlines())


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS], ids=errno.errorcode.get)
def test_new_event_loop_under_a_seccomp_filter(number):
    told = run_child(INSTALL_FILTER.format(errno=number, first=425, last=427) + "report()")
    assert told["cause"] == "seccomp"
    assert told["errno"] == str(number)
    assert "io_uring_setup failed" in told["text"]
    assert "seccomp filter refuses it" in told["text"]
    assert "Docker" in told["text"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", [426, 427], ids=["io_uring_enter", "io_uring_register"])
def test_new_event_loop_under_a_filter_of_one_call(number, call):
    """Rings can be set up and not used: that is told when the loop is made, and not by its first run."""
    told = run_child(INSTALL_FILTER.format(errno=number, first=call, last=call) + "report()")
    assert told["cause"] == "seccomp"
    assert told["errno"] == str(number)
    name = {426: "io_uring_enter", 427: "io_uring_register"}[call]
    assert f"{name} failed ({errno.errorcode[number]})" in told["text"]


def test_the_filter_refuses_io_uring_only():
    # The pair of the test above: the same child without a filter gets its loop.
    assert run_child("report()") == {"cause": "none"}


@pytest.mark.skipif(os.geteuid() != 0, reason="wants root, to become an ordinary user with a limit of its own")
def test_new_event_loop_without_memlock():
    # After the import: an ordinary user may be unable to read where the package lies.
    told = run_child(
        """
        import os, resource
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        report()
        """
    )
    if told["cause"] == "none":
        pytest.skip("this kernel does not count rings against RLIMIT_MEMLOCK")
    assert told["cause"] == "memlock"
    assert told["errno"] == str(errno.ENOMEM)
    assert "RLIMIT_MEMLOCK allows 0 bytes" in told["text"]
    needed = int(told["text"].partition("one ring needs ")[2].partition(" bytes")[0])
    # What the README says.
    readme = " ".join((pathlib.Path(__file__).parents[1] / "README.md").read_text().split())
    assert f"{needed:,} bytes for each open loop" in readme
    assert f"8 MiB per user (`ulimit -l`) is enough for {(8 << 20) // needed} loops" in readme


def test_new_event_loop_without_files():
    # Everything that the process may still open is opened, then one more file is asked for.
    told = run_child(
        """
        import os, resource
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, limit[1]))
        held = []
        try:
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        report()
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        for fd in held:
            os.close(fd)
        """
    )
    assert told["cause"] == "files"
    assert told["errno"] == str(errno.EMFILE)
    assert "RLIMIT_NOFILE is 64" in told["text"]


@pytest.mark.parametrize("free", [1, 2, 3, 4])
def test_new_event_loop_with_too_few_files_leaks_none(free):
    # A loop needs a ring and wake-up descriptors: wherever the limit hits, what was opened is closed again.
    told = run_child(
        f"""
        import os, resource
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, limit[1]))
        held = []
        try:
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        for fd in held[-{free}:]:
            os.close(fd)
        del held[-{free}:]
        def count_free():
            got = []
            try:
                while True:
                    got.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass
            for fd in got:
                os.close(fd)
            return len(got)
        before = count_free()
        try:
            loop = uringloop.new_event_loop()
        except OSError as error:
            print("errno", error.errno)
            del error
        else:
            print("errno none")
            loop.close()
        print("leaked", before - count_free())
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        for fd in held:
            os.close(fd)
        """
    )
    assert told["errno"] in ("none", str(errno.EMFILE))
    assert told["leaked"] == "0"


def test_unavailable_imports_nothing_late():
    # With EMFILE no module can be opened any more.
    source = pathlib.Path(sys.modules["uringloop.unavailable"].__file__).read_text()
    assert not [line for line in source.splitlines() if line.startswith(" ") and line.lstrip().startswith("import ")]


# What io_uring_enter(2) may say, some of it to an SQE only. All at once: most of the time they wait.
ENTER_ERRNOS = [errno.EAGAIN, errno.EBADF, errno.EBADR, errno.EBUSY, errno.EEXIST, errno.EFAULT, errno.EINTR,
                errno.EINVAL, errno.ENOMEM, errno.ENXIO, errno.EOPNOTSUPP, errno.EPERM]


def for_each_errno(function):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return dict(zip(ENTER_ERRNOS, pool.map(function, ENTER_ERRNOS)))


def test_new_event_loop_under_a_filter_of_each_errno_ends():
    """Also where the kernel would say it in passing."""
    told = for_each_errno(lambda number: run_child(INSTALL_FILTER.format(errno=number, first=426, last=426) + "report()"))
    for number in ENTER_ERRNOS:
        assert told[number]["errno"] == str(number)
        assert f"io_uring_enter failed ({errno.errorcode[number]})" in told[number]["text"]
        assert "seccomp filter" in told[number]["text"]


LATER_FILTER = """
import asyncio, ctypes, os, socket, uringloop  # (An import of ctypes may leave a descriptor.)
descriptors = os.listdir("/proc/self/fd")
loop = uringloop.new_event_loop()
a, b = socket.socketpair()
transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=a))
# Its receive is in the kernel.
loop.run_until_complete(asyncio.sleep(0.001))
{install}
sleeping = asyncio.sleep(0.01)
try:
    loop.run_until_complete(sleeping)
except OSError as exc:
    print(exc.errno)
loop.close()
loop.close()
a.close()
b.close()
print(loop.is_closed(), os.listdir("/proc/self/fd") == descriptors)
"""


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.ENOMEM, errno.EIO], ids=errno.errorcode.get)
def test_loop_is_closed_under_a_filter_that_came_later(number):
    """Whatever the kernel says to an enter, nothing of the loop is left."""
    program = LATER_FILTER.format(install=INSTALL_FILTER.format(first=426, last=426, errno=number))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(number), "True", "True"]


# An idle loop, and one that has something to submit.
REFUSED_FOR_EVER = """
import asyncio, ctypes, os, socket, uringloop  # (An import of ctypes may leave a descriptor.)
descriptors = os.listdir("/proc/self/fd")
loop = uringloop.new_event_loop()
a, b = socket.socketpair()
transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=a))
loop.run_until_complete(asyncio.sleep(0.001))
{install}
async def main(sends):
    if sends:
        transport.write(b"x")
    # Timers are no way out of it.
    while True:
        await asyncio.sleep(0.01)
        if sends is None:
            await loop.create_future()
for sends in None, False, True:
    try:
        loop.run_until_complete(main(sends))
    except OSError as exc:
        assert isinstance(exc, uringloop.IouringUnavailableError) and exc.call == "io_uring_enter"
        print(exc.errno)
# What was left runs to its end, as far as it needs no kernel.
loop.close()
a.close()
b.close()
print(loop.is_closed(), os.listdir("/proc/self/fd") == descriptors)
"""


def test_run_under_a_later_filter_of_each_errno_ends():
    """A call that is refused for ever is an error of the run, whatever the errno says of later."""

    def run(number):
        program = REFUSED_FOR_EVER.format(install=INSTALL_FILTER.format(first=426, last=426, errno=number))
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    for number, told in for_each_errno(run).items():
        assert told == [str(number)] * 3 + ["True", "True"], errno.errorcode[number]


def test_loop_is_closed_soon_under_a_later_filter_of_each_errno():
    def run(number):
        program = LATER_FILTER.format(install=INSTALL_FILTER.format(first=426, last=426, errno=number))
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    for number, told in for_each_errno(run).items():
        # (The sleep may have been over before.)
        assert told in ([str(number), "True", "True"], ["True", "True"]), errno.errorcode[number]
