# What the modules above need of _overlapped.pyx, the only one that links cpp/.
#
# They call its cdef methods, through the class's table of methods: that costs 2 ns a call, and the core is
# there once.  What is inline in the C++ classes, and what is here, they have each themselves: where the loop has
# slept, each function on the way of a message costs 40 ns, as its code has to come into the processor's cache again.
cimport cython
from cpython.buffer cimport Py_buffer
from cpython.object cimport PyObject
from libcpp.vector cimport vector
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libcpp cimport bool as cbool

from ._interpreter cimport this_thread
from ._sockaddr cimport AddressBook, sockaddr_storage


cdef extern from "kernel.hpp" namespace "uring" nogil:
    cdef cppclass Kernel:
        pass


cdef extern from "operation.hpp" namespace "uring" nogil:
    cdef enum class Kind(uint8_t):
        kNone
        kPoll
        kReceive
        kReceiveFrom
        kRead
        kAccept
        kConnect
        kSendfile
        kSend
        kSendTo
        kWrite

    cdef enum class State(uint8_t):
        kFree
        kQueued
        kInFlight
        kWaiting
        kCompleted
        kTaken

    const char* kind_name(Kind kind)
    cbool owns_buffer(Kind kind)
    const uint16_t kWatched
    const uint32_t kNoSlot

    cdef cppclass Operation:
        uint32_t next
        int fd
        int64_t started_ns
        uint64_t length
        uint64_t done
        Kind kind
        State state
        uint16_t flags
        uint64_t key()


cdef extern from "proactor.hpp" namespace "uring" nogil:
    cdef enum class Rung(int):
        kDeferTaskrun
        kCoopTaskrun
        kPlain

    cdef cppclass Features:
        Rung rung
        unsigned kernel_features
        unsigned refused

    enum: kNoSend, kNoSendmsg, kNoWrite, kNoCancel

    const Kernel& real_kernel()
    int real_features(Features* features, const char** call)
    cbool is_passing(int error)
    int probe_features(const Kernel& kernel, Features* features, Rung best, const char** call)

    cdef cppclass Completion:
        uint64_t key
        Kind kind
        int error
        cbool abandoned
        cbool kept
        int64_t result

    const unsigned kManyPolls "uring::Proactor::kManyPolls"
    const unsigned kFewPolls "uring::Proactor::kFewPolls"

    cdef cppclass Proactor:
        Proactor(const Kernel& kernel)
        int init(const Features& features, unsigned sq_entries, unsigned cq_entries, int64_t patience_ns)
        int bind_thread(cbool force, int64_t patience_ns)
        cbool bound_here()
        int64_t start_poll(Kind kind, int fd, uint32_t mask)
        int64_t start_multishot(Kind kind, int fd, uint32_t mask)
        void keep_polls(unsigned up_to, unsigned from_in_flight)
        int64_t start_wait(Kind kind, int fd, uint32_t mask, cbool repeated)
        int64_t start_lingering_wait(Kind kind, int fd, uint32_t mask, cbool same_file)
        cbool trusts_files()
        cbool has_trusted_for(int64_t nanoseconds)
        void check_files()
        cbool is_drained(int fd)
        void note_drained(int fd)
        int64_t start_send(int fd, const void* buffer, uint64_t length, uint32_t flags,
                           uint64_t done)
        int64_t send_now(int fd, const void* buffer, uint64_t length, uint32_t flags)
        int64_t send(int fd, const void* buffer, uint64_t length)
        int64_t sendto(int fd, const void* buffer, uint64_t length, const void* address,
                       unsigned address_length)
        int64_t start_sendto(int fd, const void* buffer, uint64_t length, uint32_t flags,
                             const void* address, unsigned address_length)
        int64_t start_write(int fd, const void* buffer, uint64_t length)
        int64_t start_sendfile(int socket, int file, int64_t offset, uint64_t count)
        void extend(uint64_t key, const void* buffer, uint64_t length)
        void watch(uint64_t key)
        void forget(int fd)
        void cancel(uint64_t key, int error)
        void cancel_all()
        int64_t receive(int fd, void* buffer, uint64_t size, int flags)
        int64_t receive_from(int fd, void* buffer, uint64_t size, int flags,
                             sockaddr_storage* address, unsigned* address_length)
        int64_t read(int fd, void* buffer, uint64_t size)
        int64_t send_file(uint64_t key)
        cbool next(Completion* completion)
        cbool take(uint64_t key)
        cbool has_completions()
        int again(uint64_t key)
        int again(uint64_t key, cbool in_bulk)
        void release(uint64_t key)
        int prepare()
        cbool idle()
        cbool may_sleep()
        cbool quiet()
        cbool at_rest()
        cbool must_enter()
        cbool large_copy()
        int enter(cbool wait, int64_t timeout_ns)
        int spin(int64_t spin_ns)
        int reap()
        cbool stalled()
        void back_off(int64_t timeout_ns)
        void settle(int fd)
        void send_queued()
        void leave_polls()
        void read_posted()
        void wake()
        cbool take_wake()
        void close()
        cbool is_open()
        cbool forked()
        unsigned in_flight()
        unsigned operations()
        unsigned abandoned()
        uint64_t stale_keys()
        Rung rung()
        const Features& features()
        unsigned ring_flags()
        int refused_to_poll()
        int refused_to_enter()
        int ring_fd()
        uint64_t enters()
        uint64_t submissions()
        uint64_t completions()
        uint64_t overflows()
        uint64_t replaced_rings()
        int64_t blocked_ns()
        int64_t now()
        void sleep(int64_t nanoseconds)
        const Operation* peek(uint32_t slot)
        uint32_t capacity()
        uint32_t first_on(int fd)
        uint32_t next_on(uint32_t slot)
        uint32_t look_at_next()
        uint32_t first_queued()
        unsigned watched()


