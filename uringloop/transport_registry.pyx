"""Which transport a descriptor belongs to, and which ones are a server's.

Mirrors nothing.  asyncio keeps both in weak collections, at half a kilobyte and two microseconds for each
connection.  A native transport leaves its places itself when it dies, so what stands there needs no weak
reference: a pointer that nobody owns.  Other transports stand in asyncio's own collections, behind it.

Must not be in here: what transports do.
"""
import weakref

# From here on a number is a program's invention, or seldom enough: most processes may have no more descriptors
# (fs.nr_open).
cdef int _LIMIT = 1 << 20


cdef class Registered:

    cdef int leave(self) except -1:
        """Leave both places; called when the connection is lost, and when the object dies."""
        cdef Transports transports = self._transports
        if transports is not None:
            # (Not at the number that it would give now: a socket of the user's class may give another.)
            transports._leave_place(self)
        if self._clients is not None:
            self._clients.part(self)
        return 0


cdef class Transports:
    """Descriptor -> transport, as a weakref.WeakValueDictionary has it."""

    def __cinit__(self):
        self._others = weakref.WeakValueDictionary()
        self._others_data = self._others.data

    cdef object find(self, fd):
        cdef Py_ssize_t number
        if self._count and type(fd) is int and 0 <= fd < _LIMIT:
            number = fd
            if number < <Py_ssize_t> self._natives.size() and self._natives[number] is not NULL:
                return <object> self._natives[number]
        # (Its own len() is Python code.)
        return self._others.get(fd) if self._others_data else None

    def get(self, fd, default=None):
        transport = self.find(fd)
        return default if transport is None else transport

    def __getitem__(self, fd):
        transport = self.find(fd)
        if transport is None:
            raise KeyError(fd)
        return transport

    def __setitem__(self, fd, transport):
        cdef Registered native
        cdef Py_ssize_t number
        # (Called in vain, pop() takes longer than all that a connection costs here besides.)
        if self.find(fd) is not None or self._others_data:
            self.pop(fd, None)
        if not isinstance(transport, Registered) or type(fd) is not int or not 0 <= fd < _LIMIT:
            # (A socket of the user's class may say any number.)
            self._others[fd] = transport
            return
        native = transport
        number = fd
        if native._transports is not None:
            # It has one place.
            native._transports._leave_place(native)
        if number >= <Py_ssize_t> self._natives.size():
            self._natives.resize(max(64, number + number // 2 + 1), NULL)
        native._transports = self
        native._place = number
        self._natives[number] = <PyObject*> native
        self._count += 1

    cdef int _leave_place(self, Registered native) except -1:
        native._transports = None
        if self._natives[native._place] == <PyObject*> native:
            self._natives[native._place] = NULL
            self._count -= 1
        return 0

    def pop(self, fd, *default):
        cdef Registered native
        transport = self.find(fd)
        if not isinstance(transport, Registered) or (<Registered> transport)._transports is not self:
            return self._others.pop(fd, *default)
        native = transport
        self._leave_place(native)
        return transport

    def __delitem__(self, fd):
        self.pop(fd)

    def __contains__(self, fd):
        return self.find(fd) is not None

    def __len__(self):
        return self._count + len(self._others)

    def __bool__(self):
        # (Of the dead ones the dict is told later.)
        return self._count > 0 or bool(self._others_data)

    def __iter__(self):
        numbers = [number for number in range(self._natives.size()) if self._natives[number] is not NULL]
        return iter(numbers + list(self._others))

    def values(self):
        return [self[fd] for fd in self]

    def items(self):
        return [(fd, self[fd]) for fd in self]


cdef class Clients:
    """The transports of one server, as a weakref.WeakSet has them."""

    def __cinit__(self):
        self._others = weakref.WeakSet()
        self._others_data = self._others.data

    def add(self, transport):
        if isinstance(transport, Registered):
            self.join(transport)
        else:
            self._others.add(transport)

    cdef int join(self, Registered native) except -1:
        if native._clients is not None:
            native._clients.part(native)
        native._clients = self
        native._older = self._youngest
        if native._older is not NULL:
            (<Registered> native._older)._younger = <PyObject*> native
        self._youngest = <PyObject*> native
        self._count += 1
        return 0

    def discard(self, transport):
        if isinstance(transport, Registered):
            self.part(transport)
        else:
            self._others.discard(transport)

    cdef int part(self, Registered native) except -1:
        if native._clients is not self:
            return 0
        native._clients = None
        if native._younger is NULL:
            self._youngest = native._older
        else:
            (<Registered> native._younger)._older = native._older
        if native._older is not NULL:
            (<Registered> native._older)._younger = native._younger
        native._older = native._younger = NULL
        self._count -= 1
        return 0

    cdef bint is_empty(self) except -1:
        return self._count == 0 and not (self._others_data and len(self._others))

    def copy(self):
        """Return a list of them, the oldest first."""
        cdef list clients = []
        cdef PyObject* item = self._youngest
        while item is not NULL:
            clients.append(<object> item)
            item = (<Registered> item)._older
        clients.reverse()
        clients.extend(self._others)
        return clients

    def __contains__(self, transport):
        if isinstance(transport, Registered):
            return (<Registered> transport)._clients is self
        return transport in self._others

    def __len__(self):
        # (Its own len() is Python code, and a server asks for it at the end of each connection.)
        return self._count + (len(self._others) if self._others_data else 0)

    def __iter__(self):
        return iter(self.copy())
