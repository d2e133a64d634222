#!/usr/bin/env python3
"""Random programs on event loops on the simulated kernel, against a model of the bytes.

    python tests/random_loops.py                   # 1,000 programs
    python tests/random_loops.py --programs 50
    python tests/random_loops.py --seed 7          # the one that a failure names

One program is one loop, with the faults that its seed draws.  Between two steps the loop turns and never sleeps.  What
must hold:

 - every byte arrives once, in order, and nowhere else, whatever is cancelled or closed, and whoever gets a number next;
 - a cancelled accept has taken no connection;
 - an exception out of the middle of a turn costs no other operation its end;
 - in the end every task is done, nothing is in flight, and the kernel has nothing to complain of.

test_state_machine.py does more kinds of things; this is faster, has faults, and knows of the kernel's side.
"""

import argparse
import contextlib
import errno
import gc
import random
import socket
import warnings

import simulation
import support
import uringloop

STEPS = 120
MOST_LINES = 6
# Turns after which what should have ended never will.
PATIENCE = 2000


class Failure(Exception):
    pass


def check(good, *words):
    if not good:
        raise Failure(" ".join(map(str, words)))


class Listener(socket.socket):
    """Its accept() may be where a signal's handler raises."""

    interrupted = False

    def accept(self):
        if self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt
        return super().accept()


class Line:
    """A connection: `ours` is the loop's, `theirs` is worked on by plain calls."""

    def __init__(self, number, ours, theirs):
        self.number, self.ours, self.theirs = number, ours, theirs
        for sock in (ours, theirs):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.put, self.got = bytearray(), bytearray()  # theirs to ours
        self.sent, self.arrived = bytearray(), bytearray()  # ours to theirs
        self.rest = b""  # of a send that did not succeed: all, some or nothing of it
        self.receiving = self.sending = None
        self.future = None  # of a receive by the proactor, as transports do it
        self.open = True
        self.came_before = False  # what such a receive has got, before `ours` was closed

    def pattern(self, direction, start, size):
        """Bytes that no other place of any line has."""
        return random.Random(f"{self.number} {direction}").randbytes(start + size)[start:]


def may_be_cancelled(task):
    """False when it is over, or when what it waits for is: then asyncio drops the result, on every loop."""
    return task and not task.done() and not (task._fut_waiter and task._fut_waiter.done())


