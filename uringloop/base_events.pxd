# What the modules above need of base_events.pyx.
cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t, uintptr_t

from ._interpreter cimport version_tag
from ._overlapped cimport Owner, Ring


cdef class ReadyOwner(Owner):
    """An owner of operations that the loop runs: it stands in the loop's _ready, as a Handle does."""
    cdef int run(self) except -1


cdef class ReadyHandle:
    """The same for what owns no operation."""
    cdef int run(self) except -1


cdef class Selector:
    """What the loop waits by, where nobody has put another in its place."""
    cdef bint is_own             # of exactly the class that implements the methods below
    cdef Ring ring               # what owners of operations start them on, or None

    # select(), whose result is for nobody. timeout_ns: nanoseconds; negative: no limit.
    cdef int select_ns(self, int64_t timeout_ns) except -1
    # True when select_ns(0) would find, and do, nothing.
    cdef bint is_idle(self) noexcept
    # End select_ns() of another thread.
    cdef int wake(self) except -1


cdef class BaseEventLoop:
    cdef unsigned _tag           # of the class as _look_at_class() found it
    cdef unsigned _foreign       # which of the methods in _NAMES are not the core's own
    cdef uintptr_t _turning      # this_thread() of the latest turn
    # A run, at whose end nothing is left. (Another driver of the loop has no such end.)
    cdef public bint _gathers_writes
    # For statistics: turns taken and callbacks run; nanoseconds in runs, and when this one began (0: none).
    cdef uint64_t _turns
    cdef uint64_t _callbacks_run
    cdef int64_t _ran_ns
    cdef int64_t _began_ns
    cdef int _awake              # callbacks are being run, and _ready is looked at before the loop sleeps
    # Who has last been sent a small message (never looked into: only for comparison), and in which turn.
    cdef const void* _brief_reader
    cdef uint64_t _brief_turn

    cdef int _look_at_class(self) except -1
    @cython.final
    cdef bint _has_foreign(self, unsigned mask) except -1
    cdef bint _has_own(self, PyObject* names, unsigned mask) except -1
    cdef bint _is_plain(self, unsigned mask) except -1
    cdef bint has_plain_callbacks(self) except -1
    cdef bint has_plain_handles(self) except -1
    cdef bint has_plain_waits(self) except -1
    cdef bint is_usual(self) except -1
    cdef Ring find_ring(self)
    cdef bint may_sleep(self) noexcept
    cdef int note_run(self, bint begins) noexcept
    cdef double time_run(self) noexcept
    cdef int add_ready(self, object handle) except -1
    cdef int _wake(self) except -1
    cdef object _make_handle(self, PyObject* callback, PyObject** args, Py_ssize_t nargs, PyObject* context)
    cdef object _make_timer(self, PyObject* when, PyObject* callback, PyObject** args, Py_ssize_t nargs,
                            PyObject* context)
    @cython.final
    cdef bint _has_plain_turn(self) except -1
    @cython.final
    cdef int _take_turn(self) except -1
    @cython.final
    cdef bint _has_timers(self) except -1
    @cython.final
    cdef bint _drop_cancelled(self) except -1
    @cython.final
    cdef int64_t _time_left(self) except? -2
    @cython.final
    cdef int _take_due(self) except -1
    @cython.final
    cdef int _run_ready(self) except -1
    cdef int _run_in_debug(self, object handle) except -1


cdef class Methods:
    """Methods of a class of the stdlib, which C may go past as long as nobody has put others in their place."""
    cdef object _cls
    cdef dict _at_import         # None for one that was not the class's own
    cdef unsigned _tag           # the class's version at which they were these; 0: nobody has looked

    @cython.final
    cdef inline bint are_the_stdlibs(self) except -1:
        return self._tag != 0 and version_tag(<PyObject*> self._cls) == self._tag or self._look()

    cdef bint _look(self) except -1


# Who runs a callback without a Handle: the Handle that stands for it, what it does, and what it tells of an exception.
cdef object handle_of(object loop, object callback, object argument, object context)
cdef int run_callback(object loop, object callback, object argument, object context) except -1
cdef int report_callback(object handle, object exc) except -1

# Who defines the class of loops.
cdef int speed_up(object cls) except -1
