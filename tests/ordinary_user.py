"""Make, run and close many loops as an ordinary user: the program of test_ordinary_user.py.

    sudo .venv/bin/python tests/ordinary_user.py sequence | alive | threads

sequence: 2,000 loops, one after the other.
alive: 50 loops at once, run in turn by one thread.
threads: 50 loops at once, each run by a thread of its own.

Each loop echoes a message over a socket pair.  Started as root, the process becomes `nobody`; an ordinary user stays
who it is.  In both cases it has 8 MiB of locked memory, Debian's usual limit, and 1,024 descriptors.  The locked memory
of a closed ring is given back late, and root is never refused: neither shows without the other user (liburing#157).
All imports come before, so that neither the interpreter nor the checkout need be readable by nobody.
"""

import asyncio
import contextlib
import os
import pwd
import resource
import socket
import sys
import threading

import uringloop

SEQUENCE = 2000
ALIVE = 50
LOCKED_MEMORY = 8 << 20
FILES = 1024


def become_ordinary():
    """Give up root, and take the limits that most users have."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (LOCKED_MEMORY, LOCKED_MEMORY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
    assert os.getuid() != 0 and os.geteuid() != 0


def open_files():
    """The open descriptors; /proc/self/fd is still root's after setuid(2)."""
    found = []
    for fd in range(FILES):
        with contextlib.suppress(OSError):
            os.fstat(fd)
            found.append(fd)
    return found


async def echo(number):
    """Send a message through a socket pair and back."""

    async def serve(sock):
        while data := await loop.sock_recv(sock, 100):
            await loop.sock_sendall(sock, data)

    loop = asyncio.get_running_loop()
    message = b"message %d" % number
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        serving = asyncio.create_task(serve(theirs))
        await loop.sock_sendall(ours, message)
        answer = b""
        while len(answer) < len(message):
            data = await loop.sock_recv(ours, 100)
            assert data, "the stream ended"
            answer += data
        ours.shutdown(socket.SHUT_WR)
        await serving
    assert answer == message


def sequence():
    for number in range(SEQUENCE):
        with contextlib.closing(uringloop.new_event_loop()) as loop:
            loop.run_until_complete(echo(number))


def alive():
    with contextlib.ExitStack() as stack:
        loops = [stack.enter_context(contextlib.closing(uringloop.new_event_loop())) for _ in range(ALIVE)]
        for turn in range(3):
            for number, loop in enumerate(loops):
                loop.run_until_complete(echo(turn * ALIVE + number))


def threads():
    def run(number):
        with contextlib.closing(uringloop.new_event_loop()) as loop:
            everybody.wait(30)
            loop.run_until_complete(echo(number))
            everybody.wait(30)
            loop.run_until_complete(echo(number))
        done.append(number)

    done = []
    everybody = threading.Barrier(ALIVE)
    started = [threading.Thread(target=run, args=(number,)) for number in range(ALIVE)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    assert sorted(done) == list(range(ALIVE))


WAYS = {"sequence": sequence, "alive": alive, "threads": threads}


def main():
    if len(sys.argv) != 2 or sys.argv[1] not in WAYS:
        raise SystemExit(__doc__)
    become_ordinary()
    # The standard library's loop brings what asyncio opens once a process.
    with contextlib.closing(asyncio.SelectorEventLoop()) as loop:
        loop.run_until_complete(echo(0))
    before = open_files()
    WAYS[sys.argv[1]]()
    assert open_files() == before, (before, open_files())


if __name__ == "__main__":
    main()
