"""Raising at the n-th line that a loop's own Python code comes to, as the handler of a signal may.

Which lines count is a rule, the same for all loops.  Left alone is what no loop could make good, for it has the
one and only reference to something that has to be done once:

 - a call that stands in the queue once (a task's step, what call_soon() was given, connection_made()) and is about
   to be run, or put there.  The selector loop makes up for the call of a reader or writer alone, which it is told
   of again; so ours has to make up for the call behind a completion;
 - the beginning and the end of a run, of an endpoint and of a timer;
 - what the program called itself, which knows that its call failed.

The selector loop's own way of writing a stream is left alone on it: interrupted behind the last send it calls a
writer that has nothing to write for ever.  Ours is held to more there.  But pipes have asyncio's own transports on
each loop: between their last write and the end of their writer these are left alone on all.
"""

import asyncio
import functools
import inspect
import sys
from asyncio import unix_events
from pathlib import Path

import uringloop

ASYNCIO = Path(asyncio.__file__).parent
PACKAGE = Path(uringloop.__file__).parent
FILES = {str(ASYNCIO / name) for name in ("base_events.py", "selector_events.py", "unix_events.py",
                                          "proactor_events.py")}
FILES |= {str(PACKAGE / name) for name in ("selector_events.py", "stdlib_transports.py", "unix_events.py")}

# Where a run comes from.
ROOTS = frozenset(["run_forever", "run_until_complete"])

# Beginnings and ends, with all that they call, and calls that are not the loop's own.
LEFT_ALONE = frozenset([
    "_check_running", "_run_forever_setup", "_run_forever_cleanup", "_want_signals", "_set_coroutine_origin_tracking",
    "_run_until_complete_cb",
    "__init__", "__del__", "_accept_connection2", "_make_socket_transport", "_start_serving", "_stop_serving",
    "close", "abort", "_close", "_force_close", "_fatal_error", "_call_connection_lost", "_detach", "_wakeup",
    "_sock_read_done", "_sock_write_done", "_set_result_unless_cancelled", "call_exception_handler", "call_later",
    "call_at", "call_soon_threadsafe", "create_task", "stop"])

SELECTOR_WRITES = frozenset(["_write_sendmsg", "_write_send", "_write_ready", "_adjust_leftover_buffer"])

PIPE_WRITES = unix_events._UnixWritePipeTransport._write_ready.__code__

# What is in the queue once: the selector loop's transports use these, too.
ONCE = frozenset(["_call_connection_lost", "_add_reader", "_add_writer", "_sock_read_done", "_sock_write_done",
                  "_set_result_unless_cancelled", "connection_made", "eof_received", "stop",
                  "_run_until_complete_cb"])


def lines_between(first, last):
    """The numbers of the lines of _run_once() behind the first with this text, up to the last with the other."""
    lines, start = inspect.getsourcelines(asyncio.BaseEventLoop._run_once)
    numbers = [number for number, line in enumerate(lines, start) if first in line]
    ends = [number for number, line in enumerate(lines, start) if last in line]
    return range(numbers[0] + 1, ends[-1] + 1)


IN_HAND = lines_between("self._ready.popleft()", "handle._run()")
TIMERS = lines_between("handle = self._scheduled[0]", "self._ready.append(handle)")


class Interrupted(KeyboardInterrupt):
    """What the handler of a signal raises; it ends the run."""


class Failed(Exception):
    """The same, but the loop goes on."""


RAISED = (Interrupted, Failed)


class Lines:
    """A context in which the n-th line that counts raises an exception, once, when on_hit(Hit) has been called.

    known: tells whether a transport is a known one, which is neither new nor at its end;
    level_triggered: the type of the program's own callbacks that are called again.
    """

    def __init__(self, nth, exception, on_hit, oracle, known, level_triggered):
        self.left, self.exception, self.on_hit, self.oracle = nth, exception, on_hit, oracle
        self.known, self.level_triggered = known, level_triggered
        self.left_alone = LEFT_ALONE | SELECTOR_WRITES if oracle else LEFT_ALONE

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.called)
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)

    def called(self, frame, event, arg):
        return self.line if self.counts(frame) else None

    def counts(self, frame):
        code = frame.f_code
        if code.co_filename not in FILES or code.co_name in ROOTS:
            return False
        while frame is not None and frame.f_code.co_name not in ROOTS:
            name = frame.f_code.co_filename
            if frame.f_code.co_name in self.left_alone or (name not in FILES and not name.startswith(str(ASYNCIO))):
                return False
            frame = frame.f_back
        return frame is not None

    def line(self, frame, event, arg):
        if event != "line" or self.left == 0 or not self.may_raise(frame):
            return self.line
        self.left -= 1
        if self.left > 0:
            return self.line
        self.on_hit(Hit(frame))
        raise self.exception

    def may_raise(self, frame):
        names, code = frame.f_locals, frame.f_code
        owner = names.get("self")
        if isinstance(owner, asyncio.BaseTransport) and not self.known(owner):
            return False
        if self.has_written_pipe(frame):
            return False
        if code.co_name == "_run_once":
            if frame.f_lineno in TIMERS:
                return False
            return frame.f_lineno not in IN_HAND or not self.once(names["handle"]._callback)
        return not self.hands_on_once(frame)

    def has_written_pipe(self, frame):
        """Tell whether a pipe transport whose buffer is empty is, or calls this, to stop writing."""
        while frame is not None and frame.f_code.co_name not in ROOTS:
            if frame.f_code is PIPE_WRITES:
                return not frame.f_locals["self"]._buffer
            frame = frame.f_back
        return False

    def hands_on_once(self, frame):
        """Tell whether this, or what it is called by, is about to put a call into the queue that is made once."""
        while frame is not None and frame.f_code.co_name not in ROOTS:
            if frame.f_code.co_name in ("call_soon", "_call_soon", "_add_callback"):
                names = frame.f_locals
                if self.once(names.get("callback") or getattr(names.get("handle"), "_callback", None)):
                    return True
            frame = frame.f_back
        return False

    def once(self, callback):
        """Tell whether this call is made once, whatever the loop."""
        while isinstance(callback, functools.partial):
            callback = callback.func
        if isinstance(callback, self.level_triggered):
            return False
        owner = getattr(callback, "__self__", None)
        if isinstance(owner, asyncio.Future) or type(callback).__name__ == "TaskStepMethWrapper":
            return True
        if isinstance(owner, asyncio.BaseTransport) and not self.known(owner):
            return True
        name = getattr(callback, "__name__", "")
        module = getattr(callback, "__module__", None) or ""
        return name in ONCE or module.startswith("random_steps") or type(owner).__module__.startswith("random_steps")


class Hit:
    """Where it was: `place` to be read, and the ids of the values that the frames and the call in hand had."""

    def __init__(self, frame):
        self.place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
        self.ids = set()
        while frame is not None and frame.f_code.co_name not in ROOTS:
            for value in frame.f_locals.values():
                self.add(value)
            frame = frame.f_back

    def add(self, value):
        self.ids.add(id(value))
        if isinstance(value, asyncio.Handle) or hasattr(value, "_callback"):
            callback = value._callback
            self.ids.add(id(callback))
            self.ids.add(id(getattr(callback, "__self__", None)))
            self.ids.update(map(id, value._args or ()))
