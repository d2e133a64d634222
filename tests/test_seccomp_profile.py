"""docs/seccomp.json, which IouringUnavailableError names: what it allows is enough for a loop, and not everything."""

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROFILE = ROOT / "docs" / "seccomp.json"
THREE = {"io_uring_setup", "io_uring_enter", "io_uring_register"}
HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")

# Loads the profile into a filter of its own and then runs a program under it, as a container's manager does.
CONFINED = r"""
import ctypes, json, os, re, struct, sys
profile, header, without, *command = sys.argv[1:]
with open(header) as file:
    numbers = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", file.read())}
with open(profile) as file:
    profile = json.load(file)
LOAD, JEQ, JGE, AND, RET = 0x20, 0x15, 0x35, 0x54, 0x06
ALLOW, ERRNO = 0x7fff0000, 0x00050000
program = []
def bpf(*instruction):
    program.append(struct.pack("HBBI", *instruction))
# seccomp_data: the call's number, the architecture, and from byte 16 on the arguments, little-endian.
bpf(LOAD, 0, 0, 4)
bpf(JEQ, 1, 0, 0xc000003e)      # AUDIT_ARCH_X86_64
bpf(RET, 0, 0, ERRNO | 1)
for rule in profile["syscalls"]:
    verdict = ALLOW if rule["action"] == "SCMP_ACT_ALLOW" else ERRNO | rule["errnoRet"]
    for name in rule["names"]:
        if name not in numbers or name in without.split(","):
            continue
        tests = []
        for wanted in rule.get("args", ()):
            tests.append((LOAD, 0, 0, 16 + 8 * wanted["index"]))
            # The verdict is next; what does not fit jumps over it.
            if wanted["op"] == "SCMP_CMP_LT":
                tests.append((JGE, 1, 0, wanted["value"]))
            elif wanted["op"] == "SCMP_CMP_EQ":
                tests.append((JEQ, 0, 1, wanted["value"]))
            else:
                assert wanted["op"] == "SCMP_CMP_MASKED_EQ", wanted
                tests += [(AND, 0, 0, wanted["value"]), (JEQ, 0, 1, wanted["valueTwo"])]
        assert len(rule.get("args", ())) < 2
        bpf(LOAD, 0, 0, 0)
        bpf(JEQ, 0, len(tests) + 1, numbers[name])
        for test in tests:
            bpf(*test)
        bpf(RET, 0, 0, verdict)
bpf(RET, 0, 0, ERRNO | profile["defaultErrnoRet"])
code = ctypes.create_string_buffer(b"".join(program))
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl.argtypes = [ctypes.c_int] + 4 * [ctypes.c_ulong]
fprog = Filter(len(program), ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0, ctypes.get_errno()  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, ctypes.addressof(fprog), 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP
os.execv(command[0], command)
"""

needs_numbers = pytest.mark.skipif(
    platform.machine() != "x86_64" or not HEADER.exists(), reason="needs x86-64's numbers of the system calls")


def confined(*arguments, without=()):
    """Run Python under the profile, less the calls in `without`."""
    return subprocess.run(
        [sys.executable, "-c", CONFINED, PROFILE, HEADER, ",".join(without), sys.executable, *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60)


def names(action="SCMP_ACT_ALLOW"):
    return [name for rule in json.loads(PROFILE.read_text())["syscalls"] if rule["action"] == action
            for name in rule["names"]]


def test_profile_names_the_three_calls_once_and_refuses_what_is_not_named():
    assert json.loads(PROFILE.read_text())["defaultAction"] == "SCMP_ACT_ERRNO"
    assert THREE <= set(names())
    assert {name for name in names() if names().count(name) > 1} == {"personality"}


def test_profile_keeps_out_what_containers_must_not():
    assert not {"bpf", "mount", "umount2", "ptrace", "keyctl", "setns", "unshare", "kexec_load", "init_module", "chroot",
                "pivot_root", "perf_event_open", "process_vm_writev", "userfaultfd", "reboot"} & set(names())


@needs_numbers
def test_a_loop_runs_under_the_profile():
    # With a thread, a subprocess and TLS's random bytes.
    done = confined("-W", "error", "-c", """if True:
        import asyncio, ssl, sys, uringloop
        async def main():
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"echo")
            writer.write_eof()
            answer = await reader.read()
            writer.close()
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print('child')", stdout=-1)
            return answer, await asyncio.to_thread(ssl.RAND_bytes, 1), (await process.communicate())[0]
        async def serve(reader, writer):
            writer.write(await reader.read())
            writer.close()
        with asyncio.Runner(loop_factory=uringloop.new_event_loop) as runner:
            server = runner.run(asyncio.start_server(serve, "127.0.0.1", 0))
            answer, random, child = runner.run(main())
            server.close()
        print(answer, child, type(runner).__name__)""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "b'echo' b'child\\n' Runner\n", "")


@needs_numbers
@pytest.mark.parametrize("program", [
    "import ctypes; libc = ctypes.CDLL(None, use_errno=True); libc.unshare(0x04000000); print(ctypes.get_errno())",
    "import os\ntry: os.chroot('/')\nexcept OSError as exc: print(exc.errno)",
    "import socket\ntry: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)\nexcept OSError as exc: print(exc.errno)",
    # A process in a new namespace of host names.
    "import ctypes; libc = ctypes.CDLL(None, use_errno=True); libc.syscall(56, 0x04000011, 0, 0, 0, 0);"
    "print(ctypes.get_errno())",
], ids=["unshare", "chroot", "AF_ALG", "clone"])
def test_the_profile_refuses(program):
    done = confined("-c", program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


@needs_numbers
@pytest.mark.parametrize("without", [THREE, {"io_uring_setup"}], ids=["all three", "io_uring_setup"])
def test_without_the_calls_the_error_names_the_profile(without):
    done = confined("-c", "import uringloop; uringloop.new_event_loop()", without=sorted(without))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    named = re.search(r"docs/\S+\.json", last)
    assert "IouringUnavailableError" in last and (ROOT / named[0]) == PROFILE
