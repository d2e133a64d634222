cdef extern from "<sys/socket.h>" nogil:
    cdef struct sockaddr_storage:
        unsigned short ss_family

cdef unsigned parse_address(int family, object address, sockaddr_storage* into) except? 1
cdef object format_address(sockaddr_storage* address, unsigned length)
