"""How a native transport feeds a StreamReader: what is hot in asyncio/streams.py.

StreamReader, StreamWriter and StreamReaderProtocol are the stdlib's own.  But of a StreamReaderProtocol a
transport need not call data_received(), whose work for each message is four calls in Python and two copies:
it receives into the reader's buffer, and does here what feed_data() does besides.

This is for objects of exactly those classes, whose methods are the stdlib's, in the class and in the instance,
and only as long as all is as it mostly is: a reader that is alive, no end of the stream yet, a buffer that is
a bytearray and can be resized.  Else data_received() is called, which does, or complains of, what there is to.
So the stdlib's is the definition, and what is here only faster.  All attributes are read and set where the
stdlib has them, and by the usual ways.

Must not be in here: transports.

Differences from the stdlib, numbered; a line `# differs[Fn]` stands where each applies.
"""
# F1: What tells of calls (a profiler, a tracer, a traceback) does not tell of the calls that are not made.
import types
from asyncio import streams

from cpython.bytearray cimport PyByteArray_GET_SIZE
from cpython.object cimport PyObject

from ._interpreter cimport kHasGil, steal, version_tag

cdef extern from *:
    """
    // CPython's own, which it exports to its modules: the method of an object without a bound one being made.
    // Where there is none, the pointer is null.
    extern "C" __attribute__((weak)) int _PyObject_GetMethod(PyObject* object, PyObject* name, PyObject** method);

    // Whether object.name is this function of its class's. -1 with an exception set.
    static int has_own_method(PyObject* object, PyObject* name, PyObject* function) {
        PyObject* found = NULL;
        int result;
        if (_PyObject_GetMethod != NULL) {
            result = _PyObject_GetMethod(object, name, &found) && found == function;
        } else {
            found = PyObject_GetAttr(object, name);
            result = found != NULL && PyMethod_Check(found) && PyMethod_GET_FUNCTION(found) == function
                     && PyMethod_GET_SELF(found) == object;
        }
        if (found == NULL) return -1;
        Py_DECREF(found);
        return result;
    }

    // What a weak reference is to, as a new reference; NULL, without an exception, where it is gone.
    static PyObject* strong(PyObject* reference) {
    #if PY_VERSION_HEX >= 0x030D0000
        PyObject* object = NULL;
        if (PyWeakref_GetRef(reference, &object) < 0) PyErr_Clear();
        return object;
    #else
        PyObject* object = PyWeakref_GET_OBJECT(reference);
        return object == Py_None ? NULL : Py_NewRef(object);
    #endif
    }

    static inline int is_reference(PyObject* object) { return Py_IS_TYPE(object, &_PyWeakref_RefType); }

    // Views on it, beside which it can't be resized.
    static inline int is_viewed(PyObject* array) { return ((PyByteArrayObject*)array)->ob_exports != 0; }

    static inline int is_code_of(PyObject* function, PyObject* code) {
        return ((PyFunctionObject*)function)->func_code == code;
    }
    """
    ctypedef struct PyTypeObject:
        object (*tp_getattro)(object, object)
        int (*tp_setattro)(object, object, object) except -1
    PyTypeObject* Py_TYPE(PyObject*)
    object PyObject_GenericGetAttr(object, object)
    int PyObject_GenericSetAttr(object, object, object) except -1
    long PyLong_AsLongAndOverflow(object, int* overflow) except? -1
    bint has_own_method(object obj, object name, object function) except -1
    PyObject* strong(object reference)
    bint is_reference(object obj)
    bint is_viewed(object array)
    bint is_code_of(object function, object code)


cdef object _Protocol = streams.StreamReaderProtocol
cdef object _Reader = streams.StreamReader
cdef PyTypeObject* _protocol_type = <PyTypeObject*> _Protocol
cdef PyTypeObject* _reader_type = <PyTypeObject*> _Reader
# The versions of the two classes at which their methods were last looked at, and whether all was as at import.
cdef unsigned _protocol_tag = 0
cdef unsigned _reader_tag = 0
cdef bint _are_plain = False

# The methods that are not called, and what each of them works with. A stdlib whose methods name anything else is
# one that does something else. (An assertion is not there under -O.)
cdef dict _NAMES = {
    (_Protocol, 'data_received'): {'_stream_reader', 'feed_data'},
    (_Protocol, '_stream_reader'): {'_stream_reader_wr'},
    (_Reader, 'feed_data'): {
        '_eof', '_buffer', 'extend', '_wakeup_waiter', '_transport', '_paused', 'len', '_limit', 'pause_reading',
        'NotImplementedError'},
    (_Reader, '_wakeup_waiter'): {'_waiter', 'cancelled', 'set_result'},
}
# What they find in the instance, as long as nobody has put something in front of it into the class.
cdef tuple _ATTRIBUTES = ('_stream_reader_wr', '_eof', '_buffer', '_waiter', '_limit', '_transport', '_paused')
cdef dict _at_import = {}
# The functions behind them, and the code of each: a function may be given other code.
cdef object _data_received = None
cdef object _get_reader = None
cdef object _feed_data = None
cdef object _wakeup_waiter = None
cdef object _data_received_code, _get_reader_code, _feed_data_code, _wakeup_waiter_code
cdef bint _is_known = False


