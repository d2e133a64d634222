"""Operations in flight and the ring that completes them; mirrors CPython's Modules/overlapped.c.

`Overlapped` is one operation: a `prep_x` method starts it, `pending` says whether it is still
under way, `cancel` asks it to end, and `getresult` is the one place where a completion becomes a
Python value or a Python error.  `Ring` stands for the completion port.  This is the only module
that touches cpp/, and it holds what C++ must not: Python objects.

Ownership.  While an operation is in the C++ table its `Owner` stands in the ring's list of slots,
where the garbage collector sees it, and holds the buffer that the kernel reads.  It enters the list
in `Ring.enlist` and leaves it in `Ring.dismiss`, and nowhere else; `dismiss` is called only after the
operation's final completion.  An `Overlapped` is one kind of owner, a native transport another;
neither knows the other.

Three facts shape this file:
 - a receive waits for readiness (POLL_ADD) and calls recv(2) in `getresult`: until somebody takes
   the bytes they stay in the socket, so a cancel, however late, loses nothing.  The file behind a
   descriptor may have changed by then: `_lost` asks the owner first;
 - a send gives the kernel our buffer.  Whoever cancels it, the buffer stays until the final CQE;
 - what is in flight on the ring holds its file open.  So only what belongs to a transport is; what
   the user waits for on a descriptor of his own waits in an epoll set, which the ring polls.

Names beside overlapped.c: ReadFile is `prep_read`, ReadFileInto `prep_read_into`, WSARecv
`prep_recv`, WSARecvInto `prep_recv_into`, WSARecvFrom `prep_recvfrom`, WSARecvFromInto
`prep_recvfrom_into`, WriteFile `prep_write`, WSASend `prep_send`, WSASendTo `prep_sendto`,
TransmitFile `prep_sendfile`; AcceptEx, ConnectEx and RegisterWaitWithQueue are `prep_wait`.
CreateIoCompletionPort is `Ring()`, GetQueuedCompletionStatus is `Ring.wait` and `Ring.next`,
PostQueuedCompletionStatus is `Ring.wake`.
"""
import _socket
import errno
import os
import socket
import stat
from operator import itemgetter
from weakref import ref

from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer)
from cpython.bytearray cimport PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.number cimport PyNumber_Index
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_CheckExact, PyCapsule_GetPointer

from ._interpreter cimport this_thread
from ._sockaddr cimport AddressBook, format_address, parse_address

from .unavailable import explain

cdef extern from "<errno.h>":
    int EACCES, EAGAIN, EBADF, EBUSY, ECANCELED, EEXIST, EINTR, ENOMEM, EPERM

cdef extern from "<poll.h>":
    int POLLIN, POLLOUT
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd* fds, unsigned long count, int timeout)

cdef extern from "<sys/socket.h>":
    cdef struct sockaddr:
        pass
    int getpeername(int fd, sockaddr* address, unsigned* length)
    int getsockopt(int fd, int level, int name, void* value, unsigned* length)
    enum: SOCK_NONBLOCK, SOL_SOCKET, SO_PROTOCOL, SO_RCVLOWAT

cdef extern from "<netinet/in.h>":
    enum: IPPROTO_TCP

cdef extern from "<netinet/tcp.h>":
    enum: TCP_ULP

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        object (*tp_new)(PyTypeObject* cls, object args, PyObject* kwargs)
    int PySys_Audit(const char* event, const char* format, ...) except -1

cdef extern from "ring.hpp" namespace "uring" nogil:
    cdef cppclass CppRing "uring::Ring":
        @staticmethod
        size_t memory_needed(unsigned sq_entries, unsigned cq_entries)

# Small enough for 400 loops in the usual 8 MiB of locked memory, and to be made in the time in which others make theirs;
# large enough for what a turn reaps, as one of a thousand busy connections does.
cdef unsigned SQ_ENTRIES = 128
cdef unsigned CQ_ENTRIES = 512
# IORING_MAX_ENTRIES, and twice as many completions.
cdef unsigned MOST_SQ_ENTRIES = 32768
cdef unsigned MOST_CQ_ENTRIES = 65536

# Receives up to this size go through one buffer a ring: a bytes object of the true size costs less
# than a large one that is shrunk (above 128 KiB glibc maps and unmaps memory for each).
cdef Py_ssize_t SCRATCH_SIZE = 256 * 1024
cdef Py_ssize_t LEAST_SCRATCH_SIZE = 4096
cdef Py_ssize_t MOST_SCRATCH_SIZE = 16 * 1024 * 1024

# In microseconds. What comes later than that is worth a sleep.
cdef int MOST_SPIN = 1000

# How many sockets wait() looks at, whether they are still open, before it sleeps; in a turn that does
# not sleep, only a few.  Where there are more, it looks at all of them, but not again within the
# interval, in nanoseconds, nor within a hundred times what that took, but at a few: the sleep is cut
# short there, for another look.  So thousands of idle connections cost a busy loop a hundredth of its time.
cdef unsigned LOOK_BATCH = 32
cdef unsigned LOOK_AWAKE = 2
cdef int64_t LOOK_INTERVAL = 10_000_000
cdef int64_t LOOK_SHARE = 100

# How long a sleep may be while a wait has begun on trust, and how long it is trusted where nobody sleeps so long:
# see Ring._knows().  And so long with multishot polls, which tell of what comes. What one has told, and nobody has read to its
# end, it tells no more: an interrupt may have come between, and a read that gets less than it asked for stops at an urgent byte,
# too. So it is asked once more of whoever was told, TRUST behind the last one where the loop would sleep, and LONGEST_TRUST
# behind the first one where not.
cdef int64_t TRUST = 50_000_000
cdef int64_t LONGEST_TRUST = 250_000_000

# How many operations must be in flight for the kernel to keep a multishot poll, or how many there may be in all. Tests set
# these, for the rings that are made from then on.
MULTISHOT_FROM = kManyPolls
MULTISHOT_UP_TO = kFewPolls

# How long a new ring waits for the locked memory of closed ones, and how long at first, in nanoseconds.
cdef int64_t MEMORY_PATIENCE = 1_000_000_000
cdef int64_t MEMORY_PAUSE = 1_000_000

# How long a ring that is dropped without a close() waits for the kernel to let go, in nanoseconds.
cdef int64_t DROP_PATIENCE = 5_000_000_000

cdef object _socket_class = socket.socket
# The same if it is CPython's own. What another library has put in its place (gevent, eventlet) may be made, and work, in
# any way: of that no way in C is known.
PLAIN_SOCKET = _socket_class if (getattr(_socket_class, '__bases__', None) == (_socket.socket,)
                                 and _socket_class.__module__ == 'socket') else None
cdef object _init_socket = _socket.socket.__init__

# Buffers of sends whose ring was closed under them: the kernel may still read, so they stay.
# (The name may be gone when the interpreter ends.)
cdef list _kept = []
_kept_for_good = _kept


cdef tuple _REFUSALS = ((kNoSend, 'SEND'), (kNoSendmsg, 'SENDMSG'), (kNoWrite, 'WRITE'), (kNoCancel, 'ASYNC_CANCEL'))


# As State has them.
cdef tuple _STATES = ('free', 'queued', 'in flight', 'waiting', 'completed', 'taken')
# Seconds.
AGES = (0.001, 0.01, 0.1, 1.0, 10.0, 60.0)
cdef object _AGE = itemgetter(4)


