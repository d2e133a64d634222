# What a transport needs to feed a StreamReader in place.

# Return the StreamReader that a StreamReaderProtocol would hand its data to, where nobody would see whether its
# methods are called; else None.  May run nothing of the program's.
cdef object reader_of(object protocol)

# Do what reader.feed_data() does behind `_buffer.extend()`: wake up who reads, and pause the transport.
cdef int tell_reader(object reader) except -1
