"""`python -m uringloop bench`: a short benchmark beside the loops that are installed, and a drawing of it.

An echo server in a process of its own on each loop in turn, and one client, the same for all, which waits for each
answer before it sends the next message. What is compared is the server's CPU for a message: the rate is as much the
client's, which is in Python, and slower than the servers. It says which loop costs less on this machine, in half a
minute; the project's benchmarks/, which are not installed, say more.

No counterpart in the stdlib.
"""

import asyncio
import importlib.util
import os
import select
import socket
import statistics
import subprocess
import sys
import time
from html import escape

MESSAGE = 1024  # bytes

# Name -> (protocol or streams, connections).
WORKLOADS = {
    "echo 1 KiB, 1 connection": ("protocol", 1),
    "echo 1 KiB, 64 connections": ("protocol", 64),
    "streams 1 KiB, 64 connections": ("streams", 64),
}
# Name -> the module that has it, None for the standard library.
LOOPS = {"uringloop": "uringloop", "asyncio": None, "uvloop": "uvloop"}

_WARM_UP = 0.1  # seconds
_PATIENCE = 20.0
_BAR = 40       # columns of the longest
_EIGHTHS = " ▏▎▍▌▋▊▉"


class Failed(Exception):
    """A server could not be had, or did not answer; the text says why."""


def installed():
    """Return the names of the loops that can be imported here, ours first."""
    return [name for name, module in LOOPS.items() if module is None or importlib.util.find_spec(module) is not None]


def measure(loops=None, seconds=0.5, rounds=3, progress=lambda text: None):
    """Run all workloads on the loops, one after the other in each round.

    seconds: of each measurement; rounds: how many of each.
    progress: called with a line before each.

    Returns {workload: {loop: {"cpu_us": microseconds of the server's CPU a message, "rate": messages a second,
    "cpu_us_rounds": [the lowest and the highest of cpu_us]}}}. The first two are medians over the rounds. Raises Failed.
    """
    loops = installed() if loops is None else loops
    taken = {(workload, loop): [] for workload in WORKLOADS for loop in loops}
    for number in range(rounds):
        for workload, (kind, connections) in WORKLOADS.items():
            # None is always the first.
            for loop in loops[number % len(loops):] + loops[:number % len(loops)]:
                progress(f"round {number + 1} of {rounds}: {workload}, {loop}")
                taken[workload, loop].append(_measure_one(loop, kind, connections, seconds))
    return {workload: {loop: _summary(*zip(*taken[workload, loop], strict=True)) for loop in loops} for workload in WORKLOADS}


def _summary(cpus, rates):
    return {"cpu_us": statistics.median(cpus), "rate": statistics.median(rates), "cpu_us_rounds": [min(cpus), max(cpus)]}


