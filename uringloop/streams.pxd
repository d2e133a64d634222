# What a transport needs to feed a StreamReader in place.
from cpython.object cimport PyObject

# Return the StreamReader that a StreamReaderProtocol would hand its data to, where nobody would see whether its
# methods are called; else None.  Runs nothing of the program's.  buffer: the reader's bytearray, a borrowed reference.
cdef object reader_of(object protocol, PyObject** buffer)

# Do what reader.feed_data() does when it has added to its buffer: wake up who reads, and pause the transport.
cdef int tell_reader(object reader, object buffer) except -1
