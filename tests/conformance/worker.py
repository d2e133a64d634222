"""Run one of CPython's test modules on a chosen loop, and tell the supervisor test by test.

Started by supervisor.py, in a process of its own, with a connected socket's number as its argument.  What to do comes
as one line of JSON: {"module", "loop", "only", "done"}; what happens goes back as lines of JSON, one an event: plan,
start, result, done.
"""

import faulthandler
import json
import os
import resource
import signal
import socket
import sys
import traceback
import unittest

import aim


class Channel:
    def __init__(self, fd):
        self._socket = socket.socket(fileno=fd)
        self._socket.set_inheritable(False)
        # Tests fork, and only this process speaks for itself.
        self._pid = os.getpid()

    def order(self):
        with self._socket.makefile() as stream:
            return json.loads(stream.readline())

    def send(self, event, **fields):
        if os.getpid() == self._pid:
            self._socket.sendall(json.dumps({"event": event, **fields}).encode() + b"\n")


class Result(unittest.TestResult):
    """Sends what becomes of each test; of several things the worst."""

    WORSE = ("pass", "skip", "fail")

    def __init__(self, channel, loops):
        super().__init__()
        self._channel = channel
        self._loops = loops
        self._clear()

    def _clear(self):
        self._status, self._detail, self._made = "pass", "", self._loops.made

    def _note(self, test, status, detail):
        if isinstance(test, unittest.suite._ErrorHolder):
            # setUpClass or setUpModule: no test has been started.
            self._channel.send("result", test=test.id(), status=status, detail=detail, made_loop=False)
        elif self.WORSE.index(status) > self.WORSE.index(self._status):
            self._status, self._detail = status, detail

    def startTest(self, test):
        super().startTest(test)
        self._clear()
        self._channel.send("start", test=name_of(test))

    def stopTest(self, test):
        super().stopTest(test)
        self._channel.send("result", test=name_of(test), status=self._status, detail=self._detail,
                           made_loop=self._loops.made > self._made)
        # CPython 3.12.1 stops the tests of a skipped class without starting them.
        self._clear()

    def addError(self, test, err):
        self._note(test, "fail", "".join(traceback.format_exception(*err)))

    addFailure = addError

    def addSkip(self, test, reason):
        self._note(test, "skip", reason)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.addError(test, err)

    def addUnexpectedSuccess(self, test):
        self._note(test, "fail", "unexpected success")


def name_of(test):
    return test.id().removeprefix("test.test_asyncio.")


def flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


def main():
    channel = Channel(int(sys.argv[1]))
    # The supervisor ends a hang by SIGABRT, which leaves a traceback of every thread on stderr.
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A shell's background jobs ignore it, and so would the tests that interrupt themselves.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    order = channel.order()
    loops = aim.Loops(order["loop"])
    tests = list(flatten(unittest.defaultTestLoader.loadTestsFromModule(aim.load(order["module"], loops))))
    if order["only"] is not None:
        tests = [test for test in tests if name_of(test) in order["only"]]
    channel.send("plan", tests=[name_of(test) for test in tests])
    suite = unittest.TestSuite(test for test in tests if name_of(test) not in order["done"])
    del tests
    suite.run(Result(channel, loops))
    channel.send("done")


if __name__ == "__main__":
    main()
