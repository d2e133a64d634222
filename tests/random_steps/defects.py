"""Selector loops with a defect each, of the kinds that the steps are there to find."""

import asyncio
import os

from random_steps.kinds import Selector


class WithReaders(asyncio.SelectorEventLoop):
    """Its readers are handles of a type of its own."""

    handle_type = asyncio.Handle

    def _add_reader(self, fd, callback, *args):
        super()._add_reader(fd, callback, *args)
        handle = self.handle_type(callback, args, self)
        key = self._selector.get_map()[fd]
        self._selector.modify(fd, key.events, (handle, key.data[1]))
        return handle


class Stubborn(asyncio.Handle):
    def cancel(self):
        pass


class NotCancelled(WithReaders):
    """What is ready in this tick is called in spite of a close or pause by a neighbour."""

    handle_type = Stubborn


class Armed(asyncio.Handle):
    armed = True

    def _run(self):
        super()._run()
        self.armed = True


class ReadsInAChain(WithReaders):
    """A reader is told of more when it has been called to the end: who interrupts it makes it deaf."""

    handle_type = Armed

    def _add_callback(self, handle):
        if isinstance(handle, Armed):
            if not handle.armed:
                return
            handle.armed = False
        super()._add_callback(handle)


class Holding(asyncio.Handle):
    def __init__(self, *args):
        super().__init__(*args)
        self.held = None


class HoldsFiles(WithReaders):
    """A file that is waited for stays open until the next tick, as a ring's poll keeps it."""

    handle_type = Holding

    def _add_reader(self, fd, callback, *args):
        handle = super()._add_reader(fd, callback, *args)
        handle.held = os.dup(fd)
        return handle

    def close(self):
        for key in [] if self.is_closed() else self._selector.get_map().values():
            if getattr(key.data[0], "held", None) is not None:
                os.close(key.data[0].held)
        super().close()

    def _remove_reader(self, fd):
        key = None if self.is_closed() else self._selector.get_map().get(fd)
        held = getattr(key.data[0], "held", None) if key is not None else None
        if held is not None:
            key.data[0].held = None
        removed = super()._remove_reader(fd)
        if held is not None:
            self.call_soon(os.close, held)
        return removed


class StaleReadiness(asyncio.SelectorEventLoop):
    """What was ready is told a tick later."""

    def _process_events(self, event_list):
        late, self._late = getattr(self, "_late", ()), event_list
        super()._process_events([(key, mask) for key, mask in late if self._selector.get_map().get(key.fd) == key])


class ServerClosesLater(asyncio.SelectorEventLoop):
    """A server's socket is closed in the next tick."""

    def _stop_serving(self, sock):
        self._remove_reader(sock.fileno())
        self.call_soon(sock.close)


DEFECTS = [NotCancelled, ReadsInAChain, HoldsFiles, StaleReadiness, ServerClosesLater]


class Defective(Selector):
    """The selector loop as a loop to be tested, with a defect."""

    def __init__(self, loop_class):
        self.name = loop_class.__name__
        self.make = loop_class

    def make_loop(self, seed):
        return self.make()