cdef object _name_of(Kind kind):
    return (<bytes> kind_name(kind)).decode()


cdef object _peer_of(int fd):
    cdef sockaddr_storage address
    cdef unsigned length = sizeof(address)
    if getpeername(fd, <sockaddr*> &address, &length) < 0:
        return None
    formatted = format_address(&address, length)
    return None if formatted is NotImplemented else formatted


cdef object os_error(int64_t result):
    return OSError(<int> -result, os.strerror(<int> -result))


cdef int64_t _option(name, value, int64_t default, int64_t least, int64_t most) except -1:
    """Return an option of a ring; the default for None."""
    if value is None:
        return default
    # Of any size: what is too large for a C integer is out of range like other numbers.
    try:
        number = PyNumber_Index(value)
    except TypeError as exc:
        raise TypeError(f"{name} must be an integer, not {value!r}") from exc
    if not least <= number <= most:
        raise ValueError(f"{name} must be from {least} to {most}, not {number}")
    return number


cdef unsigned _power_of_two(unsigned number) noexcept:
    """Return the next one, as the kernel rounds the sizes of queues."""
    cdef unsigned power = 1
    while power < number:
        power *= 2
    return power


cdef bint is_readable(object obj) noexcept:
    return _readable_class is not None and (type(obj) is _readable_class or isinstance(obj, _readable_class))


cdef object _find_readable_class():
    """Return socket.socket, if CPython keeps the number where it is read here; else None."""
    cdef list numbers = []
    if PLAIN_SOCKET is None:
        return None
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as sock:
            numbers.append((sock.fileno(), number_of(sock)))
        numbers.append((sock.fileno(), number_of(sock)))
    # Not all(): Cython's generators keep a reference to their type.
    for told, read in numbers:
        if told != read:
            return None
    return _socket_class


# Five times a message somebody wants to know a socket's number, and calling its fileno() costs a
# tenth of a microsecond, and may run anything. (A subclass may have a fileno() of its own: what an
# operation is started on is asked for it.)
cdef object _readable_class = _find_readable_class()


# What all sockets have in common.
cdef void* _error_handler = NULL
cdef void* _state = NULL


cdef bint _can_fill() except -1:
    """Find out whether socket_of() can make what CPython makes of the same arguments."""
    global _error_handler, _state
    cdef SocketHead* theirs
    cdef SocketHead* ours
    if _readable_class is None or _socket.socket.__basicsize__ != sizeof(SocketHead):
        return False
    with socket.socket(socket.AF_UNIX) as holder:
        # (Not asked of the descriptor, if told: so each can be another.)
        sock = socket.socket(11, 12 | SOCK_NONBLOCK, 13, os.dup(holder.fileno()))
    with sock:
        theirs = <SocketHead*> <PyObject*> sock
        fresh = _new_socket()
        ours = <SocketHead*> <PyObject*> fresh
        # (The state is the module's: one for all.)
        _error_handler = theirs.error_handler
        _state = theirs.state
        if (ours.fd != -1 or theirs.fd != sock.fileno() or theirs.timeout != 0
                or (theirs.family, theirs.type, theirs.proto) != (11, 12, 13)):
            return False
        sock.settimeout(2.5)
        return theirs.timeout == 2_500_000_000


cdef object _new_socket():
    return (<PyTypeObject*> _socket_class).tp_new(<PyTypeObject*> _socket_class, (), NULL)


cdef object socket_of(int family, int kind, int proto, int fd):
    cdef SocketHead* head
    sock = _new_socket()
    sock._io_refs = 0
    sock._closed = False
    if not _fills:
        # With SOCK_NONBLOCK it need not be told, by a call each, that it does not block.
        _init_socket(sock, family, kind | SOCK_NONBLOCK, proto, fd)
        return sock
    # The constructor would ask the socket for its name, to see that it is one.
    PySys_Audit("socket.__new__", "Oiii", <PyObject*> sock, family, kind, proto)
    head = <SocketHead*> <PyObject*> sock
    head.family = family
    head.type = kind
    head.proto = proto
    head.error_handler = _error_handler
    head.timeout = 0
    head.state = _state
    head.fd = fd
    return sock


cdef bint _fills = _can_fill()


cdef bint _tells_of_each_byte(int fd) noexcept:
    """False for a socket with a low-water mark: there may be something to read of which the set does not tell."""
    cdef int least = 1
    cdef unsigned size = sizeof(least)
    return getsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &least, &size) != 0 or least <= 1


cdef bint is_plain_tcp(int fd) noexcept:
    cdef int protocol = 0
    cdef unsigned size = sizeof(protocol)
    # What stands on it, such as the kernel's own TLS, may hand out one record at a time.
    cdef char[16] name
    cdef unsigned length = sizeof(name)
    if getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) != 0 or protocol != IPPROTO_TCP:
        return False
    return getsockopt(fd, IPPROTO_TCP, TCP_ULP, name, &length) == 0 and length == 0


cdef const Kernel* _calls_of(object capsule) except NULL:
    """Return the capsule's table of system calls; the system's own for None."""
    if capsule is None:
        return &real_kernel()
    if not PyCapsule_CheckExact(capsule):
        raise TypeError(f"kernel must be a capsule, not {type(capsule).__name__}")
    return <const Kernel*> PyCapsule_GetPointer(capsule, "uring::Kernel")


cdef int fileno(object obj) except -1:
    """Return the file descriptor of an int or of an object with fileno().

    Raises OSError (EBADF) for a closed one, OverflowError for a number that is no C int,
    TypeError for what is neither.
    """
    cdef int fd = number_of(obj) if type(obj) is _readable_class else _ask_fileno(obj)
    if fd < 0:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return fd


cdef int _ask_fileno(object obj) except? -1:
    cdef int fd
    number = obj if isinstance(obj, int) else obj.fileno()
    if not isinstance(number, int):
        raise TypeError(f"fileno() must return an int, not {type(number).__name__}")
    fd = number
    return fd


cdef bint has_lost(object sock, int fd) except -1:
    try:
        return sock.fileno() != fd
    except Exception:
        return True


cdef bint is_socket(object obj, int fd) except -1:
    """Tell by the descriptor, where the class does not, whether recv(2) and send(2) work on it."""
    return isinstance(obj, _socket.socket) or stat.S_ISSOCK(os.fstat(fd).st_mode)


