"""One measurement: a fresh process for the peer, load on it from another core, and what came of it."""

import contextlib
import ctypes
import json
import os
import re
import selectors
import signal
import subprocess
import tempfile
import time

from . import machine
from .workloads import MIB

START_LIMIT = 10
PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None)


class Failure(Exception):
    """A measurement without a figure: `status` is one word, `detail` a line.

    absent: the peer has no such server. unsupported: it said that it can't. wrong: a reply differs. hang: replies are
    missing. crash: the process ended, or connections did. load: the load generator failed.
    """

    def __init__(self, status, detail=""):
        super().__init__(status, detail)
        self.status, self.detail = status, " ".join(detail.split())[:300]


def on_core(core):
    """What a child does first: it stays on a core, ends with this process, and goes before others where that is allowed.

    The kernel shares a core out among sessions (sched(7), autogroup), so it gets one of its own.
    """
    def prepare():
        os.sched_setaffinity(0, {core})
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as file:
            file.write("-20")

    return prepare


def telling_line(text):
    """The line of a process's errors that says most."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|UNSUPPORTED)\b", line)]
    return (errors or lines or [""])[-1]


class Server:
    """A peer's process that serves. A context manager: it is killed at the end."""

    def __init__(self, command, environment, core):
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=self.errors, text=True, preexec_fn=on_core(core)
        )
        try:
            self.port = self.wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def wait_until_ready(self):
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(START_LIMIT):
                raise Failure("hang", "the server did not start")
        word, _, rest = self.process.stdout.readline().partition(" ")
        if word == "READY":
            return int(rest)
        if word == "UNSUPPORTED":
            raise Failure("unsupported", rest)
        raise Failure("crash", f"at its start: {self.complaint()}")

    @property
    def pid(self):
        return self.process.pid

    def complaint(self):
        self.errors.seek(0)
        return telling_line(self.errors.read())

    def failure(self, status, detail):
        """What is known of a server that failed."""
        time.sleep(0.05)  # what it says at its end may still be on its way
        complaint = self.complaint()
        if complaint.startswith("UNSUPPORTED"):
            return Failure("unsupported", complaint.partition(" ")[2])
        if self.process.poll() is not None:
            return Failure("crash", f"exit status {self.process.returncode}: {complaint or detail}")
        return Failure(status, f"{detail}; {complaint}" if complaint else detail)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.stop()


def check(result, failure):
    """Raise what a load's result says against the server. failure(status, detail) makes the exception."""
    if "failed" in result:
        raise failure("hang" if "temporarily" in result["failed"] else "crash", result["failed"])
    if result["mismatched"]:
        raise failure("wrong", f"{result['mismatched']} replies are not what they should be")
    if result["silent"]:
        raise failure("hang", f"{result['silent']} connections were never served")
    if result["broken"]:
        raise failure("crash", f"{result['broken']} connections ended by themselves")
    if result["lost"]:
        raise failure("hang", f"{result['lost']} messages were not answered")
    if not result["bytes"]:
        raise failure("hang", "nothing came back")