def _measure_one(loop, kind, connections, seconds):
    server = subprocess.Popen(
        [sys.executable, "-m", "uringloop.bench", loop, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True)
    try:
        port = _answer(server)
        _pin(0)
        with _Client(int(port), connections) as client:
            client.run(_WARM_UP)
            before = float(_ask(server))
            began = time.perf_counter()
            messages = client.run(seconds)
            took = time.perf_counter() - began
            after = float(_ask(server))
        return 1e6 * (after - before) / max(1, messages), messages / took
    except (OSError, ValueError) as exc:
        raise Failed(f"the server on {loop} does not answer: {exc}") from exc
    finally:
        server.stdin.close()
        try:
            server.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        server.stdout.close()
        server.stderr.close()


def _ask(server):
    server.stdin.write("\n")
    server.stdin.flush()
    return _answer(server)


def _answer(server):
    line = server.stdout.readline()
    if not line:
        said = server.stderr.read().strip().splitlines()
        raise Failed(said[-1] if said else f"the server has ended, with status {server.wait()}")
    return line


def _pin(which):
    """Keep this process to one CPU, the client to another than the server, where there are two."""
    cpus = sorted(os.sched_getaffinity(0) if which else _ALL_CPUS)
    if len(cpus) > 1:
        os.sched_setaffinity(0, {cpus[which]})


_ALL_CPUS = os.sched_getaffinity(0)


class _Client:
    """So many connections, on each of which one message is under way."""

    def __init__(self, port, connections):
        self._poll = select.epoll()
        self._socks = {}
        self._left = {}
        for _ in range(connections):
            sock = socket.create_connection(("127.0.0.1", port), _PATIENCE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socks[sock.fileno()] = sock
            self._left[sock.fileno()] = MESSAGE
            self._poll.register(sock.fileno(), select.EPOLLIN)
            sock.sendall(bytes(MESSAGE))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for sock in self._socks.values():
            sock.close()
        self._poll.close()

    def run(self, seconds):
        """Return how many messages have come back in about so many seconds."""
        message = bytes(MESSAGE)
        messages = 0
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            ready = self._poll.poll(_PATIENCE)
            if not ready:
                raise OSError(f"nothing within {_PATIENCE:.0f} s")
            for fd, _ in ready:
                sock = self._socks[fd]
                received = len(sock.recv(MESSAGE))
                if not received:
                    raise OSError("it has closed a connection")
                self._left[fd] -= received
                if not self._left[fd]:
                    self._left[fd] = MESSAGE
                    messages += 1
                    sock.sendall(message)
        return messages


# -- the server's process --


def new_loop(name):
    """Return a new loop of that name."""
    if name == "asyncio":
        return asyncio.SelectorEventLoop()
    return importlib.import_module(LOOPS[name]).new_event_loop()


class _Echo(asyncio.Protocol):

    def connection_made(self, transport):
        self._transport = transport

    def data_received(self, data):
        self._transport.write(data)


async def _echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def _serve(kind):
    """Tell the port; for each line that comes, tell the CPU seconds that this process has taken; end with the last."""
    loop = asyncio.get_running_loop()
    if kind == "protocol":
        server = await loop.create_server(_Echo, "127.0.0.1", 0)
    else:
        server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    ended = loop.create_future()

    def answer():
        line = os.read(0, 4096)
        if not line:
            loop.remove_reader(0)
            ended.set_result(None)
        else:
            print(time.process_time(), flush=True)

    loop.add_reader(0, answer)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended
    server.close()


def _main(loop, kind):
    _pin(1)
    with asyncio.Runner(loop_factory=lambda: new_loop(loop)) as runner:
        runner.run(_serve(kind))


# -- what is drawn --


def chart(results, encoding="utf-8"):
    """Return the results as text, with bars that `encoding` has characters for."""
    try:
        (_EIGHTHS + "█µ").encode(encoding)
    except UnicodeError:
        bar, micro = _plain_bar, "us"
    else:
        bar, micro = _smooth_bar, "µs"
    lines = []
    for workload, loops in results.items():
        longest = max(each["cpu_us"] for each in loops.values()) or 1
        lines.append(f"{workload}: the server's CPU a message, less is better")
        for loop, each in loops.items():
            low, high = each["cpu_us_rounds"]
            lines.append(f"  {loop:<10} {bar(each['cpu_us'] / longest):<{_BAR + 1}} {each['cpu_us']:6.2f} {micro} "
                         f"({low:.1f} to {high:.1f}) {each['rate']:>9,.0f} messages/s")
        lines.append("")
    lines.append("The client is in Python, one for all loops, and takes part of the time: compare the CPU, not the rate.")
    lines.append("In brackets the lowest and the highest round. Loops whose rounds overlap can't be told apart: take more --rounds.")
    return "\n".join(lines) + "\n"


def _smooth_bar(part):
    eighths = round(part * _BAR * 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip() or "▏"


def _plain_bar(part):
    return "#" * max(1, round(part * _BAR))


def svg(results):
    """Return the results as a drawing, a text in SVG."""
    width, left, bar, row = 640, 90, 400, 22
    shapes = []
    y = 10
    for workload, loops in results.items():
        y += 18
        shapes.append(f'<text x="10" y="{y}" font-weight="bold">{escape(workload)}</text>')
        y += 8
        longest = max(each["cpu_us"] for each in loops.values()) or 1
        for loop, each in loops.items():
            length = bar * each["cpu_us"] / longest
            colour = "#2f6db3" if loop == "uringloop" else "#9aa5b1"
            shapes.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(loop)}</text>')
            shapes.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{row - 6}" fill="{colour}"/>')
            shapes.append(f'<text x="{left + length + 6:.1f}" y="{y + 14}">{each["cpu_us"]:.2f} µs</text>')
            y += row
    y += 24
    shapes.append(f'<text x="10" y="{y - 8}" fill="#555">The server\'s CPU a message, less is better.</text>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" viewBox="0 0 {width} {y}" '
            'font-family="sans-serif" font-size="13">\n<rect width="100%" height="100%" fill="white"/>\n'
            + "\n".join(shapes) + "\n</svg>\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