cdef extern from "Python.h":
    # (Of a borrowed reference: Cython would count one of its own for each call.)
    Py_ssize_t PyList_GET_SIZE(PyObject* list)
    PyObject* PyList_GET_ITEM(PyObject* list, Py_ssize_t)

cdef extern from *:
    """
    // How Modules/socketmodule.h has a socket object; checked when _overlapped is imported.
    struct SocketHead {
      PyObject_HEAD
      int fd, family, type, proto;
      void* error_handler;
      int64_t timeout;  // 0: it does not block
      void* state;
    };

    // The number of a socket of the class that is_readable() knows; -1 for a closed one.
    static inline int number_of(PyObject* sock) { return ((struct SocketHead*)sock)->fd; }
    """
    ctypedef struct SocketHead:
        int fd, family, type, proto
        void* error_handler
        int64_t timeout
        void* state
    int number_of(object sock) noexcept


cdef int fileno(object obj) except -1
# Whether a socket's number can be read without calling Python: by number_of().
cdef bint is_readable(object obj) noexcept
# A socket object of a descriptor, as socket.accept() makes one; whose fd it stays if that fails.
cdef object socket_of(int family, int kind, int proto, int fd)
# The OSError of a result below zero, -errno.
cdef object os_error(int64_t result)
cdef bint is_socket(object obj, int fd) except -1
# Whether a read that gets less than it asked for has got all there is: so it is of TCP, and of nothing that stands on it.
cdef bint is_plain_tcp(int fd) noexcept


# Whether a socket has the number no more at which an owner works: whoever has it now is a stranger. A plain one
# (is_readable() was true, and the number its own) is asked without running Python.
cdef inline bint is_lost(object sock, int fd, bint plain) except -1:
    return (sock is None or number_of(sock) != fd) if plain else has_lost(sock, fd)


# The same of one that is not, by its fileno().
cdef bint has_lost(object sock, int fd) except -1


