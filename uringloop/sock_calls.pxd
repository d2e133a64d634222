# What transports ask of a socket.

# Whether a call on its number does what its methods do: it is a socket.socket, and neither its class, nor a subclass of
# the program's, nor the object has others for what a transport does.
cdef bint has_stdlib_methods(object sock) except -1
cpdef int send_pieces(object sock, object buffer) except -1