class Program:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.steps = []
        proactor, self.kernel = simulation.simulated_proactor(seed)
        self.loop = uringloop.IouringProactorEventLoop(proactor)
        self.errors = []
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.stack = contextlib.ExitStack()
        self.stack.callback(self.loop.close)
        self.lines, self.tasks, self.waiting = [], set(), []
        self.count = 0
        self.accepting, self.by_server = [], []
        self.listeners = []
        for _ in range(2):
            listener = self.stack.enter_context(Listener(socket.AF_UNIX))
            listener.bind("")  # a name of the kernel's choice
            listener.listen()
            listener.setblocking(False)
            self.listeners.append(listener)
            self.waiting.append([])
            self.accepting.append(None)
            self.by_server.append(False)
        for _ in range(2):
            self.add_line()

    def run(self):
        """Return what was wrong, with the last steps; None if nothing was."""
        try:
            with self.stack:
                for _ in range(STEPS):
                    self.random.choice(self.STEPS)(self)
                self.finish()
            problems = self.kernel.problems()
            check(not problems, "; ".join(problems))
        except Failure as failure:
            return f"{failure}\nthe last steps:\n  " + "\n  ".join(self.steps[-40:])
        return None

    def note(self, *words):
        self.steps.append(" ".join(map(str, words)))

    def start(self, coroutine):
        task = self.loop.create_task(coroutine)
        self.tasks.add(task)
        return task

    # -- the steps --

    def add_line(self):
        if sum(line.open for line in self.lines) >= MOST_LINES:
            return
        pair = socket.socketpair()
        for sock in pair:
            self.stack.enter_context(sock)
        self.count += 1
        line = Line(self.count, *pair)
        self.lines.append(line)
        self.note("line", line.number, "on", line.ours.fileno())

    def line(self):
        return self.random.choice(self.lines)

    def receive(self):
        line = self.line()
        if not line.open or (line.receiving and not line.receiving.done()):
            return
        size = self.random.randrange(1, 2000)
        into, by_transport = self.random.random() < 0.5, self.random.random() < 0.5
        self.note("receive", size, "on line", line.number)
        proactor = self.loop._proactor
        line.future = None

        def as_transports_do(start, argument):
            future = start(line.ours, argument)
            line.future = future
            return future

        async def receive():
            if into:
                buffer = bytearray(size)
                data = buffer[: await (as_transports_do(proactor.recv_into, buffer) if by_transport
                                       else self.loop.sock_recv_into(line.ours, buffer))]
            else:
                data = await (as_transports_do(proactor.recv, size) if by_transport
                              else self.loop.sock_recv(line.ours, size))
            check(line.open or line.came_before, "bytes of a closed socket on line", line.number)
            line.got += data
            check(line.put.startswith(line.got), "wrong bytes were received on line", line.number)

        line.receiving = self.start(receive())

    def send(self):
        line = self.line()
        if not line.open or line.rest or (line.sending and not line.sending.done()):
            return
        size = self.random.choice([self.random.randrange(1, 500), self.random.randrange(1, 40_000)])
        data = bytearray(line.pattern("up", len(line.sent), size))
        self.note("send", size, "on line", line.number)

        async def send():
            expected = line.rest = bytes(data)
            await self.loop.sock_sendall(line.ours, data)
            line.sent += expected
            line.rest = b""
            # It is ours again.
            data[:] = bytes(size)

        line.sending = self.start(send())

    def cancel(self):
        line = self.line()
        for task in (line.receiving, line.sending):
            if may_be_cancelled(task) and self.random.random() < 0.7:
                self.note("cancel on line", line.number)
                task.cancel()

    def peer_puts(self):
        line = self.line()
        data = line.pattern("down", len(line.put), self.random.randrange(1, 3000))
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            count = line.theirs.send(data)
            line.put += data[:count]
            self.note("peer puts", count, "on line", line.number)

    def peer_takes(self):
        line = self.line()
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            line.arrived += line.theirs.recv(self.random.randrange(1, 20_000))
            self.check_arrived(line)
            self.note("peer has", len(line.arrived), "on line", line.number)

    def check_arrived(self, line):
        check((bytes(line.sent) + line.rest).startswith(line.arrived), "a wrong byte arrived on line", line.number)

    def lose_line(self):
        """Its user closes it without a word; another gets its number at once."""
        line = self.line()
        if not line.open or self.random.random() < 0.5:
            return
        self.note("lose line", line.number)
        line.open = False
        # An interrupted turn leaves it to the next to tell the task.
        line.came_before = line.future is not None and line.future.done()
        line.ours.close()
        if self.random.random() < 0.8:
            self.add_line()

    def accept(self):
        which = self.random.randrange(2)
        if self.accepting[which] and not self.accepting[which].done():
            return
        self.listeners[which].interrupted = False
        self.note("accept on", which)
        listener = self.listeners[which]

        async def accept():
            # As a server does it, or as a user; only the former can be interrupted outside of a task.
            conn, address = await (self.loop._proactor.accept(listener) if by_server
                                   else self.loop.sock_accept(listener))
            with conn:
                check(address == self.waiting[which].pop(0).getsockname(), "a connection was lost on listener", which)

        by_server = self.random.random() < 0.5
        self.accepting[which] = self.start(accept())
        self.by_server[which] = by_server

    def cancel_accept(self):
        task = self.random.choice(self.accepting)
        if may_be_cancelled(task):
            self.note("cancel accept on", self.accepting.index(task))
            task.cancel()

    def peer_connects(self):
        which = self.random.randrange(2)
        if len(self.waiting[which]) >= 5:
            return
        self.note("peer connects to", which)
        sock = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.bind("")
        sock.connect(self.listeners[which].getsockname())
        self.waiting[which].append(sock)

    def interrupt(self):
        which = self.random.randrange(2)
        if self.by_server[which] and not self.accepting[which].done():
            self.note("interrupt the next accept on", which)
            self.listeners[which].interrupted = True

    def turn(self):
        self.loop.call_soon(self.loop.stop)
        try:
            self.loop.run_forever()
        except KeyboardInterrupt:
            self.note("interrupted")
        for task in [task for task in self.tasks if task.done()]:
            self.tasks.discard(task)
            if not task.cancelled() and (exc := task.exception()) is not None:
                lost = isinstance(exc, OSError) and exc.errno == errno.EBADF
                if isinstance(exc, Failure):
                    raise exc
                check(lost and any(not line.open and task in (line.sending, line.receiving) for line in self.lines),
                      repr(exc))

    def turn_now_and_then(self):
        times = self.random.randrange(1, 4)
        self.note("turns:", times)
        for _ in range(times):
            self.turn()

    STEPS = [receive, receive, send, cancel, peer_puts, peer_puts, peer_takes, lose_line, accept, accept, cancel_accept,
             peer_connects, interrupt, add_line, turn, turn_now_and_then, turn_now_and_then]

    # -- the end --

    def until(self, condition, what):
        for _ in range(PATIENCE):
            if condition():
                return
            self.turn()
        raise Failure(f"waited in vain for {what}: {self.loop._proactor!r} {self.kernel!r}")

    def finish(self):
        self.note("the end")
        self.turn()
        for listener in self.listeners:
            listener.interrupted = False
        closed = [task for line in self.lines if not line.open for task in (line.sending, line.receiving) if task]
        self.until(lambda: all(task.done() for task in closed), "what was pending on closed sockets")
        # What has arrived is received, and what can be accepted is.
        ready = [line.receiving for line in self.lines
                 if line.open and line.receiving and len(line.put) > len(line.got)]
        ready += [task for task, waiting in zip(self.accepting, self.waiting, strict=True) if task and waiting]
        self.until(lambda: all(task.done() for task in ready), "what is ready")
        for task in self.tasks:
            task.cancel()
        self.until(lambda: not self.tasks, "cancelled tasks")
        self.until(lambda: not support.waits(self.loop), "calls that are over")
        # Until now what was cancelled last may have held its socket open.
        self.loop.close()
        self.kernel.kernel.end_closed_rings()
        for line in self.lines:
            with contextlib.suppress(BlockingIOError):
                while line.open and (data := line.ours.recv(1 << 20)):
                    line.got += data
            check(not line.open or line.got == line.put, "lost on line", line.number, "at", len(line.got))
            line.ours.close()
            end = False
            with contextlib.suppress(BlockingIOError):
                while not end:
                    try:
                        data = line.theirs.recv(1 << 20)
                    except ConnectionResetError:  # with bytes that ours had not read
                        data = b""
                    line.arrived += data
                    end = not data
            check(end, "no end of line", line.number)
            self.check_arrived(line)
            check(line.arrived[: len(line.sent)] == line.sent or not line.open, "did not arrive on line", line.number)
        for which, (listener, waiting) in enumerate(zip(self.listeners, self.waiting, strict=True)):
            while waiting:
                try:
                    conn, address = listener.accept()
                except BlockingIOError:
                    raise Failure(f"a connection was lost on listener {which}") from None
                conn.close()
                check(address == waiting.pop(0).getsockname(), "a connection was lost on listener", which)
        check(not self.errors, self.errors)


def run(seed):
    """Run one program; None, or what was wrong."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        report = Program(seed).run()
        # An accepted connection that nobody took.
        gc.collect()
    if report is None and caught:
        report = "; ".join(str(warning.message) for warning in caught)
    return report


def main():
    parser = argparse.ArgumentParser(description="Random programs on loops on the simulated kernel.")
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    for seed in [arguments.seed] if arguments.seed is not None else range(1, arguments.programs + 1):
        if (report := run(seed)) is not None:
            print(f"ERROR: seed {seed}: {report}")
            raise SystemExit(1)


if __name__ == "__main__":
    main()
