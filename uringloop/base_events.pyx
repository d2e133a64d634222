"""What is hot in a loop's core; mirrors asyncio/base_events.py and asyncio/events.py.

Must not be in here: io_uring, and sockets.
"""


cdef class ReadyOwner:
    """What the loop looks at in an events.Handle: _cancelled, and _run()."""

    # What has become ready is run, and finds out itself whether anybody still wants it.
    # (An attribute of the class is looked up faster.)
    _cancelled = False
    # What the loop's exception handler looks at in debug mode.
    _source_traceback = None

    cdef int run(self) except -1:
        raise NotImplementedError

    def _run(self):
        self.run()
