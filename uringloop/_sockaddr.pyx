"""Socket addresses between C and Python, for the plain cases.

`format_address` gives what `socket.socket.recvfrom` gives for the families that it knows;
`parse_address` takes an address that needs no resolving and no checking.  For everything else
(host names, scope names, other families, wrong arguments) callers go to the socket module, whose
own methods parse, resolve and complain.

An `AddressBook` does the same, and knows the addresses that it was asked for last: a server of datagrams meets its
peers again, and answers with the very tuple that it was given.

Source: ip(7), ipv6(7), unix(7), inet_pton(3).
"""
import _socket

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.string cimport memchr, memcmp, memcpy, memset
from libc.stdint cimport uint16_t, uint32_t, uintptr_t

from ._interpreter cimport Py_XDECREF_raw, steal

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        object (*tp_descr_get)(object self, object instance, void* owner)
    PyTypeObject* Py_TYPE(object)
    object PyUnicode_DecodeFSDefaultAndSize(const char* text, Py_ssize_t size)

cdef extern from "<sys/socket.h>" nogil:
    int AF_INET, AF_INET6, AF_UNIX

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        pass
    cdef struct in6_addr:
        pass
    cdef struct sockaddr_in:
        unsigned short sin_family
        uint16_t sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        unsigned short sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    uint16_t htons(uint16_t)
    uint16_t ntohs(uint16_t)
    uint32_t htonl(uint32_t)
    uint32_t ntohl(uint32_t)

cdef extern from "<arpa/inet.h>" nogil:
    const char* inet_ntop(int family, const void* address, char* text, unsigned size)
    int inet_pton(int family, const char* text, void* address)

cdef extern from "<sys/un.h>" nogil:
    cdef struct sockaddr_un:
        unsigned short sun_family
        char sun_path[108]


cdef inline bint _in_range(object number, long limit) except -1:
    return type(number) is int and 0 <= number <= limit


cdef unsigned parse_address(int family, object address, sockaddr_storage* into) except? 1:
    """The length of `address` written to `into`, or 0 when it is not a plain one."""
    cdef sockaddr_in* inet = <sockaddr_in*> into
    cdef sockaddr_in6* inet6 = <sockaddr_in6*> into
    cdef Py_ssize_t size
    cdef const char* host
    if type(address) is not tuple or not 2 <= len(address) <= 4:
        return 0
    if type(address[0]) is not str or not _in_range(address[1], 0xffff):
        return 0
    if not (<str> address[0]).isascii():
        return 0
    host = PyUnicode_AsUTF8AndSize(address[0], &size)
    if memchr(host, 0, size) is not NULL:
        return 0
    memset(into, 0, sizeof(sockaddr_storage))
    if family == AF_INET and len(address) == 2:
        if inet_pton(AF_INET, host, &inet.sin_addr) != 1:
            return 0
        inet.sin_family = AF_INET
        inet.sin_port = htons(address[1])
        return sizeof(sockaddr_in)
    if family == AF_INET6:
        if len(address) > 2 and not _in_range(address[2], 0xfffff):
            return 0
        if len(address) > 3 and not _in_range(address[3], 0xffffffff):
            return 0
        if inet_pton(AF_INET6, host, &inet6.sin6_addr) != 1:
            return 0
        inet6.sin6_family = AF_INET6
        inet6.sin6_port = htons(address[1])
        inet6.sin6_flowinfo = htonl(address[2]) if len(address) > 2 else 0
        inet6.sin6_scope_id = address[3] if len(address) > 3 else 0
        return sizeof(sockaddr_in6)
    return 0