cdef class Ring:
    cdef Proactor* _proactor
    cdef object _kernel          # the capsule of the calls that the proactor makes, or None
    cdef list _slots             # slot -> its Owner, or None
    cdef AddressBook _addresses  # of datagrams; None until there are any
    cdef list _streams           # descriptor -> who has last waited on it, a weak reference, or None
    cdef unsigned _told          # how many completions their owners have dealt with themselves
    cdef void* _scratch          # what receives go through, to be copied at their true size
    cdef Py_ssize_t _scratch_size
    cdef unsigned _sq_entries, _cq_entries
    cdef int64_t _spin_ns        # how long a turn looks for completions before it sleeps; 0: not at all
    cdef uintptr_t _thread       # this_thread() of who called wait() last
    cdef bint _asleep            # he is about to enter the kernel without the GIL, or is there
    cdef list _senders           # who has gathered something to send in this tick
    cdef unsigned _small_sends   # how many small sends this turn was asked for
    cdef unsigned _small_sends_before  # ... and the last turn that was asked for any
    cdef int64_t _look_due      # when wait() may look at all watched ones again
    cdef vector[uint64_t] _told_of  # multishot polls that have told something, of each once, since doubt() ended
    cdef int64_t _doubt_due     # when it has to end
    cdef vector[uint64_t] _doubtful  # polls behind which there may be something to read, of which they do not tell
    cdef vector[uint64_t] _readable  # those of them behind which there is
    cdef object __weakref__

    cdef int _size_queues(self, sq_entries, cq_entries) except -1

    @cython.final
    cdef inline int _check(self) except -1:
        """Raise RuntimeError for a ring that is closed, or another process's."""
        if not self._proactor.is_open() or self._proactor.forked():
            self._refuse()
        return 0

    @cython.final
    cdef inline bint _is_forked(self) noexcept:
        return self._proactor.forked()

    @cython.final
    cdef inline bint is_elsewhere(self) noexcept:
        """True in another thread than the one that takes the turns."""
        return this_thread() != self._thread

    @cython.final
    cdef inline bint has_completions(self) noexcept:
        return self._proactor.has_completions()

    @cython.final
    cdef inline bint has_small_sends(self) noexcept:
        """Tell whether there is anything for send_gathered(): a small send in this turn, one that went at once as well."""
        return self._small_sends != 0 or PyList_GET_SIZE(<PyObject*> self._senders) != 0

    @cython.final
    cdef inline bint pays_to_gather(self) noexcept:
        """Count a small send; tell whether it should leave with others, when the tick ends.

        A lone one had better go at once: its peer works on it while the tick ends here.  That it is a lone one, the
        turn before tells.
        """
        self._small_sends += 1
        return self._small_sends > 1 or self._small_sends_before > 1

    @cython.final
    cdef inline int64_t receive(self, int fd, void* into, Py_ssize_t size) noexcept:
        """recv(2): the number of bytes or -errno."""
        return self._proactor.receive(fd, into, size, 0)

    @cython.final
    cdef inline int64_t receive_from(self, int fd, void* into, Py_ssize_t size,
                                     sockaddr_storage* address, unsigned* length) noexcept:
        """recvfrom(2): the number of bytes or -errno."""
        return self._proactor.receive_from(fd, into, size, 0, address, length)

    @cython.final
    cdef inline int64_t sendto(self, int fd, const void* data, Py_ssize_t size,
                               sockaddr_storage* address, unsigned length) noexcept:
        """sendto(2), or, without an address, send(2): the number of bytes or -errno."""
        return self._proactor.sendto(fd, data, size, address, length)

    @cython.final
    cdef inline int64_t send(self, int fd, const void* data, Py_ssize_t size) noexcept:
        """send(2), as much as there is room for: the number of bytes or -errno."""
        return self._proactor.send(fd, data, size)

    @cython.final
    cdef inline PyObject* _find_owner(self, uint64_t key) noexcept:
        """Return whose the operation is, a borrowed reference; NULL where nobody wants it any more, or ever knew of it."""
        cdef Py_ssize_t slot = <uint32_t> key
        cdef PyObject* place
        if slot >= PyList_GET_SIZE(<PyObject*> self._slots):
            return NULL
        # (An Owner or None: nothing else stands there.)
        place = PyList_GET_ITEM(<PyObject*> self._slots, slot)
        if place is <PyObject*> None:
            return NULL
        return place

    # What an owner starts, keeps going and ends.
    cdef int enlist(self, Owner owner, int64_t key) except -1
    cdef int dismiss(self, uint64_t key) except -1
    cdef uint64_t start_poll(self, Owner owner, int fd, unsigned multishot) except 0
    cdef uint64_t start_wait(self, Owner owner, int fd, unsigned events, object stream) except 0
    cdef bint _knows(self, int fd, object stream) except -1
    cdef bint is_drained(self, int fd, object stream) except -1
    cdef int note_drained(self, int fd) noexcept
    cdef int end(self, uint64_t key) except -1
    cdef int send_soon(self, Owner owner) except -1
    cdef bint send_gathered(self) except -1
    cdef bint again(self, uint64_t key, bint in_bulk) noexcept
    cdef int cancel(self, uint64_t key) noexcept
    cdef AddressBook addresses(self)

    cdef int _refuse(self) except -1
    cdef int _bind(self, bint force=*) except -1
    cdef bint _wait_for_memory(self, int64_t* waited) noexcept
    cdef int _drain(self, int64_t patience_ns) except -1
    cdef int _check_queued(self) except -1
    cdef int64_t _look(self, bint sleep, int64_t timeout_ns) except? -2
    cdef int _look_at(self, unsigned count)
    cdef int doubt(self, uint64_t key) except -1
    cdef int ask_again(self, uint64_t key) except -1
    cdef bint _ask(self) except -1
    cdef int _tell_again(self) except -1
    cdef bint _end_doubt(self) except -1
    cdef int _send_queued(self) except -1
    cdef int _close(self) except -1
    cdef int _wait(self, int64_t timeout_ns) except -1
    cdef bint is_idle(self) noexcept
    cdef int _wake(self) except -1
    cdef Overlapped _next(self)
    cdef int _forget(self, int fd) noexcept
    cdef int _settle(self, int fd) except -1


