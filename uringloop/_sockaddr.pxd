cdef extern from "<sys/socket.h>" nogil:
    cdef struct sockaddr_storage:
        unsigned short ss_family

cdef unsigned parse_address(int family, object address, sockaddr_storage* into) except? 1
cdef object format_address(sockaddr_storage* address, unsigned length)

# sock.family as a number, of which socket.socket makes an enumeration's member each time.
cdef int family_of(object sock) except? -1
# Whether the two above know the addresses of its family.
cdef bint has_plain_addresses(object sock) except -1
