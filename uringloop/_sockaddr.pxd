from cpython.object cimport PyObject

cdef extern from "<sys/socket.h>" nogil:
    cdef struct sockaddr_storage:
        unsigned short ss_family

cdef extern from "<netinet/in.h>" nogil:
    enum: LONGEST "sizeof(struct sockaddr_in6)"

cdef unsigned parse_address(int family, object address, sockaddr_storage* into) except? 1
cdef object format_address(sockaddr_storage* address, unsigned length)

cdef enum:
    KNOWN_BITS = 9
    KNOWN = 1 << KNOWN_BITS

cdef struct Known:
    PyObject* address            # owned; NULL: none yet
    unsigned length
    char raw[LONGEST]

cdef class AddressBook:
    cdef Known _by_raw[KNOWN]
    cdef Known _by_object[KNOWN]

    cdef unsigned parse(self, int family, object address, sockaddr_storage* into) except? 1
    cdef object format(self, sockaddr_storage* address, unsigned length)
    cdef Known* _place_of_raw(self, const sockaddr_storage* raw, unsigned length) noexcept
    cdef Known* _place_of_object(self, object address) noexcept

# sock.family as a number, of which socket.socket makes an enumeration's member each time.
cdef int family_of(object sock) except? -1
cdef int kind_of(object sock) except? -1
# Whether the two above know the addresses of its family.
cdef bint has_plain_addresses(object sock) except -1