def run_load(
    load, mode, server, core, *, seconds, warm_up, patience=3, connections=1, size=1024, rate=0, tls=False, flood=False
):
    """Run the load generator against a server (of which `port` and `pid` are used), and return its result, unchecked.

    load: the program. mode: see c/load.c. core: where it runs. seconds, warm_up: the window, and the time before it.
    patience: seconds for what is outstanding then. rate: messages a second, for an open loop.
    Raises Failure where it has no result.
    """
    command = [load, mode, "--port", str(server.port), "--server", str(server.pid)]
    command += ["--connections", str(connections), "--size", str(size), "--seconds", str(seconds)]
    command += ["--warm-up", str(warm_up), "--patience", str(patience), "--rate", str(rate)]
    command += ["--tls"] * tls + ["--flood"] * flood
    limit = seconds + warm_up + patience + 15
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, preexec_fn=on_core(core))
    except subprocess.TimeoutExpired:
        raise Failure("hang", "the load came to no end") from None
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise Failure("load", f"exit status {done.returncode}: {done.stderr}") from None


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Measurement:
    """How to measure: the programs, the cores (of the server and of the load) and the times, in seconds."""

    def __init__(self, c_parts, cores, seconds, warm_up):
        self.c_parts, self.seconds, self.warm_up = c_parts, seconds, warm_up
        self.cores = cores
        self.server_core, self.load_core = cores
        self.files = c_parts.write_files()

    def __call__(self, peer, workload):
        """Measure a peer under a workload: return a dict with the workload's figure and what else is known.

        The figures are in microseconds, bytes, or a plain factor. Raises Failure.
        """
        if peer.program and workload.kind not in peer.kinds:
            raise Failure("absent")
        if workload.load in ("micro", "process"):
            watch = machine.Watch([self.server_core])  # the other one has nothing to do
            result = self.micro(peer, workload) if workload.load == "micro" else self.processes(peer)
            result |= watch.noise()
        else:
            result = self.served(peer, workload)
        if "server_cpu" in result:
            count = result["bytes"] / MIB if workload.unit == "MiB" else result["messages"]
            if not count:
                raise Failure("hang", "nothing was finished in the window")
            result["cpu_us"] = result["server_cpu"] / count * 1e6
            result["rate"] = count / result["seconds"]
        result["invalid"] = invalid_for(result, workload)
        return result

    def served(self, peer, workload):
        if peer.program:
            command = [self.c_parts.path(peer.program), workload.kind]
        else:
            command = peer.command("serve", workload.kind, self.files)
        with Server(command, peer.variables(), self.server_core) as server:
            # Not of the server's start, which is no part of any figure.
            watch = machine.Watch(self.cores, server.pid)
            if workload.load == "idle":
                result = self.idle(server, workload)
            elif workload.load == "fairness":
                result = self.fairness(server, workload)
            else:
                result = self.load(server, workload.load, workload)
            return result | watch.noise()

    def load(self, server, mode, workload, **options):
        w = workload
        options |= {"connections": w.connections, "size": w.size, "rate": w.rate, "tls": w.tls}
        options |= {"seconds": self.seconds, "warm_up": self.warm_up}
        result = run_load(self.c_parts.load, mode, server, self.load_core, **options)
        check(result, server.failure)
        if server.process.poll() is not None:
            raise server.failure("crash", "under the load")
        return result

    def fairness(self, server, workload):
        alone = self.load(server, "streams", workload)
        result = self.load(server, "streams", workload, flood=True)
        result["p99_alone_us"] = alone["p99_us"]
        result["p99_factor"] = result["p99_us"] / alone["p99_us"]
        del result["server_cpu"]  # most of it is the flood's
        return result

    def idle(self, server, workload):
        before = resident_bytes(server.pid)
        command = [self.c_parts.load, "idle", "--port", str(server.port)]
        command += ["--connections", str(workload.connections), "--size", str(workload.size)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=on_core(self.load_core)
        ) as client:
            line = client.stdout.readline().strip()
            if line != "ready":
                raise server.failure("hang", line or "the load generator ended")
            time.sleep(0.1)
            after = resident_bytes(server.pid)
        return {"rss": (after - before) / workload.connections, "rss_before": before}

    def micro(self, peer, workload):
        command = peer.command("micro", workload.kind, str(self.seconds), str(self.warm_up))
        try:
            done = subprocess.run(
                command, env=peer.variables(), capture_output=True, text=True, timeout=self.seconds + self.warm_up + 30,
                preexec_fn=on_core(self.server_core),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Failure("hang", "it came to no end") from None
        if done.returncode:
            status = "unsupported" if "NotImplementedError" in done.stderr else "crash"
            raise Failure(status, telling_line(done.stderr) or f"exit status {done.returncode}")
        return json.loads(done.stdout)

    def processes(self, peer):
        """Interpreters that import the loop, make one, run it once and end: their whole CPU time."""
        command, environment = peer.command("once"), peer.variables()
        count, cpu, start = 0, 0.0, None
        while start is None or time.monotonic() < start + self.seconds:
            process = subprocess.Popen(command, env=environment, preexec_fn=on_core(self.server_core))
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise Failure("crash", f"exit status {process.returncode}")
            if start is None:  # the first one reads the files
                start = time.monotonic()
            else:
                count += 1
                cpu += usage.ru_utime + usage.ru_stime
        return {"messages": count, "seconds": time.monotonic() - start, "server_cpu": cpu}


def invalid_for(result, workload):
    """Why a measurement says nothing, or not all: a list of lines, empty for a good one."""
    reasons = []
    if workload.figure == "rss":
        return reasons  # no time is in it
    if result["foreign"] > machine.FOREIGN_LIMIT:
        reasons.append(f"foreign load: {result['foreign']:.2f} cores")
    if result["stolen"] > machine.STOLEN_LIMIT:
        reasons.append(f"steal: {result['stolen']:.2f} cores")
    if workload.rate and "client_cpu" in result:
        # A flood is as much as the client can do; its turns are short, and lateness tells whether they were.
        if limited_by_client(result) and workload.load != "fairness":
            reasons.append("saturated client")
        if result["late_p99_us"] > result["p99_us"] / 2:
            reasons.append("late client")
        if result["messages"] < machine.RATE_LIMIT * workload.rate * result["seconds"]:
            reasons.append("saturated server")
    return reasons


def limited_by_client(result):
    """In a closed loop a busy load generator limits the rate. The server's CPU time for a message is what it is."""
    return result.get("client_cpu", 0) > machine.CLIENT_LIMIT * result.get("seconds", 1)