cdef class Ring:
    """The completion port: one io_uring instance and the operations on it.

    rung: the set-up flags to begin with, 0 (best) to 2 (those of Linux 5.19); a kernel that
    refuses them is asked for the next.  None: what this kernel was found to take.
    kernel: for tests, a capsule named "uring::Kernel" with the calls to make in the system's place.
    spin_us, sq_entries, cq_entries, receive_buffer: see uring_events.IouringProactor.
    Raises uringloop.IouringUnavailableError; ValueError and TypeError for arguments that are none.

    Source: io_uring_setup(2), io_uring_enter(2).
    """

    def __cinit__(self, rung=None, kernel=None, *, spin_us=None, sq_entries=None, cq_entries=None,
                  receive_buffer=None):
        cdef const Kernel* calls = _calls_of(kernel)
        self._spin_ns = 1000 * _option("spin_us", spin_us, 0, 0, MOST_SPIN)
        self._size_queues(sq_entries, cq_entries)
        self._scratch_size = _option("receive_buffer", receive_buffer, SCRATCH_SIZE, LEAST_SCRATCH_SIZE,
                                     MOST_SCRATCH_SIZE)
        self._slots = []
        self._streams = []
        self._senders = []
        # Until a turn has told: what a first turn sends is gathered.
        self._small_sends_before = 2
        self._kernel = kernel
        self._proactor = new Proactor(calls[0])
        self._proactor.keep_polls(MULTISHOT_UP_TO, MULTISHOT_FROM)
        self._scratch = PyMem_RawMalloc(self._scratch_size)
        if self._scratch is NULL:
            raise MemoryError

    cdef int _size_queues(self, sq_entries, cq_entries) except -1:
        cdef unsigned sq = _power_of_two(_option("sq_entries", sq_entries, SQ_ENTRIES, 1, MOST_SQ_ENTRIES))
        cdef unsigned cq = _power_of_two(_option("cq_entries", cq_entries, CQ_ENTRIES, 1, MOST_CQ_ENTRIES))
        # The kernel refuses fewer completions than submissions. What was not asked for follows.
        if cq < sq:
            if sq_entries is None:
                sq = cq
            elif cq_entries is None:
                cq = 2 * sq
            else:
                raise ValueError(f"cq_entries must be from {sq} to {MOST_CQ_ENTRIES}, no fewer than sq_entries, not {cq}")
        self._sq_entries, self._cq_entries = sq, cq
        return 0

    def __init__(self, rung=None, kernel=None, *, spin_us=None, sq_entries=None, cq_entries=None,
                 receive_buffer=None):
        cdef Features features
        cdef const char* call = "io_uring_setup"
        cdef int64_t waited = 0
        cdef int error
        cdef int best = 0
        if self._proactor.is_open():
            raise RuntimeError("the ring is already made")
        if rung is not None or kernel is not None:
            best = rung or 0
            if not 0 <= best <= 2:
                raise ValueError("rung must be 0, 1 or 2")
        while True:
            if rung is None and kernel is None:
                error = real_features(&features, &call)
            else:
                error = probe_features(_calls_of(kernel)[0], &features, <Rung> best, &call)
            # What may be over in a moment, and mostly is at the next attempt.
            if not (is_passing(error) or error == -ENOMEM) or not self._wait_for_memory(&waited):
                break
        if self._proactor.is_open():
            raise RuntimeError("the ring is already made")
        if error == 0:
            call = "io_uring_setup"
            error = self._proactor.init(features, self._sq_entries, self._cq_entries, 0)
            while error == -ENOMEM and self._wait_for_memory(&waited):
                # Another thread may have made it.
                if self._proactor.is_open():
                    raise RuntimeError("the ring is already made")
                error = self._proactor.init(features, self._sq_entries, self._cq_entries, 0)
        if error < 0:
            raise explain(-error, stage=call.decode(),
                          memory_needed=CppRing.memory_needed(self._sq_entries, self._cq_entries))

    def __dealloc__(self):
        # What is in flight has been ended by close(); the table goes with the proactor.
        del self._proactor
        PyMem_RawFree(self._scratch)

    def __del__(self):
        cdef Proactor* proactor = self._proactor
        # Without a proactor: the arguments were refused.
        if proactor is NULL:
            return
        # Nobody has closed it: the kernel may be reading the buffers that go with this object.
        self._drain(DROP_PATIENCE)
        # While the operations are whole: the collector is about to take them apart.
        self._close()

    def __repr__(self):
        state = f"fd={self._proactor.ring_fd()}" if self._proactor.is_open() else "closed"
        return f"<Ring {state} operations={self._proactor.operations()}>"

    @property
    def closed(self):
        return not self._proactor.is_open()

    @property
    def forked(self):
        """True in a forked child, where the ring must not be used."""
        return self._is_forked()

    @property
    def bound_here(self):
        """True while the calling thread is the one that takes the ring's turns."""
        return self._proactor.bound_here()

    @property
    def fd(self):
        return self._proactor.ring_fd()

    @property
    def rung(self):
        """0: SINGLE_ISSUER and DEFER_TASKRUN; 1: COOP_TASKRUN; 2: plain."""
        return <int> self._proactor.rung()

    @property
    def setup_flags(self):
        """IORING_SETUP_* of io_uring_setup(2)."""
        return self._proactor.ring_flags()

    @property
    def kernel_features(self):
        """IORING_FEAT_* of io_uring_setup(2)."""
        return self._proactor.features().kernel_features

    @property
    def refused(self):
        """The operations that the kernel was found to refuse, or not to know: those are done in another way."""
        cdef unsigned refused = self._proactor.features().refused
        return tuple([name for bit, name in _REFUSALS if refused & <unsigned> bit])

    @property
    def entries(self):
        """The sizes of the two queues, as they were asked for: submissions, completions."""
        return self._sq_entries, self._cq_entries

    @property
    def receive_buffer(self):
        """Bytes of the buffer that receives go through."""
        return self._scratch_size

    @property
    def memory_needed(self):
        """Bytes of locked memory."""
        return CppRing.memory_needed(self._sq_entries, self._cq_entries)

    @property
    def in_flight(self):
        """The number of operations that the kernel has."""
        return self._proactor.in_flight()

    @property
    def stale_keys(self):
        """Completions whose operation was gone: counted, never followed."""
        return self._proactor.stale_keys()

    @property
    def abandoned(self):
        """Operations that were in flight when the ring closed; their buffers are kept for good."""
        return self._proactor.abandoned()

    def __len__(self):
        """The number of operations that have not been handed out and dropped."""
        return self._proactor.operations()

    def overlapped(self):
        """Return the operations in the table that are nobody else's, in order of their slots."""
        return [ov for ov in self._slots if isinstance(ov, Overlapped)]

    def owners(self):
        """Return whose operations are in the table, in order of their slots."""
        return [owner for owner in self._slots if owner is not None]

    cdef int _refuse(self) except -1:
        if self._proactor.is_open() and self._proactor.forked():
            raise RuntimeError(
                "this event loop belongs to the process that made it: after a fork, make a new "
                "one with uringloop.new_event_loop()")
        if not self._proactor.is_open():
            raise RuntimeError("the ring is closed")
        return 0

    def bind(self):
        """Make the calling thread the one that takes turns; operations in flight move along.

        Raises RuntimeError in a forked child, OSError where a fresh ring can't be made.
        """
        # (A new thread may have the identity of one that is gone: only the kernel's number tells.)
        self._bind()

    cdef int _bind(self, bint force=False) except -1:
        cdef int64_t waited = 0
        cdef int error
        self._check()
        error = self._proactor.bind_thread(force, 0)
        while error == -ENOMEM and self._wait_for_memory(&waited):
            # Another thread may have closed it.
            self._check()
            error = self._proactor.bind_thread(force, 0)
        if error == -EBUSY:
            raise RuntimeError("another thread waits for this event loop's completions")
        if error < 0:
            raise explain(-error, memory_needed=CppRing.memory_needed(self._sq_entries, self._cq_entries))
        self._thread = this_thread()
        return 0

    cdef bint _wait_for_memory(self, int64_t* waited) noexcept:
        """Give the kernel time for taking back the locked memory of closed rings, and others the GIL.

        False when it has had enough.
        """
        cdef int64_t pause = min(MEMORY_PAUSE + waited[0], 64 * MEMORY_PAUSE)
        if waited[0] >= MEMORY_PATIENCE:
            return False
        with nogil:
            self._proactor.sleep(pause)
        waited[0] += pause
        return True

    # -- what is to be seen from outside --

    def counters(self):
        """Return what the ring has done, as a dict: counts since it was made, and `blocked` in seconds."""
        cdef Proactor* proactor = self._proactor
        return {
            'enters': proactor.enters(),
            'submissions': proactor.submissions(),
            'completions': proactor.completions(),
            'cq_overflows': proactor.overflows(),
            'replaced_rings': proactor.replaced_rings(),
            'stale_keys': proactor.stale_keys(),
            'abandoned_buffers': proactor.abandoned(),
            'blocked': proactor.blocked_ns() / 1e9,
        }

    def count_operations(self):
        """Return ({kind: [count, age of the oldest in seconds, counts by age]}, {state: count}, sends, bytes).

        The counts by age are those below AGES[0] seconds, below AGES[1] ... and above. Sends have a buffer that the kernel
        reads, and the bytes are those that are not out.
        """
        cdef Proactor* proactor = self._proactor
        cdef const Operation* operation
        cdef int64_t now = proactor.now()
        cdef int64_t age
        cdef uint32_t slot
        cdef int place
        cdef int sends = 0
        cdef uint64_t unsent = 0
        kinds = {}
        states = dict.fromkeys(_STATES[1:], 0)
        # Nothing but this function's objects is made or freed on the way: what it finds is of one moment.
        for slot in range(proactor.capacity()):
            operation = proactor.peek(slot)
            if operation.state == State.kFree:
                continue
            states[_STATES[<int> operation.state]] += 1
            age = now - operation.started_ns if operation.started_ns else 0
            kind = _name_of(operation.kind)
            entry = kinds.get(kind)
            if entry is None:
                entry = kinds[kind] = [0, 0.0, [0] * (len(AGES) + 1)]
            place = 0
            while place < len(AGES) and age >= <int64_t> (1e9 * <double> AGES[place]):
                place += 1
            entry[0] += 1
            entry[1] = max(entry[1], age / 1e9)
            entry[2][place] += 1
            if owns_buffer(operation.kind):
                sends += 1
                unsent += operation.length - operation.done
        return kinds, states, sends, unsent

    def list_operations(self):
        """Return (kind, state, fd, peer, age, done, size, owner) of each operation, the oldest first.

        peer: the address that getpeername(2) tells, None without one. age: seconds; 0 of what the kernel has not got.
        done, size: bytes of a send; else 0. owner: an Overlapped, a native transport, or None.
        """
        cdef Proactor* proactor = self._proactor
        cdef const Operation* operation
        cdef int64_t now = proactor.now()
        cdef uint32_t slot
        cdef Owner owner
        cdef bint sending
        found = []
        for slot in range(proactor.capacity()):
            # (The objects that are made may set off the collector, and finalizers change the table.)
            operation = proactor.peek(slot)
            if operation is NULL or operation.state == State.kFree:
                continue
            sending = owns_buffer(operation.kind) or operation.kind == Kind.kSendfile
            owner = self._slots[slot] if slot < <uint32_t> len(self._slots) else None
            entry = (_name_of(operation.kind), _STATES[<int> operation.state], operation.fd, None,
                     (now - operation.started_ns) / 1e9 if operation.started_ns else 0.0,
                     operation.done if sending else 0, operation.length if sending else 0, owner)
            # A number that is no longer its own is another's by now; who must be asked in Python is not.
            if owner is None or not owner._plain or not owner._lost():
                entry = (*entry[:3], _peer_of(entry[2]), *entry[4:])
            found.append(entry)
        found.sort(key=_AGE, reverse=True)
        return found

    # -- a turn --

    def wait(self, int64_t timeout_ns):
        """Submit what is queued, and sleep until something completes.

        timeout_ns: nanoseconds; 0 does not sleep, a negative one has no limit.
        Signal handlers run; what they raise leaves here and loses no completion.
        """
        self._wait(timeout_ns)

    cdef int _wait(self, int64_t timeout_ns) except -1:
        cdef Proactor* proactor = self._proactor
        cdef int64_t deadline = 0
        # Once: what has not come by then is slept for.
        cdef int64_t spin_ns = self._spin_ns
        cdef int64_t nap_ns
        cdef int error
        cdef bint sleep
        cdef bint trusting
        cdef bint napped
        cdef bint bound = False
        if this_thread() != self._thread:
            self._bind()
        if timeout_ns > 0:
            deadline = proactor.now() + timeout_ns
        while True:
            # A signal's handler, another thread, or a socket's fileno() may have closed it.
            self._check()
            if proactor.first_queued() != kNoSlot:
                self._check_queued()
            sleep = timeout_ns != 0 and proactor.quiet()
            nap_ns = timeout_ns
            if proactor.watched():
                nap_ns = self._look(sleep, timeout_ns)
                sleep = sleep and proactor.quiet()
            trusting = (proactor.trusts_files() or not self._told_of.empty()) and not 0 <= nap_ns < TRUST
            if trusting:
                nap_ns = TRUST
            error = proactor.prepare()
            sleep = sleep and proactor.idle()
            # (To spin is not to sleep: it is over in no time.)
            napped = False
            if error == 0:
                if sleep and spin_ns:
                    if 0 < nap_ns < spin_ns:
                        spin_ns = nap_ns
                    self._asleep = True
                    with nogil:
                        error = proactor.spin(spin_ns)
                    self._asleep = False
                    spin_ns = 0
                elif sleep or proactor.large_copy():
                    napped = sleep
                    self._asleep = True
                    with nogil:
                        error = proactor.enter(sleep, nap_ns)
                    self._asleep = False
                elif proactor.must_enter():
                    error = proactor.enter(False, 0)
            proactor.reap()
            if trusting and napped and not proactor.has_completions() or proactor.has_trusted_for(LONGEST_TRUST):
                proactor.check_files()
            if error == -EEXIST and not bound:
                # The thread that the ring belongs to has ended, and this one got its identity.
                self._bind(True)
                # Of the ring that it has now it is the owner: to be told so again means something else.
                bound = True
                continue
            if error == 0:
                bound = False
            if error == -EBADF:
                self._check()
            if error < 0 and error != -EINTR:
                raise explain(-error, stage="IORING_OP_POLL_ADD" if proactor.refused_to_poll() else "io_uring_enter")
            if sleep or error == -EINTR:
                PyErr_CheckSignals()
                # A handler may have come back in a forked child.
                self._check()
            if not self._told_of.empty() and (
                    trusting and napped and not proactor.has_completions() or proactor.now() >= self._doubt_due):
                if self._end_doubt():
                    proactor.take_wake()
                    return 0
            if proactor.has_completions():
                proactor.take_wake()
                return 0
            # It would be waited for in vain.
            error = proactor.refused_to_enter()
            if error < 0:
                raise explain(-error, stage="io_uring_enter")
            if proactor.take_wake() or timeout_ns == 0:
                return 0
            if timeout_ns > 0:
                timeout_ns = deadline - proactor.now()
                if timeout_ns <= 0:
                    return 0
            if proactor.stalled():
                # The kernel takes nothing for now: other threads, and signals, do not wait for it.
                with nogil:
                    proactor.back_off(timeout_ns)
                PyErr_CheckSignals()

    cdef bint is_idle(self) noexcept:
        """True when a turn that does not sleep would find, and do, nothing."""
        cdef Proactor* proactor = self._proactor
        return (this_thread() == self._thread and PyList_GET_SIZE(<PyObject*> self._senders) == 0
                and self._told_of.empty() and self._doubtful.empty() and self._readable.empty()
                and proactor.at_rest() and proactor.watched() == 0)

    cdef int doubt(self, uint64_t key) except -1:
        """A multishot poll has told something: it is asked again some time, whether there is more."""
        if self._told_of.empty():
            self._doubt_due = self._proactor.now() + LONGEST_TRUST
        self._told_of.push_back(key)
        return 0

    cdef int ask_again(self, uint64_t key) except -1:
        """Have the owner of a poll told in the next turn, if there is something to read."""
        self._doubtful.push_back(key)
        return 0

    cdef bint _ask(self) except -1:
        """Ask of all that are in doubt, as a selector would; true if there is something to read."""
        cdef vector[uint64_t] keys
        cdef vector[pollfd] asked
        cdef pollfd one
        cdef uint64_t key
        cdef size_t place
        cdef int found
        one.events = <short> POLLIN
        one.revents = 0
        for key in self._doubtful:
            if self._proactor.peek(<uint32_t> key).key() == key:
                one.fd = self._proactor.peek(<uint32_t> key).fd
                asked.push_back(one)
                keys.push_back(key)
        self._doubtful.clear()
        if not asked.empty():
            found = poll(asked.data(), asked.size(), 0)
            for place in range(asked.size()):
                # (Without memory it says nothing: whoever reads finds out.)
                if found < 0 or asked[place].revents:
                    self._readable.push_back(keys[place])
        return not self._readable.empty()

    cdef int _tell_again(self) except -1:
        """Tell the owners of what _ask() has found."""
        cdef vector[uint64_t] keys
        cdef uint64_t key
        if self._readable.empty():
            return 0
        keys.swap(self._readable)
        for key in keys:
            owner = self._slots[<uint32_t> key]
            if owner is not None:
                (<Owner> owner).tell_again(key)
        return 0

    cdef bint _end_doubt(self) except -1:
        """Ask of all who have been told something; true if there is something to read."""
        cdef vector[uint64_t] told
        cdef uint64_t key
        told.swap(self._told_of)
        for key in told:
            owner = self._slots[<uint32_t> key]
            if owner is not None and self._proactor.peek(<uint32_t> key).key() == key:
                (<Owner> owner).end_doubt()
                self._doubtful.push_back(key)
        return self._ask()

    cdef int _check_queued(self) except -1:
        """End what is about to be submitted on a descriptor that its owner has closed.

        A send would go to the number's next owner.
        """
        cdef uint32_t slot = self._proactor.first_queued()
        cdef const Operation* operation
        cdef uint64_t key
        cdef PyObject* place
        cdef Owner owner
        cdef list asked = None
        while slot != kNoSlot:
            operation = self._proactor.peek(slot)
            key = operation.key()
            slot = operation.next
            if operation.flags & kWatched or owns_buffer(operation.kind):
                place = self._find_owner(key)
                if place is NULL:
                    continue
                # (No Python code runs: it stays where it is.)
                owner = <Owner> place
                if owner._plain:
                    if owner._lost():
                        self._proactor.cancel(key, -EBADF)
                elif asked is None:
                    asked = [(owner, key)]
                else:
                    asked.append((owner, key))
        if asked is not None:
            # Their fileno() may do anything, to the queue as well.
            for owner, key in asked:
                if owner._lost():
                    # (Of an operation that is gone the key is stale.)
                    self._proactor.cancel(key, -EBADF)
            self._check()
        return 0

    cdef int64_t _look(self, bint sleep, int64_t timeout_ns) except? -2:
        """End operations whose socket has been closed; return how long to sleep until the next look."""
        cdef unsigned watched = self._proactor.watched()
        cdef int64_t now, took
        if not sleep:
            self._look_at(min(watched, LOOK_AWAKE))
            return timeout_ns
        if watched <= LOOK_BATCH:
            self._look_at(watched)
            return timeout_ns
        now = self._proactor.now()
        if now < self._look_due:
            self._look_at(LOOK_AWAKE)
            if timeout_ns < 0 or timeout_ns > self._look_due - now:
                timeout_ns = self._look_due - now
            return timeout_ns
        self._look_at(watched)
        took = self._proactor.now() - now
        self._look_due = now + max(LOOK_INTERVAL, LOOK_SHARE * took)
        return timeout_ns

    cdef int _look_at(self, unsigned count):
        cdef uint32_t slot
        cdef uint64_t key
        cdef Owner owner
        while count:
            count -= 1
            slot = self._proactor.look_at_next()
            if slot == kNoSlot:
                continue
            owner = self._slots[slot]
            if owner is None:
                continue
            # Asking may run Python code, after which the slot may be another operation's.
            key = self._proactor.peek(slot).key()
            if owner._lost():
                self._proactor.cancel(key, -EBADF)
        return 0

    def next(self):
        """Return the next completed operation, or None."""
        return self._next()

    cdef Overlapped _next(self):
        cdef Completion completion
        cdef PyObject* place
        cdef Owner owner
        while self._proactor.next(&completion):
            place = self._find_owner(completion.key)
            if place is NULL:
                self._proactor.release(completion.key)
                continue
            owner = <Owner> place
            if owner.complete(&completion):
                return owner
            else:
                self._told += 1
        return None

    cdef int enlist(self, Owner owner, int64_t key) except -1:
        """Have the owner told of the operation's completions; for the errno of a failed start, OSError."""
        cdef uint32_t slot
        cdef list slots = self._slots
        if key < 0:
            raise os_error(key)
        slot = <uint32_t> key
        while <uint32_t> len(slots) <= slot:
            slots.append(None)
        slots[slot] = owner
        if self._asleep:
            # Another thread writes to a transport, or resumes it: only the one that sleeps can begin with it.
            self._proactor.wake()
        return 0

    cdef int dismiss(self, uint64_t key) except -1:
        """The operation has completed, and its owner wants nothing more of it."""
        self._slots[<uint32_t> key] = None
        self._proactor.release(key)
        return 0

    cdef uint64_t start_poll(self, Owner owner, int fd, unsigned multishot) except 0:
        """Have the owner told when fd is readable; a key.

        multishot: events to be told of, by a poll that the kernel may keep, to an owner who reads all that there is
        whenever one that was kept tells him; 0 for none.
        """
        cdef int64_t key
        self._check()
        if multishot:
            key = self._proactor.start_multishot(Kind.kPoll, fd, multishot)
        else:
            key = self._proactor.start_poll(Kind.kPoll, fd, POLLIN)
        self.enlist(owner, key)
        if owner._plain:
            self._proactor.watch(key)
        return key

    cdef uint64_t start_wait(self, Owner owner, int fd, unsigned events, object stream) except 0:
        """Have the owner told once when `events` hold on fd, by the readiness set; a key.

        stream: the socket object, if it is one that will most likely wait for the same again; else None.
        """
        cdef int64_t key
        cdef bint known
        self._check()
        if stream is None:
            key = self._proactor.start_wait(Kind.kPoll, fd, events, False)
        else:
            known = self._knows(fd, stream)
            key = self._proactor.start_lingering_wait(Kind.kPoll, fd, events, known)
            if key >= 0 and not known:
                while len(self._streams) <= fd:
                    self._streams.append(None)
                self._streams[fd] = ref(stream) if _tells_of_each_byte(fd) else None
        self.enlist(owner, key)
        if owner._plain:
            self._proactor.watch(key)
        return key

    cdef bint _knows(self, int fd, object stream) except -1:
        """Tell whether the file that has waited under this number is still the socket's.

        A socket object has one file for as long as it is open; only dup2(2) could give it another.
        """
        cdef PyObject* known
        if fd >= PyList_GET_SIZE(<PyObject*> self._streams):
            return False
        known = PyList_GET_ITEM(<PyObject*> self._streams, fd)
        return known is not <PyObject*> None and (<object> known)() is stream

    cdef bint is_drained(self, int fd, object stream) except -1:
        """Tell whether a stream had nothing more to read the last time, and nothing has come that is known of."""
        return self._proactor.is_drained(fd) and self._knows(fd, stream)

    cdef int note_drained(self, int fd) noexcept:
        """A read of the descriptor has got less than it would have taken."""
        self._proactor.note_drained(fd)
        return 0

    cdef int end(self, uint64_t key) except -1:
        """Cancel a wait of the readiness set, and give its place back: its owner is told nothing more."""
        if not self._proactor.forked():
            self._proactor.cancel(key, -ECANCELED)
            if self._proactor.take(key):
                self.dismiss(key)
        return 0

    cdef int send_soon(self, Owner owner) except -1:
        """Have the owner's send_gathered() called when the tick ends."""
        self._senders.append(owner)
        return 0

    cdef bint send_gathered(self) except -1:
        """Have all send what they have gathered; true if the loop has something to run then."""
        cdef list senders = self._senders
        cdef Py_ssize_t done = 0
        cdef bint left = False
        if self._small_sends:
            self._small_sends_before = self._small_sends
            self._small_sends = 0
        if PyList_GET_SIZE(<PyObject*> senders) == 0:
            return False
        self._senders = []
        if self._is_forked():
            # It is the parent's, and its thread sends it.
            return False
        try:
            while done < PyList_GET_SIZE(<PyObject*> senders):
                owner = senders[done]
                done += 1
                left |= (<Owner> owner).send_gathered()
        except:
            self._senders[:0] = senders[done:]
            raise
        return left

    cdef bint again(self, uint64_t key, bint in_bulk) noexcept:
        """Wait once more, out of the owner's complete(); false if it has been cancelled.

        in_bulk: what it waits for comes in many packets.
        """
        return self._proactor.again(key, in_bulk) == 0

    cdef int cancel(self, uint64_t key) noexcept:
        """Ask an operation to end; its owner is told of the end."""
        if not self._proactor.forked():
            self._proactor.cancel(key, -ECANCELED)
        return 0

    cdef AddressBook addresses(self):
        if self._addresses is None:
            self._addresses = AddressBook()
        return self._addresses

    def wake(self):
        """End the sleep of the thread in wait(); for any thread.

        Another one gives the GIL up: who calls this all the time would leave the loop behind for good.
        """
        self._wake()

    cdef int _wake(self) except -1:
        if self._proactor.forked():
            return 0
        if this_thread() == self._thread:
            self._proactor.wake()
        else:
            with nogil:
                self._proactor.wake()
        return 0

    def settle(self, obj):
        """Cancel what is in flight on obj's descriptor, so that closing it closes the file."""
        cdef int fd
        try:
            fd = obj.fileno()
        except Exception:
            # One that tells no number has nothing in flight either, and must be closed all the same.
            return
        if fd >= 0:
            self._settle(fd)

    cdef int _settle(self, int fd) except -1:
        if self._proactor.is_open() and self._proactor.first_on(fd) != kNoSlot \
                and not self._proactor.forked():
            self._proactor.settle(fd)
        return 0

    def send_queued(self):
        """Send what is queued to be sent, as far as there is room; in any thread, and at once."""
        self._send_queued()

    cdef int _send_queued(self) except -1:
        self.send_gathered()
        if self._proactor.is_open() and not self._proactor.forked() \
                and self._proactor.first_queued() != kNoSlot:
            self._check_queued()
            self._proactor.send_queued()
        return 0

    def leave_polls(self):
        """End all polls in flight here, and leave it to the ring's close to end them in the kernel."""
        if not self._proactor.forked():
            self._proactor.leave_polls()

    def cancel_all(self):
        """Ask all operations to end."""
        if not self._proactor.forked():
            self._proactor.cancel_all()

    def forget(self, int fd):
        """Leave nothing behind of waits on fd that are over."""
        self._forget(fd)

    cdef int _forget(self, int fd) noexcept:
        self._proactor.forget(fd)
        return 0

    def close(self):
        """Close the ring.  Operations still in flight end, and give their buffers back."""
        self._close()

    cdef int _drain(self, int64_t patience_ns) except -1:
        """Proactor::drain(), with the GIL for all but its enters: another thread may come in."""
        cdef Proactor* proactor = self._proactor
        cdef int64_t give_up = proactor.now() + patience_ns
        cdef int64_t left
        cdef int error
        cdef bint sleep
        if proactor.bound_here():
            proactor.cancel_all()
        while proactor.in_flight() and proactor.bound_here():
            left = give_up - proactor.now()
            if left <= 0:
                break
            error = proactor.prepare()
            if error == 0:
                sleep = proactor.may_sleep()
                with nogil:
                    error = proactor.enter(sleep, left)
            proactor.reap()
            if error < 0 and error != -EINTR or proactor.refused_to_enter():
                break
            if proactor.stalled():
                with nogil:
                    proactor.back_off(left)
        return 0

    cdef int _close(self) except -1:
        cdef Overlapped ov
        self._proactor.close()
        while (ov := self._next()) is not None:
            ov._leave()
        return 0