cdef class Owner:
    """Who has operations in a ring's table, and is told of their completions."""
    cdef readonly Ring ring
    cdef bint _plain             # _lost() runs no Python code

    # In the order of the completions, out of Ring._next(), which returns the owner where this is true.
    # It must not call into Python.
    cdef bint complete(self, const Completion* completion) except -1
    # Send now what it has gathered for Ring.send_soon(), and return true if the loop has to run it then. It must
    # not call into Python, either.
    cdef bint send_gathered(self) except -1
    # There is something to read of which its poll has told before, and does not tell again.
    cdef int tell_again(self, uint64_t key) except -1
    # Of what its poll tells from now on, Ring.doubt() is to know.
    cdef int end_doubt(self) except -1
    # True when the descriptor that its operations work on is no longer its own.
    cdef bint _lost(self)


cdef class Overlapped(Owner):
    cdef uint64_t _key           # 0: not in the table
    cdef Kind _kind
    cdef int _fd
    cdef readonly bint pending
    cdef readonly int error      # errno of the completion, 0 for success
    cdef int64_t _result
    cdef int64_t _size           # of a receive
    cdef int _flags
    cdef object _buffer          # of recv_into; of a send that was extended, all of it
    cdef object _value           # known without the kernel
    cdef bint _viewing
    cdef bint _abandoned
    cdef Py_buffer _view         # what the kernel reads
    # Who waits for it, as in the stdlib's _cache: (future, obj, callback).
    cdef readonly object future
    cdef readonly object obj
    cdef readonly object callback
    # What the loop runs when the future is done: see uring_events._DoneHandle.
    cdef object done_handle
    cdef bint traced             # its future has a source traceback: the loop is in debug mode

    cdef int _enter(self, int64_t key) except -1
    cdef int _leave(self) except -1
    cdef bint _again(self) except -1
    cdef object _getresult(self)
    cdef object _receive(self)
    cdef object _receive_into(self)
    cdef object _receive_from(self)
    cdef object _receive_from_into(self)
    cdef object _format(self, sockaddr_storage* address, unsigned length)
    cdef int _prep_receive(self, Kind kind, int fd, object size, int flags) except -1
    cdef Py_ssize_t _check_writable(self, object buf) except -1
    cdef int _hold(self, object buf) except -1
    cdef int _unhold(self) except -1
    cdef int own(self, future, obj, callback) except -1
    cdef int prep_poll(self, int fd, unsigned events) except -1
    cdef int prep_wait(self, int fd, unsigned events, Kind kind=*, bint repeated=*) except -1
    cdef int prep_accept(self, int fd) except -1
    cdef int prep_connect(self, int fd) except -1
    cdef int prep_recv(self, int fd, size, int flags) except -1
    cdef int prep_recv_into(self, int fd, buf, int flags) except -1
    cdef int prep_recvfrom(self, int fd, size, int flags) except -1
    cdef int prep_recvfrom_into(self, int fd, buf, size, int flags) except -1
    cdef int prep_read(self, int fd, size) except -1
    cdef int prep_read_into(self, int fd, buf) except -1
    cdef int prep_send(self, int fd, buf, unsigned flags) except -1
    cdef int prep_write(self, int fd, buf) except -1
    cdef bint extend(self, data, Py_ssize_t limit) except -1
    cdef bint prep_sendto(self, int fd, int family, buf, unsigned flags, addr) except -1
    cdef int prep_sendfile(self, int fd, int file, offset, count) except -1
    cdef int finish(self, value) except -1