cdef int _look_at_classes() except -1:
    """Find out whether the methods are those of the stdlib, after a class has changed."""
    global _protocol_tag, _reader_tag, _are_plain
    _are_plain = (
        _protocol_type.tp_getattro is &PyObject_GenericGetAttr
        and _reader_type.tp_getattro is &PyObject_GenericGetAttr
        and _reader_type.tp_setattro is &PyObject_GenericSetAttr)
    for (cls, name), value in _at_import.items():
        # (A look-up gives the class its version.)
        if getattr(cls, name, None) is not value:
            _are_plain = False
    for name in _ATTRIBUTES:
        if hasattr(_Protocol if name == '_stream_reader_wr' else _Reader, name):
            _are_plain = False
    _protocol_tag = version_tag(<PyObject*> _protocol_type)
    _reader_tag = version_tag(<PyObject*> _reader_type)
    if not _protocol_tag or not _reader_tag:
        # There are no more versions to be had: nobody would notice a change.
        _are_plain = False
    return 0


cdef inline bint _classes_are_plain() except -1:
    if not _is_known:
        return False
    if version_tag(<PyObject*> _protocol_type) != _protocol_tag or version_tag(<PyObject*> _reader_type) != _reader_tag:
        _look_at_classes()
    return (_are_plain
            and is_code_of(_data_received, _data_received_code) and is_code_of(_get_reader, _get_reader_code)
            and is_code_of(_feed_data, _feed_data_code) and is_code_of(_wakeup_waiter, _wakeup_waiter_code))


# ours: the way of StreamReaderProtocol.data_received to its reader
cdef object reader_of(object protocol, PyObject** place):
    # differs[F1]
    cdef PyObject* found
    if Py_TYPE(<PyObject*> protocol) is not _protocol_type or not _classes_are_plain() \
            or not has_own_method(protocol, 'data_received', _data_received):
        return None
    # (Where one of these attributes is missing, it is the stdlib's method that says so.)
    reference = getattr(protocol, '_stream_reader_wr', None)
    if not is_reference(reference):
        return None
    found = strong(reference)
    if found is NULL:
        return None
    reader = steal(found)
    if Py_TYPE(<PyObject*> reader) is not _reader_type \
            or not has_own_method(reader, 'feed_data', _feed_data) \
            or not has_own_method(reader, '_wakeup_waiter', _wakeup_waiter) \
            or getattr(reader, '_eof', None) is not False:
        return None
    buffer = getattr(reader, '_buffer', None)
    if type(buffer) is not bytearray or is_viewed(buffer):
        return None
    # (The reader has it.)
    place[0] = <PyObject*> buffer
    return reader


# ours: what StreamReader.feed_data does besides adding to the buffer
cdef int tell_reader(object reader, object buffer) except -1:
    cdef int overflow
    cdef long limit
    cdef Py_ssize_t size
    waiter = reader._waiter
    if waiter is not None:
        reader._waiter = None
        if not waiter.cancelled():
            waiter.set_result(None)

    # What mostly is, asked first: the buffer is below its limit, and nothing follows.
    most = getattr(reader, '_limit', None)
    if type(most) is int:
        limit = PyLong_AsLongAndOverflow(most, &overflow)
        size = PyByteArray_GET_SIZE(buffer)
        if overflow > 0 or overflow == 0 and limit >= 0 and size - limit <= limit:
            return 0
    if reader._transport is not None and not reader._paused and len(reader._buffer) > 2 * reader._limit:
        try:
            reader._transport.pause_reading()
        except NotImplementedError:
            reader._transport = None
        else:
            reader._paused = True
    return 0


cdef bint _know() except -1:
    """Keep what the methods are, and tell whether they do what is done here."""
    global _data_received, _get_reader, _feed_data, _wakeup_waiter
    global _data_received_code, _get_reader_code, _feed_data_code, _wakeup_waiter_code
    cdef list functions = []
    for (cls, name), names in _NAMES.items():
        value = vars(cls).get(name)
        function = value.fget if type(value) is property else value
        if type(function) is not types.FunctionType:
            return False
        code = function.__code__
        # (What somebody has put there before this module was imported is of another file.)
        if code.co_filename != streams.open_connection.__code__.co_filename \
                or code.co_qualname != f'{cls.__name__}.{name}' or {*code.co_names, '_eof'} != {*names, '_eof'}:
            return False
        _at_import[cls, name] = value
        functions.append(function)
    _data_received, _get_reader, _feed_data, _wakeup_waiter = functions
    _data_received_code, _get_reader_code, _feed_data_code, _wakeup_waiter_code = [
        function.__code__ for function in functions]
    # Several threads at once may be at a reader where there is none.
    return kHasGil


_is_known = _know()