cdef class Owner:

    cdef bint complete(self, const Completion* completion) except -1:
        raise NotImplementedError

    cdef bint send_gathered(self) except -1:
        raise NotImplementedError

    cdef int tell_again(self, uint64_t key) except -1:
        return 0

    cdef int end_doubt(self) except -1:
        return 0

    cdef bint _lost(self):
        return False


cdef class Overlapped(Owner):
    """One operation.

    Source: io_uring_prep_poll_add(3), io_uring_prep_send(3), io_uring_prep_sendmsg(3),
    io_uring_prep_write(3), recv(2), sendfile(2).
    """

    def __cinit__(self, Ring ring not None):
        self.ring = ring
        self._fd = -1
        self._kind = Kind.kNone

    def __dealloc__(self):
        # Only without a place in the table; with one, the ring's list holds this object.
        if self._viewing:
            PyBuffer_Release(&self._view)

    def __repr__(self):
        cdef const Operation* operation
        what = (<bytes> kind_name(self._kind)).decode() if self._kind != Kind.kNone else "nothing"
        info = [what]
        if self._fd >= 0:
            info.append(f"fd={self._fd}")
        if self.pending and self._key:
            operation = self.ring._proactor.peek(<uint32_t> self._key)
            if operation.started_ns == 0:
                info.append("queued")
            else:
                since = (self.ring._proactor.now() - operation.started_ns) / 1e9
                info.append(f"in flight for {since:.3f} s")
            if owns_buffer(self._kind):
                info.append(f"{operation.done} of {self._view.len} bytes")
        elif self.error:
            info.append(f"failed: {errno.errorcode.get(self.error, self.error)}")
        else:
            info.append("completed" if self._kind != Kind.kNone else "not started")
        return f"<Overlapped {' '.join(info)}>"

    @property
    def address(self):
        """The operation's key: generation and slot; 0 when it is not in the table."""
        return self._key

    # -- ownership --

    cdef int _enter(self, int64_t key) except -1:
        self.ring.enlist(self, key)
        self._key = <uint64_t> key
        self.pending = True
        return 0

    cdef bint complete(self, const Completion* completion) except -1:
        if self._key != completion.key:
            self.ring._proactor.release(completion.key)
            return False
        # What was taken back has not failed.
        if self.pending:
            self.error = -completion.error
        self.pending = False
        self._result = completion.result
        self._abandoned = completion.abandoned
        return True

    cdef int _leave(self) except -1:
        if not self._key:
            return 0
        self.ring.dismiss(self._key)
        self._key = 0
        self.pending = False
        if self._abandoned:
            _kept.append(self)
        else:
            self._unhold()
            self._buffer = None
        self.future = self.obj = self.callback = None
        return 0

    cdef int own(self, future, obj, callback) except -1:
        """Say who waits for it: `callback(None, None, ov)` gives the future's value.

        obj is kept alive, and asked for its fileno() before its descriptor is worked on.  A socket
        is also looked at from time to time: when it is closed, the operation ends with EBADF.
        """
        self.future = future
        self.obj = obj
        self.callback = callback
        # (A subclass may tell another number than it has.)
        self._plain = (_readable_class is not None
                       and (type(obj) is _readable_class or isinstance(obj, _readable_class))
                       and number_of(obj) == self._fd)
        if self._plain and self._key:
            self.ring._proactor.watch(self._key)
        return 0

    cdef bint _again(self) except -1:
        """Wait for readiness once more; False if the operation has been cancelled."""
        cdef int error
        if not self._key:
            return False
        if self.future is not None and self._lost():
            self.ring._proactor.cancel(self._key, -EBADF)
        error = self.ring._proactor.again(self._key)
        if error < 0:
            self.error = -error
            return False
        self.pending = True
        return True

    cdef bint _lost(self):
        """True when the owner no longer has the descriptor that this operation works on."""
        if self._plain:
            return number_of(self.obj) != self._fd
        if self.obj is None or isinstance(self.obj, int):
            return False
        return has_lost(self.obj, self._fd)

    # -- the operation as seen from Python --

    @property
    def unsent(self):
        """How many bytes of a send or write are not yet out; 0 when it has ended."""
        if not self._viewing or not self._key or not self.pending:
            return 0
        # Out it may be, and a turn that reads so many of them has not come to it.
        self.ring._proactor.read_posted()
        return self._view.len - <Py_ssize_t> self.ring._proactor.peek(<uint32_t> self._key).done

    def take_back(self, take):
        """Give up a send that the kernel has not got; False if it may have it, or has had all of it.

        In a forked child nothing is left of it.

        take: called with what is left to send.  No interrupt comes between, if it is a builtin.
        """
        cdef const Operation* operation
        if not self._viewing or not self._key or not self.pending:
            return False
        operation = self.ring._proactor.peek(<uint32_t> self._key)
        if operation.state != State.kQueued:
            return False
        if self.ring._is_forked():
            # It is the parent's, and its thread sends it.
            self.pending = False
            return True
        data = <object> self._view.obj
        take(memoryview(data)[operation.done:] if operation.done else data)
        self.cancel()
        self.pending = False
        return True

    def cancel(self):
        """Ask the operation to end.  It stays in the table until the kernel has let go of it."""
        if self.pending and self._key and not self.ring._proactor.forked():
            self.ring._proactor.cancel(self._key, -ECANCELED)

    def end(self):
        """Cancel what nobody is to be told of, such as a wait that is repeated, and give its place back.

        Otherwise who adds and removes a reader many times in one turn would leave as many behind.
        """
        self.cancel()
        if self._key and not self.ring._proactor.forked() and self.ring._proactor.take(self._key):
            self._leave()

    def getresult(self):
        """Return the result of a completed operation.

        Raises the operation's OSError; BlockingIOError when it is still pending, or when what had
        become ready was taken by somebody else: then it goes on waiting with the ring's leave.
        """
        return self._getresult()

    cdef object _getresult(self):
        if self.pending:
            raise BlockingIOError(errno.EAGAIN, "the operation is still pending")
        if self._kind == Kind.kNone:
            return self._value
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        if owns_buffer(self._kind) or self._kind == Kind.kPoll or self._kind == Kind.kConnect \
                or self._kind == Kind.kAccept:
            return self._result
        if self._lost():
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._kind == Kind.kSendfile:
            return self._send_file()
        if self._kind == Kind.kReceiveFrom:
            if self._buffer is None:
                return self._receive_from()
            return self._receive_from_into()
        if self._buffer is None:
            return self._receive()
        return self._receive_into()

    def _send_file(self):
        cdef int64_t sent = self.ring._proactor.send_file(self._key)
        if sent < 0:
            raise os_error(sent)
        return sent

    cdef object _receive(self):
        cdef Proactor* proactor = self.ring._proactor
        cdef int64_t size = self._size
        cdef int64_t got
        cdef object data
        if size <= self.ring._scratch_size:
            if self._kind == Kind.kRead:
                got = proactor.read(self._fd, self.ring._scratch, size)
            else:
                got = proactor.receive(self._fd, self.ring._scratch, size, self._flags)
            if got < 0:
                raise os_error(got)
            # With MSG_TRUNC the kernel tells the true length of a datagram.
            return PyBytes_FromStringAndSize(<char*> self.ring._scratch, min(got, size))
        data = PyBytes_FromStringAndSize(NULL, size)
        if self._kind == Kind.kRead:
            got = proactor.read(self._fd, PyBytes_AS_STRING(data), size)
        else:
            got = proactor.receive(self._fd, PyBytes_AS_STRING(data), size, self._flags)
        if got < 0:
            raise os_error(got)
        return data[:min(got, size)]

    cdef object _receive_into(self):
        cdef Py_buffer view
        cdef int64_t got
        # Taken only now: until here the user may resize what he gave us.
        PyObject_GetBuffer(self._buffer, &view, PyBUF_WRITABLE)
        try:
            if self._kind == Kind.kRead:
                got = self.ring._proactor.read(self._fd, view.buf, view.len)
            else:
                got = self.ring._proactor.receive(self._fd, view.buf, view.len, self._flags)
        finally:
            PyBuffer_Release(&view)
        if got < 0:
            raise os_error(got)
        return got

    cdef object _receive_from(self):
        cdef sockaddr_storage address
        cdef unsigned length = 0
        cdef int64_t got
        cdef int64_t size = self._size
        cdef object data = None
        cdef char* into = <char*> self.ring._scratch
        if size > self.ring._scratch_size:
            data = PyBytes_FromStringAndSize(NULL, size)
            into = PyBytes_AS_STRING(data)
        got = self.ring._proactor.receive_from(self._fd, into, size, self._flags, &address, &length)
        if got < 0:
            raise os_error(got)
        got = min(got, size)
        data = PyBytes_FromStringAndSize(into, got) if data is None else data[:got]
        return data, self._format(&address, length)

    cdef object _receive_from_into(self):
        cdef sockaddr_storage address
        cdef unsigned length = 0
        cdef int64_t got
        cdef Py_buffer view
        PyObject_GetBuffer(self._buffer, &view, PyBUF_WRITABLE)
        try:
            if self._size > view.len:
                raise ValueError("nbytes is greater than the length of the buffer")
            got = self.ring._proactor.receive_from(
                self._fd, view.buf, self._size or view.len, self._flags, &address, &length)
        finally:
            PyBuffer_Release(&view)
        if got < 0:
            raise os_error(got)
        return got, self._format(&address, length)

    cdef object _format(self, sockaddr_storage* address, unsigned length):
        formatted = format_address(address, length)
        # A family that only the socket module can put into words: the address is lost, not the data.
        return None if formatted is NotImplemented else formatted

    # -- starting: one call a kind.  fd is checked, the owner comes with own(). --

    cdef int prep_poll(self, int fd, unsigned events) except -1:
        """Wait on the ring until `events` (POLLIN, POLLOUT, ...) hold on fd; the result is those that do."""
        self.ring._check()
        self._kind = Kind.kPoll
        self._fd = fd
        self._enter(self.ring._proactor.start_poll(Kind.kPoll, fd, events))
        return 0

    cdef int prep_wait(self, int fd, unsigned events, Kind kind=Kind.kPoll,
                       bint repeated=False) except -1:
        """The same in the readiness set, which holds no file open.

        repeated: it is told in each turn in which they hold.
        """
        self.ring._check()
        self._kind = kind
        self._fd = fd
        self._enter(self.ring._proactor.start_wait(kind, fd, events, repeated))
        return 0

    cdef int prep_accept(self, int fd) except -1:
        self.prep_wait(fd, POLLIN, Kind.kAccept)

    cdef int prep_connect(self, int fd) except -1:
        self.prep_wait(fd, POLLOUT, Kind.kConnect)

    cdef int _prep_receive(self, Kind kind, int fd, object size, int flags) except -1:
        self.ring._check()
        size = PyNumber_Index(size)
        if size < 0:
            raise ValueError("negative buffersize in recv")
        self._kind = kind
        self._fd = fd
        self._size = size
        self._flags = flags
        self._enter(self.ring._proactor.start_poll(kind, fd, POLLIN))
        return 0

    cdef int prep_recv(self, int fd, size, int flags) except -1:
        """Receive up to `size` bytes; the result is a bytes object, b'' at the end of the stream."""
        self._prep_receive(Kind.kReceive, fd, size, flags)

    cdef int prep_recv_into(self, int fd, buf, int flags) except -1:
        """Receive into a writable buffer; the result is the number of bytes."""
        self._check_writable(buf)
        self._buffer = buf
        self._prep_receive(Kind.kReceive, fd, 0, flags)

    cdef int prep_recvfrom(self, int fd, size, int flags) except -1:
        """Receive a datagram; the result is (bytes, address)."""
        self._prep_receive(Kind.kReceiveFrom, fd, size, flags)

    cdef int prep_recvfrom_into(self, int fd, buf, size, int flags) except -1:
        """Receive a datagram into a buffer, at most `size` bytes (0: its length).

        The result is (number of bytes, address).
        """
        size = PyNumber_Index(size)
        if size < 0:
            raise ValueError("negative buffersize in recvfrom_into")
        if size > self._check_writable(buf):
            raise ValueError("nbytes is greater than the length of the buffer")
        self._buffer = buf
        self._prep_receive(Kind.kReceiveFrom, fd, size, flags)

    cdef int prep_read(self, int fd, size) except -1:
        """Read up to `size` bytes from a pipe or a terminal; the result is a bytes object."""
        self._prep_receive(Kind.kRead, fd, size, 0)

    cdef int prep_read_into(self, int fd, buf) except -1:
        """Read into a writable buffer; the result is the number of bytes."""
        self._check_writable(buf)
        self._buffer = buf
        self._prep_receive(Kind.kRead, fd, 0, 0)

    cdef Py_ssize_t _check_writable(self, object buf) except -1:
        cdef Py_buffer view
        cdef Py_ssize_t size
        PyObject_GetBuffer(buf, &view, PyBUF_WRITABLE)
        size = view.len
        PyBuffer_Release(&view)
        return size

    cdef int _hold(self, object buf) except -1:
        self.ring._check()
        PyObject_GetBuffer(buf, &self._view, PyBUF_SIMPLE)
        self._viewing = True
        return 0

    cdef int _unhold(self) except -1:
        if self._viewing:
            self._viewing = False
            PyBuffer_Release(&self._view)
        return 0

    cdef int prep_send(self, int fd, buf, unsigned flags) except -1:
        """Send all of buf; the result is its length.  The buffer is exported until then."""
        cdef int64_t sent
        self._hold(buf)
        self._kind = Kind.kSend
        self._fd = fd
        sent = self.ring._proactor.send_now(fd, self._view.buf, self._view.len, flags)
        if sent < 0:
            self.error = <int> -sent
            self._unhold()
        elif sent > 0 and sent == self._view.len:
            self._result = sent
            self._unhold()
        else:
            self._enter(self.ring._proactor.start_send(
                fd, self._view.buf, self._view.len, flags, sent))

    cdef int prep_write(self, int fd, buf) except -1:
        """Write all of buf to a pipe or a terminal; the result is its length."""
        self._hold(buf)
        self._kind = Kind.kWrite
        self._fd = fd
        self._enter(self.ring._proactor.start_write(fd, self._view.buf, self._view.len))

    cdef bint extend(self, data, Py_ssize_t limit) except -1:
        """Add to what a send or write has to send, up to limit bytes; False if the kernel may have its buffer."""
        if not self._viewing or not self._key or self._kind == Kind.kSendTo \
                or self._view.len + len(data) > limit \
                or self.ring._proactor.peek(<uint32_t> self._key).state != State.kQueued:
            return False
        self.ring._check()
        if self._buffer is None:
            # It is nobody else's, and so it may grow.
            self._buffer = PyByteArray_FromStringAndSize(<char*> self._view.buf, self._view.len)
        self._unhold()
        try:
            self._buffer += data
        finally:
            self._hold(self._buffer)
            self.ring._proactor.extend(self._key, self._view.buf, self._view.len)
        return True

    cdef bint prep_sendto(self, int fd, int family, buf, unsigned flags, addr) except -1:
        """Send a datagram; False if the address is one that only the socket module understands."""
        cdef sockaddr_storage address
        cdef unsigned length = parse_address(family, addr, &address)
        if length == 0:
            return False
        self._hold(buf)
        self._kind = Kind.kSendTo
        self._fd = fd
        self._enter(self.ring._proactor.start_sendto(
            fd, self._view.buf, self._view.len, flags, &address, length))
        return True

    cdef int prep_sendfile(self, int fd, int file, offset, count) except -1:
        """Send `count` bytes of a file from `offset`; the result is how many there were.

        The file is duplicated: its number may be closed meanwhile.
        """
        cdef int64_t start = PyNumber_Index(offset)
        cdef uint64_t length = PyNumber_Index(count)
        cdef int copy
        cdef int64_t key
        self.ring._check()
        copy = os.dup(file)
        key = self.ring._proactor.start_sendfile(fd, copy, start, length)
        if key < 0:
            os.close(copy)
        self._kind = Kind.kSendfile
        self._fd = fd
        self._enter(key)

    cdef int finish(self, value) except -1:
        """Complete without the kernel."""
        self._kind = Kind.kNone
        self._value = value
