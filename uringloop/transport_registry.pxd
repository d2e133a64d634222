# What native transports are registered by.
from cpython.object cimport PyObject
from libcpp.vector cimport vector

from .base_events cimport ReadyOwner


cdef class Registered(ReadyOwner):
    """A transport that is known to its loop by its descriptor, and to its server."""
    cdef Transports _transports  # where it stands, or None
    cdef Clients _clients        # the same
    cdef PyObject* _older        # its neighbours there, borrowed
    cdef PyObject* _younger
    cdef Py_ssize_t _place       # at which number it stands in _transports

    cdef int leave(self) except -1


cdef class Transports:
    cdef vector[PyObject*] _natives
    cdef object _others
    cdef dict _others_data       # what is in there, also of those that have died
    cdef Py_ssize_t _count       # of the native ones

    cdef object find(self, fd)
    cdef int _leave_place(self, Registered native) except -1


cdef class Clients:
    cdef PyObject* _youngest
    cdef Py_ssize_t _count       # of the native ones
    cdef object _others
    cdef set _others_data        # as above

    cdef int join(self, Registered native) except -1
    cdef int part(self, Registered native) except -1
    # Whether there are none. (To ask a WeakSet for its length is Python code.)
    cdef bint is_empty(self) except -1