cdef object format_address(sockaddr_storage* address, unsigned length):
    """The Python form of an address, None for none; NotImplemented for an unknown family."""
    cdef sockaddr_in* inet = <sockaddr_in*> address
    cdef sockaddr_in6* inet6 = <sockaddr_in6*> address
    cdef sockaddr_un* unix = <sockaddr_un*> address
    cdef char text[64]
    cdef Py_ssize_t size
    if length == 0:
        return None
    if address.ss_family == AF_INET:
        inet_ntop(AF_INET, &inet.sin_addr, text, sizeof(text))
        return text.decode("ascii"), ntohs(inet.sin_port)
    if address.ss_family == AF_INET6:
        inet_ntop(AF_INET6, &inet6.sin6_addr, text, sizeof(text))
        return (text.decode("ascii"), ntohs(inet6.sin6_port), ntohl(inet6.sin6_flowinfo),
                inet6.sin6_scope_id)
    if address.ss_family == AF_UNIX:
        size = <Py_ssize_t> length - <Py_ssize_t> sizeof(unsigned short)
        if size <= 0:
            return None
        if unix.sun_path[0] == 0:
            return PyBytes_FromStringAndSize(unix.sun_path, size)
        # The kernel counts a final NUL in or not, as the sender bound it.
        while size > 0 and unix.sun_path[size - 1] == 0:
            size -= 1
        return PyUnicode_DecodeFSDefaultAndSize(unix.sun_path, size)
    return NotImplemented


# The upper bits of a product are mixed best (Fibonacci hashing).
cdef inline unsigned _mixed(uint32_t number) noexcept:
    return <uint32_t> (number * <uint32_t> 2654435769) >> (32 - KNOWN_BITS)


cdef class AddressBook:
    """The addresses of the last peers in both forms. A tuple of str and int, as they are, is never changed by anybody."""

    def __dealloc__(self):
        cdef int place
        for place in range(KNOWN):
            Py_XDECREF_raw(self._by_raw[place].address)
            Py_XDECREF_raw(self._by_object[place].address)

    cdef unsigned parse(self, int family, object address, sockaddr_storage* into) except? 1:
        """As parse_address()."""
        cdef Known* place = self._place_of_object(address)
        cdef unsigned length
        if place.address is <PyObject*> address and (<sockaddr_in*> place.raw).sin_family == family:
            memcpy(into, place.raw, place.length)
            return place.length
        length = parse_address(family, address, into)
        if length:
            _keep(place, address, into, length)
        return length

    cdef object format(self, sockaddr_storage* address, unsigned length):
        """As format_address()."""
        cdef Known* place
        if not (address.ss_family == AF_INET and length == sizeof(sockaddr_in)
                or address.ss_family == AF_INET6 and length == sizeof(sockaddr_in6)):
            return format_address(address, length)
        place = self._place_of_raw(address, length)
        if place.address is not NULL and place.length == length and not memcmp(place.raw, address, length):
            return <object> place.address
        formatted = format_address(address, length)
        _keep(place, formatted, address, length)
        _keep(self._place_of_object(formatted), formatted, address, length)
        return formatted

    cdef Known* _place_of_raw(self, const sockaddr_storage* raw, unsigned length) noexcept:
        # Peers of one host differ in their ports, and hosts in the end of their numbers.
        cdef const sockaddr_in* inet = <const sockaddr_in*> raw
        cdef const sockaddr_in6* inet6 = <const sockaddr_in6*> raw
        cdef uint32_t host
        memcpy(&host, <const char*> &inet.sin_addr if length == sizeof(sockaddr_in)
               else <const char*> &inet6.sin6_addr + 12, sizeof(host))
        return &self._by_raw[_mixed(host ^ <uint32_t> inet.sin_port << 16 ^ inet.sin_port)]

    cdef Known* _place_of_object(self, object address) noexcept:
        return &self._by_object[_mixed(<uint32_t> (<uintptr_t> <PyObject*> address >> 4))]


cdef int _keep(Known* place, object address, const sockaddr_storage* raw, unsigned length) except -1:
    old = None if place.address is NULL else steal(place.address)
    Py_INCREF(address)
    place.address = <PyObject*> address
    place.length = length
    memcpy(place.raw, raw, length)
    return 0


cdef object _Socket = _socket.socket
cdef object _family_slot = _socket.socket.family
cdef object _type_slot = _socket.socket.type


cdef int family_of(object sock) except? -1:
    if isinstance(sock, _Socket):
        return Py_TYPE(_family_slot).tp_descr_get(_family_slot, sock, NULL)
    return sock.family


cdef int kind_of(object sock) except? -1:
    if isinstance(sock, _Socket):
        return Py_TYPE(_type_slot).tp_descr_get(_type_slot, sock, NULL)
    return sock.type


cdef bint has_plain_addresses(object sock) except -1:
    return family_of(sock) in (AF_INET, AF_INET6, AF_UNIX)
