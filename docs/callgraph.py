"""Draw where the time of a small echo goes: docs/callgraph.svg, out of perf's samples.

    python docs/callgraph.py [SECONDS]

A server of this package runs under perf on one core, its client, 64 connections of 1 KiB echoes, on
another.  Needs perf, graphviz and CPython 3.13 or later (`-X perf_jit`), and leave to sample the
kernel (perf_event_paranoid, or root).  A box is a function of Python, Cython or C++, or a part of
the kernel, with the microseconds a message spent in it and below; what is between two boxes (the
interpreter, allocation) counts for the upper one.

Source: perf-record(1), perf-inject(1), https://docs.python.org/3/howto/perf_profiling.html
"""

import asyncio
import collections
import os
import re
import resource
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

CONNECTIONS = 64
SIZE = 1024
SMALLEST = 0.2  # µs a message, below which there is no box
SVG = Path(__file__).with_name("callgraph.svg")

# Boxes of the kernel, by the functions that begin them.
KERNEL = {
    "__do_sys_io_uring_enter": "io_uring_enter(2)",
    "io_submit_sqes": "submit SQEs",
    "io_send": "SEND: tcp_sendmsg, and loopback up to the peer's queue",
    "io_poll_add": "POLL_ADD",
    "io_run_local_work": "task work: completions",
    "__io_run_local_work": "task work: completions",
    "__x64_sys_recvfrom": "recvfrom(2)",
    "schedule": "asleep: switch",
    "__schedule": "asleep: switch",
    "asm_sysvec_apic_timer_interrupt": "timer interrupt",
}


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


async def serve():
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


def run_server():
    """Serve until stdin ends; print the port first, the CPU seconds last."""
    import uringloop

    uringloop.run(serve())
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(usage.ru_utime + usage.ru_stime, flush=True)


def echo_for(seconds, port):
    """Return how many messages went round."""
    selector = selectors.DefaultSelector()
    message, count = bytes(SIZE), 0
    for _ in range(CONNECTIONS):
        sock = socket.create_connection(("127.0.0.1", port))
        selector.register(sock, selectors.EVENT_READ)
        sock.send(message)
    give_up = os.times().elapsed + seconds
    while os.times().elapsed < give_up:
        for key, _ in selector.select(1):
            count += len(key.fileobj.recv(SIZE)) == SIZE
            key.fileobj.send(message)
    return count


def box(function, library):
    """Return the name of the box that a frame begins, or None."""
    if "kernel" in library:
        return KERNEL.get(function)
    if function.startswith("py::"):
        return function[4:].split(":")[0]
    if function.startswith("uring::Proactor"):
        return function
    if match := re.match(r"__pyx_\w+?_9uringloop_\d+(?:uring_events|_overlapped|_sockaddr)_(.*)", function):
        return unmangled(match[1])
    return None


def unmangled(name):
    """Return "IouringProactor.recv_into" for Cython's "15IouringProactor_21recv_into"."""
    owner = ""
    if match := re.match(r"\d+", name):
        length = int(match[0])
        rest = name[match.end() :]
        if len(rest) > length:
            owner, name = rest[:length] + ".", rest[length + 1 :]
    return owner + name.lstrip("0123456789")


def stacks(script):
    """Yield each sample of `perf script` as its boxes, the outermost first."""
    frames = []
    for line in [*script.splitlines(), ""]:
        if not line.strip():
            if frames:
                yield frames[::-1]
            frames = []
        elif line[0].isspace():
            if match := re.match(r"\s*[0-9a-f]+ (.*) \((.*)\)$", line):
                name = box(match[1].rsplit("+0x", 1)[0], match[2])
                # One frame may be listed twice, once for what was inlined into it.
                if name and not (frames and frames[-1] == name):
                    frames.append(name)


def draw(script, per_message):
    """Write the SVG; `per_message` is the server's CPU for one, in microseconds."""
    nodes, edges, total = collections.Counter(), collections.Counter(), 0
    for frames in stacks(script):
        total += 1
        if "BaseEventLoop._run_once" not in frames:
            continue
        frames = frames[frames.index("BaseEventLoop._run_once") :]
        nodes.update(set(frames))
        edges.update(set(zip(frames, frames[1:])))
    share = per_message / total
    lines = ['digraph { rankdir=LR; node [shape=box style=filled fontname="sans-serif" fontsize=11];']
    kept = {name for name, count in nodes.items() if count * share >= SMALLEST}
    for name in kept:
        cost = nodes[name] * share
        lines.append(f'"{name}" [label="{name}\\n{cost:.2f} µs" fillcolor="0.08 {min(1, cost / per_message):.2f} 1.0"];')
    for (upper, lower), count in edges.items():
        if upper in kept and lower in kept and count * share >= SMALLEST:
            lines.append(f'"{upper}" -> "{lower}" [penwidth={max(1, count * share):.1f}];')
    picture = subprocess.run(["dot", "-Tsvg"], input="\n".join([*lines, "}"]), capture_output=True, text=True, check=True)
    SVG.write_text(picture.stdout)


def main(seconds):
    for program in ("perf", "dot", "taskset"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is missing: `apt install linux-perf graphviz util-linux` brings all of them")
    with tempfile.TemporaryDirectory() as directory:
        server = subprocess.Popen(
            ["taskset", "-c", "0", sys.executable, "-X", "perf_jit", __file__, "server"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        port = int(server.stdout.readline())
        os.sched_setaffinity(0, {1})
        data = f"{directory}/perf.data"
        record = ["perf", "record", "-q", "-k", "1", "-F", "999", "--call-graph", "dwarf,16384", "-p", str(server.pid)]
        perf = subprocess.Popen([*record, "-o", data, "--", "sleep", str(seconds)])
        count = echo_for(seconds, port)
        perf.wait()
        server.stdin.close()
        cpu = float(server.stdout.readline())
        server.wait()
        subprocess.run(["perf", "inject", "--jit", "-i", data, "-o", data + ".jit"], check=True, stderr=subprocess.DEVNULL)
        script = subprocess.run(["perf", "script", "-i", data + ".jit"], capture_output=True, text=True, check=True)
        Path(f"/tmp/jit-{server.pid}.dump").unlink(missing_ok=True)
    print(f"{count} messages, {cpu / count * 1e6:.1f} µs of CPU each under perf")
    draw(script.stdout, cpu / count * 1e6)


if __name__ == "__main__":
    if sys.argv[1:] == ["server"]:
        run_server()
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
