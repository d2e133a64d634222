"""What is hot in a loop's core; mirrors asyncio/base_events.py and asyncio/events.py.

`BaseEventLoop` is the first base of the loop, in front of the stdlib's: what a program does a million
times a second is here, the rest is the stdlib's own. Each method here goes straight where everything is
as it mostly is: no debug mode, no method of a subclass's to be asked, Handles that nobody has patched, a
deque, a heap and a selector of the usual kinds. Where something is not, it calls the stdlib's method of
that name, which does it to the letter. So the stdlib's is the definition, and what is here only faster.

What the loop holds is what the stdlib's would hold: `_ready` is a deque, `_scheduled` a list, in them are
`asyncio.Handle` and `asyncio.TimerHandle` objects, and all attributes are there under their names. But
they are slots, read and written in C by their offsets, and the loop's __dict__ is made when somebody
puts something into it: CPython finds methods faster where there is none.

Must not be in here: io_uring, and sockets.

Differences from the stdlib, numbered; a line `# differs[Ln]` stands where each applies.
"""
# L1: A Handle is made without its constructor, its slots filled at their offsets; one that has run, and
#     that nobody else holds, is used again. Both only while events.Handle is as it was at import.
# L2: What call_later() and call_at() return is of a subclass of asyncio.TimerHandle, with its name, whose
#     cancel() is in C.
# L3: A callback's traceback begins with a line of this file where the stdlib's has two of asyncio's.
# L4: No wake-up is sent from another thread while callbacks are being run: the loop looks at what is
#     ready before it sleeps.
# L5: Where select() would find nothing, because nothing was started and nothing has completed, it is
#     not called. Its result, which a proactor's loop throws away, is not made.
import inspect
import sys
import time
import types
from asyncio import base_events, events, format_helpers, futures, proactor_events, tasks
from collections import deque

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from ._interpreter cimport kHasGil, raise_pending, steal, this_thread, version_tag
from ._overlapped cimport Ring

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from *:
    """
    #include <time.h>

    // The offset of an attribute that is a slot; -1 for any other kind.
    static Py_ssize_t slot_offset(PyObject* descriptor) {
        if (!Py_IS_TYPE(descriptor, &PyMemberDescr_Type)) return -1;
        PyMemberDef* member = ((PyMemberDescrObject*)descriptor)->d_member;
        return member->type == Py_T_OBJECT_EX && !(member->flags & Py_READONLY) ? member->offset : -1;
    }

    // The function behind a method of a type in C; NULL for what is called in another way.
    static PyCFunction c_method(PyObject* descriptor, int flags) {
        if (!Py_IS_TYPE(descriptor, &PyMethodDescr_Type)) return NULL;
        PyMethodDef* method = ((PyMethodDescrObject*)descriptor)->d_method;
        return method->ml_flags == flags ? method->ml_meth : NULL;
    }

    static inline PyObject* c_call(PyCFunction function, PyObject* self, PyObject* argument) {
        return function(self, argument);
    }

    // A descriptor whose calls are passed on without a tuple and a dict. The definition is never freed.
    static PyObject* fast_method(PyTypeObject* type, const char* name, void* function, int flags,
                                 const char* doc) {
        PyMethodDef* method = (PyMethodDef*)PyMem_RawCalloc(1, sizeof(PyMethodDef));
        if (method == NULL) return PyErr_NoMemory();
        method->ml_name = name;
        method->ml_meth = (PyCFunction)function;
        method->ml_flags = flags;
        method->ml_doc = doc;
        return PyDescr_NewMethod(type, method);
    }

    static PyObject* again_for(PyTypeObject* type, PyObject* descriptor) {
        return PyDescr_NewMethod(type, ((PyMethodDescrObject*)descriptor)->d_method);
    }

    static int put_into_type(PyTypeObject* type, PyObject* name, PyObject* value) {
        int error = PyDict_SetItem(type->tp_dict, name, value);
        PyType_Modified(type);
        return error;
    }

    // Set when one of the modules' dictionaries that are watched is about to change.
    static int names_changed = 1;
    static int names_watcher = -1;

    static int note_change(PyDict_WatchEvent event, PyObject* dict, PyObject* key, PyObject* value) {
        (void)event, (void)dict, (void)key, (void)value;
        names_changed = 1;
        return 0;
    }

    // False if all of an interpreter's watchers are taken.
    static int watch_names(PyObject* dict) {
        if (names_watcher < 0) names_watcher = PyDict_AddWatcher(note_change);
        if (names_watcher >= 0 && PyDict_Watch(names_watcher, dict) == 0) return 1;
        PyErr_Clear();
        return 0;
    }

    // How a callable of such a type is called. One in Python needs none of what CPython looks at before and behind.
    static inline vectorcallfunc find_call(PyObject* callback) {
        PyTypeObject* type = Py_TYPE(callback);
        if (type == &PyFunction_Type) return ((PyFunctionObject*)callback)->vectorcall;
        if (type == &PyMethod_Type) return ((PyMethodObject*)callback)->vectorcall;
        return type->tp_flags & Py_TPFLAGS_HAVE_VECTORCALL ? PyObject_Vectorcall : NULL;
    }

    // What Context.run(callback, *args) does. -1 with an exception set.
    static inline int call_in_context(PyObject* context, PyObject* callback, PyObject* args) {
        enum { kFew = 6 };
        PyObject* stack[1 + kFew];
        PyObject* result;
        vectorcallfunc call = find_call(callback);
        Py_ssize_t count = PyTuple_GET_SIZE(args);
        if (PyContext_Enter(context) < 0) return -1;
        if (call != NULL && count <= kFew) {
            // A place before the arguments lets a bound method put its object there.
            for (Py_ssize_t i = 0; i < count; ++i) stack[1 + i] = PyTuple_GET_ITEM(args, i);
            result = call(callback, stack + 1, count | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
        } else {
            result = PyObject_Call(callback, args, NULL);
        }
        if (PyContext_Exit(context) < 0) Py_CLEAR(result);
        if (result == NULL) return -1;
        Py_DECREF(result);
        return 0;
    }

    static inline int is_only_ours(PyObject* object) {
    #ifdef Py_GIL_DISABLED
        (void)object;
        return 0;
    #else
        return Py_REFCNT(object) == 1;
    #endif
    }

    // Between a thread that makes something ready and a loop that is about to sleep: each writes its
    // own and reads the other's, so nothing may be moved past anything. With a GIL, which both hold, nothing is.
    #ifdef Py_GIL_DISABLED
    enum { kOrder = __ATOMIC_SEQ_CST };
    #else
    enum { kOrder = __ATOMIC_RELAXED };
    #endif
    static inline int load(const int* flag) { return __atomic_load_n(flag, kOrder); }
    static inline void store(int* flag, int value) { __atomic_store_n(flag, value, kOrder); }
    static inline void fence(void) { __atomic_thread_fence(kOrder); }

    static inline int64_t monotonic_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }
    """
    ctypedef struct PyTypeObject:
        PyObject* (*tp_alloc)(PyTypeObject* cls, Py_ssize_t count) except NULL
        Py_ssize_t tp_weaklistoffset
        object (*tp_getattro)(object, object)
    ctypedef PyObject* (*PyCFunction)(PyObject*, PyObject*) except NULL
    enum: METH_O
    enum: METH_NOARGS
    enum: METH_FASTCALL
    enum: METH_KEYWORDS
    ctypedef struct NewType "PyTypeObject":
        object (*tp_new)(PyTypeObject* cls, object args, PyObject* kwargs)
        int (*tp_init)(object self, object args, object kwargs) except -1
    PyTypeObject* Py_TYPE(PyObject*)
    void Py_INCREF(PyObject*)
    void Py_DECREF(PyObject*)
    void Py_XDECREF(PyObject*)
    PyObject* Py_None
    PyObject* Py_True
    PyObject* Py_False
    PyObject** _PyObject_GetDictPtr(PyObject*)
    object PyObject_GenericGetAttr(object, object)
    PyObject* PyContext_CopyCurrent() except NULL
    bint PyContext_CheckExact(PyObject*)
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    PyObject* PyTuple_New(Py_ssize_t) except NULL
    void PyTuple_SET_ITEM(PyObject*, Py_ssize_t, PyObject*)
    PyObject* PyTuple_GET_ITEM(PyObject*, Py_ssize_t)
    Py_ssize_t PyTuple_GET_SIZE(PyObject*)
    bint PyTuple_CheckExact(PyObject*)
    bint PyFloat_CheckExact(PyObject*)
    double PyFloat_AS_DOUBLE(PyObject*)
    bint PyLong_CheckExact(PyObject*)
    PyObject* PyFloat_FromDouble(double) except NULL
    PyObject* PyLong_FromLong(long) except NULL
    long PyLong_AsLong(PyObject*) except? -1
    double PyLong_AsDouble(PyObject*) except? -1
    PyObject* PyDict_GetItemWithError(PyObject*, PyObject*) except? NULL
    Py_ssize_t PyDict_GET_SIZE "PyDict_Size"(PyObject*)
    PyObject* PyList_GET_ITEM(PyObject*, Py_ssize_t)
    void PyList_SET_ITEM(PyObject*, Py_ssize_t, PyObject*)
    Py_ssize_t PyList_GET_SIZE(PyObject*)
    int PyList_Append(PyObject*, PyObject*) except -1
    bint PyList_CheckExact(PyObject*)
    Py_ssize_t PyObject_Size(PyObject*) except -1
    Py_ssize_t Py_SIZE(PyObject*)
    int PyObject_IsTrue(PyObject*) except -1
    enum: Py_LT
    bint PyObject_RichCompareBool(PyObject*, PyObject*, int) except -1
    int PyUnicode_CompareWithASCIIString(PyObject*, const char*)
    void PyObject_GC_Track(PyObject*)
    void PyObject_GC_UnTrack(PyObject*)

    Py_ssize_t slot_offset(object descriptor)
    PyCFunction c_method(object descriptor, int flags)
    PyObject* c_call(PyCFunction function, PyObject* self, PyObject* argument) except NULL
    object fast_method(PyTypeObject* cls, const char* name, void* function, int flags, const char* doc)
    object again_for(PyTypeObject* cls, object descriptor)
    int put_into_type(PyTypeObject* cls, object name, object value) except -1
    int names_changed
    bint watch_names(object names) noexcept
    int call_in_context(PyObject* context, PyObject* callback, PyObject* args)
    bint is_only_ours(PyObject*)
    int load(const int* flag) noexcept
    void store(int* flag, int value) noexcept
    void fence() noexcept
    int64_t monotonic_ns() noexcept


# -- what is known of the stdlib's objects, looked up and checked when this module is imported --

cdef object _Handle = events.Handle
cdef object _StdlibTimerHandle = events.TimerHandle
# What call_soon_threadsafe() returns from later releases of Python 3.14 on: its cancel() waits for a callback that is run.
cdef object _ThreadSafeHandle = getattr(events, '_ThreadSafeHandle', None)
cdef object _StdlibLoop = base_events.BaseEventLoop
cdef dict _base_names = vars(base_events)
cdef object _deque = deque
cdef object _Future = futures.Future
cdef object _Task = tasks.Task
cdef object _s_context = 'context'
cdef tuple _no_args = ()
# From 3.13 on the formatted callback knows of debug mode.
cdef bint _formats_debug = 'debug' in (
    format_helpers._format_callback_source.__code__.co_varnames)

# Offsets of a Handle's slots, in the order in which its constructor fills them.
cdef Py_ssize_t _h_context, _h_loop, _h_callback, _h_args, _h_cancelled, _h_repr, _h_traceback
cdef Py_ssize_t _h_when, _h_scheduled
# Offsets of the loop's.
cdef Py_ssize_t _l_ready, _l_scheduled, _l_debug, _l_closed, _l_stopping, _l_selector, _l_proactor
cdef Py_ssize_t _l_cancelled_count, _l_resolution, _l_task_factory
cdef PyCFunction _deque_append
cdef PyCFunction _deque_popleft
# Everything that is done by offsets is as it was found to be; if not, all is left to the stdlib.
cdef bint _is_known = False


cdef inline PyObject** at(PyObject* obj, Py_ssize_t offset) noexcept:
    return <PyObject**> (<char*> obj + offset)


cdef inline bint is_deque(PyObject* obj) noexcept:
    return obj is not NULL and Py_TYPE(obj) is <PyTypeObject*> _deque


# Put a borrowed reference into a slot.
cdef inline void put(PyObject* obj, Py_ssize_t offset, PyObject* value) noexcept:
    cdef PyObject** place = at(obj, offset)
    cdef PyObject* old = place[0]
    Py_INCREF(value)
    place[0] = value
    Py_XDECREF(old)


# -- owners and selectors: who derives from them stands above --

cdef class ReadyOwner:
    """What the loop looks at in an events.Handle: _cancelled, and _run()."""

    # What has become ready is run, and finds out itself whether anybody still wants it.
    # (An attribute of the class is looked up faster.)
    _cancelled = False
    # What the loop's exception handler looks at in debug mode.
    _source_traceback = None

    cdef int run(self) except -1:
        raise NotImplementedError

    def _run(self):
        self.run()


cdef class ReadyHandle:
    """What the loop looks at in an events.Handle: _cancelled, and _run()."""

    _cancelled = False
    _source_traceback = None

    cdef int run(self) except -1:
        raise NotImplementedError

    def _run(self):
        self.run()


cdef class Selector:

    cdef int select_ns(self, int64_t timeout_ns) except -1:
        raise NotImplementedError

    cdef bint is_idle(self) noexcept:
        return False

    cdef int wake(self) except -1:
        raise NotImplementedError


# The class of a selector that implements what it should itself: a class of C, which is never freed.
cdef PyTypeObject* _selector_type = NULL


cdef inline bint is_own_selector(PyObject* selector) noexcept:
    return Py_TYPE(selector) is _selector_type or _look_at_selector(selector)


cdef bint _look_at_selector(PyObject* selector) noexcept:
    global _selector_type
    if not isinstance(<object> selector, Selector) or not (<Selector> selector).is_own:
        return False
    _selector_type = Py_TYPE(selector)
    return True


# -- Handles --

# stdlib: TimerHandle
class TimerHandle(events.TimerHandle):
    """What call_later() and call_at() return.  differs[L2]"""

    __slots__ = ()

    # stdlib: TimerHandle.cancel
    def cancel(self):
        # What stands in front of it, below, has found something that is not as usual.
        _StdlibTimerHandle.cancel(self)


cdef object _TimerHandle = TimerHandle
cdef PyTypeObject* _handle_type = <PyTypeObject*> _Handle
cdef PyTypeObject* _timer_type = <PyTypeObject*> _TimerHandle
cdef PyTypeObject* _stdlib_timer_type = <PyTypeObject*> _StdlibTimerHandle
# The version of TimerHandle at which it, and with it all that it derives from, was seen to be unpatched.
cdef unsigned _handles_tag = 0
cdef dict _handle_attributes = {}
cdef dict _timer_attributes = {}

# Handles that have run: no collector sees them. Their slots are empty, or as a new one's that stay so nearly always.
DEF FREE_HANDLES = 512
DEF FREE_TIMERS = 1024
cdef PyObject* _free_handles[FREE_HANDLES]
cdef PyObject* _free_timers[FREE_TIMERS]
cdef int _free_handle_count = 0
cdef int _free_timer_count = 0


# Names of the stdlib's modules that are looked up at each use there, and that tests put others into.
cdef enum:
    HANDLE = 1
    TIMER_HANDLE = 2
    FUTURE = 4
    TASK = 8
    MONOTONIC = 16
cdef tuple _watched_names = (
    (vars(events), 'Handle', _Handle, HANDLE),
    (vars(events), 'TimerHandle', _StdlibTimerHandle, TIMER_HANDLE),
    (vars(futures), 'Future', _Future, FUTURE),
    (vars(tasks), 'Task', _Task, TASK),
    (vars(time), 'monotonic', time.monotonic, MONOTONIC),
    # The modules themselves, by the names that the stdlib's loop has for them.
    (_base_names, 'events', events, HANDLE | TIMER_HANDLE),
    (_base_names, 'futures', futures, FUTURE),
    (_base_names, 'tasks', tasks, TASK),
    (_base_names, 'time', time, MONOTONIC),
) + (() if _ThreadSafeHandle is None else ((vars(events), '_ThreadSafeHandle', _ThreadSafeHandle, HANDLE),))
cdef unsigned _patched = 0
cdef bint _is_watching = False


# ours: whether one of the names stands for something else than at import
cdef inline bint is_patched(unsigned mask) except -1:
    if names_changed:
        _look_at_names()
    return _patched & mask != 0


cdef int _look_at_names() except -1:
    global _patched, names_changed
    # (Without a watcher they are looked at each time.)
    names_changed = not _is_watching
    _patched = 0
    for names, name, value, mask in _watched_names:
        if names.get(name) is not value:
            _patched |= <unsigned> mask
    return 0


# ours: a method that a class has from its own module, or from a base in C; None if somebody has put another there
cdef object _method_of_its_own(cls, name):
    method = getattr(cls, name, None)
    if type(method) is types.FunctionType:
        return method if method.__globals__ is getattr(sys.modules.get(cls.__module__), '__dict__', None) else None
    if type(method) is types.MethodDescriptorType:
        return method if method.__objclass__ in cls.__mro__ else None
    return None


# ours: whether methods of a class are what they were
cdef class Methods:
    def __cinit__(self, cls, *names):
        self._cls = cls
        self._at_import = {name: _method_of_its_own(cls, name) for name in names}

    cdef bint _look(self) except -1:
        for name, function in self._at_import.items():
            if function is None or getattr(self._cls, name, None) is not function:
                return False
        # (A look-up has given the class its version.)
        self._tag = version_tag(<PyObject*> self._cls)
        return True


# ours: whether events.Handle and events.TimerHandle are what they were; differs[L1]
cdef inline bint handles_are_plain() except -1:
    return handle_class_is_plain() and not is_patched(HANDLE)


cdef inline bint handle_class_is_plain() except -1:
    return version_tag(<PyObject*> _timer_type) == _handles_tag and _handles_tag != 0 or _look_at_handles()


cdef bint _look_at_handles() except -1:
    global _handles_tag
    if not _is_known or dict(vars(_Handle)) != _handle_attributes \
            or dict(vars(_StdlibTimerHandle)) != _timer_attributes:
        return False
    # A look-up gives the class its version.
    _TimerHandle._run
    _handles_tag = version_tag(<PyObject*> _timer_type)
    return True


cdef inline bint is_timer(PyObject* handle) noexcept:
    return Py_TYPE(handle) is _timer_type or Py_TYPE(handle) is _stdlib_timer_type


# What events.Handle.__init__ always puts into a slot. (It is immortal.)
cdef inline PyObject* _begin(PyObject* handle) noexcept:
    at(handle, _h_cancelled)[0] = Py_False
    at(handle, _h_repr)[0] = Py_None
    at(handle, _h_traceback)[0] = Py_None
    return handle


# Fills the slots that events.Handle.__init__ fills with its arguments.
cdef inline int _fill(PyObject* handle, PyObject* callback, PyObject** args, Py_ssize_t nargs,
                      PyObject* loop, PyObject* context) except -1:
    cdef PyObject* arguments
    cdef Py_ssize_t i
    if context is NULL or context is Py_None:
        context = PyContext_CopyCurrent()
    else:
        Py_INCREF(context)
    at(handle, _h_context)[0] = context
    Py_INCREF(loop)
    at(handle, _h_loop)[0] = loop
    Py_INCREF(callback)
    at(handle, _h_callback)[0] = callback
    if nargs == 0:
        arguments = <PyObject*> _no_args
        Py_INCREF(arguments)
    else:
        arguments = PyTuple_New(nargs)
        for i in range(nargs):
            Py_INCREF(args[i])
            PyTuple_SET_ITEM(arguments, i, args[i])
    at(handle, _h_args)[0] = arguments
    return 0


# ours: give up a reference to a Handle; one that nobody else has is kept to be used again; differs[L1]
cdef inline int _release(PyObject* handle) except -1:
    cdef PyTypeObject* cls = Py_TYPE(handle)
    if not is_only_ours(handle):
        Py_DECREF(handle)
    elif cls is _handle_type and _free_handle_count < FREE_HANDLES and _has_only_been_run(handle, cls):
        _keep(handle, False)
    elif cls is _timer_type and _free_timer_count < FREE_TIMERS and _has_only_been_run(handle, cls):
        _keep(handle, True)
    else:
        Py_DECREF(handle)
    return 0


# Neither watched, nor shown, nor of debug mode.
cdef inline bint _has_only_been_run(PyObject* handle, PyTypeObject* cls) noexcept:
    return (at(handle, cls.tp_weaklistoffset)[0] is NULL and at(handle, _h_repr)[0] is Py_None
            and at(handle, _h_traceback)[0] is Py_None)


cdef inline PyObject* _take_out(PyObject* handle, Py_ssize_t offset) noexcept:
    cdef PyObject* value = at(handle, offset)[0]
    at(handle, offset)[0] = NULL
    return value


cdef void _keep(PyObject* handle, bint timed) noexcept:
    global _free_handle_count, _free_timer_count
    cdef PyObject* context = _take_out(handle, _h_context)
    cdef PyObject* loop = _take_out(handle, _h_loop)
    cdef PyObject* callback = _take_out(handle, _h_callback)
    cdef PyObject* args = _take_out(handle, _h_args)
    cdef PyObject* when = NULL
    # (Of a bool there is nothing to give back.)
    at(handle, _h_cancelled)[0] = Py_False
    PyObject_GC_UnTrack(handle)
    if timed:
        when = _take_out(handle, _h_when)
        at(handle, _h_scheduled)[0] = Py_False
        _free_timers[_free_timer_count] = handle
        _free_timer_count += 1
    else:
        _free_handles[_free_handle_count] = handle
        _free_handle_count += 1
    # The last: these may run anything.
    Py_XDECREF(when)
    Py_XDECREF(args)
    Py_XDECREF(callback)
    Py_XDECREF(context)
    Py_XDECREF(loop)


# ours: what Handle._run() does with an exception that its callback has raised; differs[L3]
cdef int _report(object handle) except -1:
    try:
        raise_pending()
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as exc:
        if _formats_debug:
            callback = format_helpers._format_callback_source(
                handle._callback, handle._args, debug=handle._loop.get_debug())
        else:
            callback = format_helpers._format_callback_source(handle._callback, handle._args)
        context = {
            'message': f'Exception in callback {callback}',
            'exception': exc,
            'handle': handle,
        }
        if handle._source_traceback:
            context['source_traceback'] = handle._source_traceback
        handle._loop.call_exception_handler(context)
    return 0


# ours: a callback whose exception goes to the loop's handler, told by the Handle that stands for it
cdef int report_callback(object handle, object exc) except -1:
    # Behind the name of the class.
    callback = handle._repr_info()[1]
    handle._loop.call_exception_handler({
        'message': f'Exception in callback {callback}',
        'exception': exc,
        'handle': handle,
    })
    return 0


cdef object handle_of(object loop, object callback, object argument, object context):
    handle = _Handle(callback, (argument,), loop, context)
    # It was not made here.
    handle._source_traceback = None
    return handle


cdef int run_callback(object loop, object callback, object argument, object context) except -1:
    try:
        PyContext_Enter(context)
        try:
            callback(argument)
        finally:
            PyContext_Exit(context)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as exc:
        report_callback(handle_of(loop, callback, argument, context), exc)
    return 0


# -- the heap of timers: heapq's algorithms, comparison by comparison --

# a < b, as TimerHandle.__lt__ has it.
cdef inline bint _is_less(PyObject* a, PyObject* b) except -1:
    cdef PyObject* x
    cdef PyObject* y
    if is_timer(a) and is_timer(b):
        x = at(a, _h_when)[0]
        y = at(b, _h_when)[0]
        if x is not NULL and y is not NULL and PyFloat_CheckExact(x) and PyFloat_CheckExact(y):
            return PyFloat_AS_DOUBLE(x) < PyFloat_AS_DOUBLE(y)
    return _compare(a, b)


# When a timer is due; NULL where that is no float, or the handle no timer as it nearly always is.
cdef inline PyObject* usual_when(PyObject* handle) noexcept:
    cdef PyObject* when = at(handle, _h_when)[0] if is_timer(handle) else NULL
    return when if when is not NULL and PyFloat_CheckExact(when) else NULL


cdef bint _compare(PyObject* a, PyObject* b) except -1:
    # Whatever the comparison does, they stay.
    first, second = <object> a, <object> b
    return PyObject_RichCompareBool(<PyObject*> first, <PyObject*> second, Py_LT)


cdef int _sift_down(list heap, Py_ssize_t start, Py_ssize_t place) except -1:
    cdef PyObject* items = <PyObject*> heap
    cdef Py_ssize_t size = PyList_GET_SIZE(items)
    cdef Py_ssize_t parent
    cdef PyObject* item
    cdef PyObject* above
    cdef bint less
    while place > start:
        parent = (place - 1) >> 1
        less = _is_less(PyList_GET_ITEM(items, place), PyList_GET_ITEM(items, parent))
        if PyList_GET_SIZE(items) != size:
            raise RuntimeError('list changed size during iteration')
        if not less:
            break
        item = PyList_GET_ITEM(items, place)
        above = PyList_GET_ITEM(items, parent)
        PyList_SET_ITEM(items, place, above)
        PyList_SET_ITEM(items, parent, item)
        place = parent
    return 0


cdef int _sift_up(list heap, Py_ssize_t place) except -1:
    cdef PyObject* items = <PyObject*> heap
    cdef Py_ssize_t size = PyList_GET_SIZE(items)
    cdef Py_ssize_t limit = size >> 1
    cdef Py_ssize_t start = place
    cdef Py_ssize_t child
    cdef PyObject* item
    cdef bint less
    while place < limit:
        child = 2 * place + 1
        if child + 1 < size:
            less = _is_less(PyList_GET_ITEM(items, child), PyList_GET_ITEM(items, child + 1))
            if PyList_GET_SIZE(items) != size:
                raise RuntimeError('list changed size during iteration')
            if not less:
                child += 1
        item = PyList_GET_ITEM(items, child)
        PyList_SET_ITEM(items, child, PyList_GET_ITEM(items, place))
        PyList_SET_ITEM(items, place, item)
        place = child
    return _sift_down(heap, start, place)


cdef int heappush(list heap, PyObject* item) except -1:
    PyList_Append(<PyObject*> heap, item)
    return _sift_down(heap, 0, PyList_GET_SIZE(<PyObject*> heap) - 1)


cdef object heappop(list heap):
    last = heap.pop()
    if not heap:
        return last
    first = heap[0]
    heap[0] = last
    _sift_up(heap, 0)
    return first


cdef int heapify(list heap) except -1:
    cdef Py_ssize_t place = len(heap) >> 1
    while place > 0:
        place -= 1
        _sift_up(heap, place)
    return 0


# -- the loop --

# Methods that the core's own go past. Whoever overrides one, in a subclass or on the loop itself, is asked.
cdef tuple _NAMES = (
    '_check_closed', '_call_soon', 'get_debug', 'call_at', 'time', '_timer_handle_cancelled',
    '_write_to_self', '_process_events', 'call_soon', 'create_future',
)
cdef enum:
    CHECK_CLOSED = 1
    CALL_SOON_ = 2
    GET_DEBUG = 4
    CALL_AT = 8
    TIME = 16
    TIMER_HANDLE_CANCELLED = 32
    WRITE_TO_SELF = 64
    PROCESS_EVENTS = 128
    CALL_SOON = 256
    CREATE_FUTURE = 512
    # The stdlib's own was patched, or attributes are found in a way of their own.
    ANYTHING = 1024
    # What making a Handle comes by.
    SOON = CHECK_CLOSED | CALL_SOON_ | GET_DEBUG | ANYTHING
    TIMED = CHECK_CLOSED | GET_DEBUG | ANYTHING
cdef int _NAME_COUNT = len(_NAMES)
cdef list _own_methods = []
# What is in front of the stdlib's, as it was at import: {name: function}.
cdef dict _stdlib_methods = {}


cdef double _now() noexcept:
    return <double> monotonic_ns() / 1e9


# Whether time.monotonic() is the system's clock: tests put others into its place.
cdef inline bint _has_system_clock() except -1:
    return not is_patched(MONOTONIC)


cdef object _slow(PyObject* self, object method, PyObject** args, Py_ssize_t nargs, PyObject* kwnames):
    """Call the def that a fast method stands in front of."""
    cdef list positional = [<object> self]
    cdef dict keywords = {}
    cdef Py_ssize_t i
    for i in range(nargs):
        positional.append(<object> args[i])
    if kwnames is not NULL:
        for i in range(PyTuple_GET_SIZE(kwnames)):
            keywords[<object> PyTuple_GET_ITEM(kwnames, i)] = <object> args[nargs + i]
    return method(*positional, **keywords)


# The value of the only keyword that is usual, `context`; NULL for none. False for other keywords.
cdef inline bint _find_context(PyObject** args, Py_ssize_t nargs, PyObject* kwnames, PyObject** context) noexcept:
    if kwnames is NULL:
        context[0] = NULL
        return True
    if kwnames is <PyObject*> _context_kwnames:
        context[0] = args[nargs]
        return True
    return _look_for_context(args, nargs, kwnames, context)


# The names of keywords are interned, but for the one that asyncio's futures and tasks in C pass, always in this tuple.
cdef object _context_kwnames = None


cdef bint _look_for_context(PyObject** args, Py_ssize_t nargs, PyObject* kwnames, PyObject** context) noexcept:
    global _context_kwnames
    context[0] = NULL
    if PyTuple_GET_SIZE(kwnames) == 0:
        return True
    if PyTuple_GET_SIZE(kwnames) != 1:
        return False
    if PyTuple_GET_ITEM(kwnames, 0) is not <PyObject*> _s_context:
        if PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), "context") != 0:
            return False
        _context_kwnames = <object> kwnames
    context[0] = args[nargs]
    return True


# stdlib: BaseEventLoop
cdef class BaseEventLoop:
    """The first base of the loop; it is no loop by itself.  See the head of this file."""

    def __cinit__(self, *args, **kwargs):
        if not isinstance(self, SlottedEventLoop):
            raise TypeError('the base of an event loop is no loop by itself')
        # For __del__, of a loop whose arguments were refused: nothing is open.
        put(<PyObject*> self, _l_closed, Py_True)

    # stdlib: BaseEventLoop.create_future
    def create_future(self):
        return _StdlibLoop.create_future(self)

    # stdlib: BaseEventLoop.create_task
    def create_task(self, coro, **kwargs):
        return _StdlibLoop.create_task(self, coro, **kwargs)

    # stdlib: BaseEventLoop._check_closed
    def _check_closed(self):
        if at(<PyObject*> self, _l_closed)[0] is not Py_False or self._has_foreign(ANYTHING):
            _StdlibLoop._check_closed(self)

    # stdlib: BaseEventLoop.is_closed
    def is_closed(self):
        return self._closed

    # stdlib: BaseEventLoop.is_running
    def is_running(self):
        return self._thread_id is not None

    # stdlib: BaseEventLoop.time
    def time(self):
        if _has_system_clock() and not self._has_foreign(ANYTHING):
            return _now()
        return _StdlibLoop.time(self)

    # stdlib: BaseEventLoop.call_later
    def call_later(self, delay, callback, *args, context=None):
        return _StdlibLoop.call_later(self, delay, callback, *args, context=context)

    # stdlib: BaseEventLoop.call_at
    def call_at(self, when, callback, *args, context=None):
        return _StdlibLoop.call_at(self, when, callback, *args, context=context)

    # stdlib: BaseEventLoop.call_soon
    def call_soon(self, callback, *args, context=None):
        return _StdlibLoop.call_soon(self, callback, *args, context=context)

    # stdlib: BaseEventLoop._call_soon
    def _call_soon(self, callback, args, context):
        return _StdlibLoop._call_soon(self, callback, args, context)

    # stdlib: BaseEventLoop.call_soon_threadsafe
    def call_soon_threadsafe(self, callback, *args, context=None):
        return _StdlibLoop.call_soon_threadsafe(self, callback, *args, context=context)

    # stdlib: BaseEventLoop._add_callback
    def _add_callback(self, handle):
        if self._has_foreign(ANYTHING):
            _StdlibLoop._add_callback(self, handle)
        elif not handle._cancelled:
            self.add_ready(handle)

    # stdlib: BaseEventLoop._timer_handle_cancelled
    def _timer_handle_cancelled(self, handle):
        _StdlibLoop._timer_handle_cancelled(self, handle)

    # stdlib: BaseEventLoop._run_once
    def _run_once(self):
        try:
            self._take_turn()
        finally:
            # differs[L4]
            store(&self._awake, 0)

    # stdlib: BaseEventLoop.get_debug
    def get_debug(self):
        if self._has_foreign(ANYTHING):
            return _StdlibLoop.get_debug(self)
        return self._debug

    # -- ours: no counterpart in the stdlib's class --

    def _write_to_self(self):
        """End the loop's sleep; any thread, and a signal handler in Python, may come here at any time."""
        self._wake()

    cdef int _wake(self) except -1:
        proactor = self._proactor
        if proactor is not None:
            if isinstance(proactor, Selector):
                (<Selector> proactor).wake()
            else:
                proactor._wake()
        return 0

    cdef int _look_at_class(self) except -1:
        """Find out which methods the core can't go past: a subclass's, and those that somebody has patched."""
        cdef unsigned foreign = 0
        cdef int i
        cls = type(self)
        for i in range(_NAME_COUNT):
            method = getattr(cls, _NAMES[i], None)
            if method is not _own_methods[i] and method is not _methods_of_loops.get(_NAMES[i], _own_methods):
                foreign |= 1 << i
        for name, function in _stdlib_methods.items():
            if vars(_StdlibLoop).get(name) is not function:
                foreign |= ANYTHING
        if (<PyTypeObject*> cls).tp_getattro is not &PyObject_GenericGetAttr:
            foreign |= ANYTHING
        self._foreign = foreign
        self._tag = version_tag(<PyObject*> cls)
        return 0

    @cython.final
    cdef inline bint _has_foreign(self, unsigned mask) except -1:
        """Tell whether one of the methods is another's."""
        cdef PyObject** names
        if self._tag == 0 or version_tag(<PyObject*> Py_TYPE(<PyObject*> self)) != self._tag:
            self._look_at_class()
        if self._foreign & mask:
            return True
        names = _PyObject_GetDictPtr(<PyObject*> self)
        return names is not NULL and names[0] is not NULL and self._has_own(names[0], mask)

    cdef bint _has_own(self, PyObject* names, unsigned mask) except -1:
        """Tell whether one of the methods is an attribute of the loop itself."""
        cdef int i
        if PyDict_GET_SIZE(names) == 0:
            return False
        for i in range(_NAME_COUNT):
            if mask & (1 << i) and PyDict_GetItemWithError(
                    names, PyTuple_GET_ITEM(<PyObject*> _NAMES, i)) is not NULL:
                return True
        return False

    cdef inline bint _is_plain(self, unsigned mask) except -1:
        """Tell whether a Handle can be made, and put into its place, straight away."""
        return (_is_known
                and at(<PyObject*> self, _l_closed)[0] is Py_False
                and at(<PyObject*> self, _l_debug)[0] is Py_False
                and handles_are_plain()
                and not self._has_foreign(mask))

    cdef bint has_plain_callbacks(self) except -1:
        """Tell whether nobody would see if a callback came into _ready without call_soon() and a Handle."""
        return handles_are_plain() and not self._has_foreign(SOON | CALL_SOON)

    cdef bint has_plain_handles(self) except -1:
        """Tell whether nobody would see if what a Handle does were done without one."""
        return handles_are_plain()

    cdef bint has_plain_waits(self) except -1:
        """Tell whether nobody would see if what a task waits for were no future of create_future()'s."""
        return (self._is_plain(SOON | CALL_SOON | CREATE_FUTURE)
                and not is_patched(FUTURE))

    cdef bint is_usual(self) except -1:
        """Tell whether the loop is open and in no debug mode, and nobody else has a say in that."""
        return (at(<PyObject*> self, _l_closed)[0] is Py_False
                and at(<PyObject*> self, _l_debug)[0] is Py_False
                and not self._has_foreign(CHECK_CLOSED | GET_DEBUG | ANYTHING))

    cdef Ring find_ring(self):
        """Return what the loop's operations are started on."""
        cdef PyObject* proactor = at(<PyObject*> self, _l_proactor)[0]
        if proactor is not NULL and isinstance(<object> proactor, Selector) \
                and (<Selector> <object> proactor).ring is not None:
            return (<Selector> <object> proactor).ring
        selector = self._proactor
        ring = None if selector is None else selector._ring
        if ring is None:
            # Its methods would be called, and not refused.
            raise RuntimeError('Event loop is closed' if selector is None else 'the proactor has no ring')
        return ring

    cdef bint may_sleep(self) noexcept:
        """Say that the loop is about to sleep; False if it has to look at what is ready once more.

        differs[L4]: this is so where a callback drives the loop by other means than this file's.
        """
        if not load(&self._awake):
            return True
        store(&self._awake, 0)
        return False

    cdef int note_run(self, bint begins) noexcept:
        """A run begins or ends."""
        if self._began_ns:
            self._ran_ns += monotonic_ns() - self._began_ns
        self._began_ns = monotonic_ns() if begins else 0
        return 0

    cdef double time_run(self) noexcept:
        """Return how many seconds all runs have taken, up to now."""
        return <double> (self._ran_ns + (monotonic_ns() - self._began_ns if self._began_ns else 0)) / 1e9

    cdef int add_ready(self, object handle) except -1:
        cdef PyObject* ready = at(<PyObject*> self, _l_ready)[0]
        if _is_known and is_deque(ready):
            Py_DECREF(c_call(_deque_append, ready, <PyObject*> handle))
        else:
            self._ready.append(handle)
        return 0

    cdef inline object _make_handle(self, PyObject* callback, PyObject** args, Py_ssize_t nargs,
                                    PyObject* context):
        # differs[L1]
        global _free_handle_count
        cdef PyObject* handle
        if _free_handle_count:
            _free_handle_count -= 1
            handle = _free_handles[_free_handle_count]
            PyObject_GC_Track(handle)
        else:
            handle = _begin(_handle_type.tp_alloc(_handle_type, 0))
        made = steal(handle)
        _fill(handle, callback, args, nargs, <PyObject*> self, context)
        return made

    cdef inline object _make_timer(self, PyObject* when, PyObject* callback, PyObject** args, Py_ssize_t nargs,
                                   PyObject* context):
        # differs[L1], differs[L2]
        global _free_timer_count
        cdef PyObject* handle
        if _free_timer_count:
            _free_timer_count -= 1
            handle = _free_timers[_free_timer_count]
            PyObject_GC_Track(handle)
        else:
            handle = _begin(_timer_type.tp_alloc(_timer_type, 0))
            at(handle, _h_scheduled)[0] = Py_False
        made = steal(handle)
        _fill(handle, callback, args, nargs, <PyObject*> self, context)
        Py_INCREF(when)
        at(handle, _h_when)[0] = when
        heappush(<list> at(<PyObject*> self, _l_scheduled)[0], handle)
        put(handle, _h_scheduled, Py_True)
        return made

    # -- a turn --

    @cython.final
    cdef bint _has_plain_turn(self) except -1:
        cdef PyObject* self_ = <PyObject*> self
        cdef PyObject* selector = at(self_, _l_selector)[0]
        cdef PyObject* ready = at(self_, _l_ready)[0]
        cdef PyObject* scheduled = at(self_, _l_scheduled)[0]
        cdef PyObject* resolution = at(self_, _l_resolution)[0]
        cdef PyObject* count
        cdef PyObject** names
        if not _is_known or self._has_foreign(GET_DEBUG | TIME | PROCESS_EVENTS | ANYTHING):
            return False
        if selector is NULL or not is_own_selector(selector):
            return False
        names = _PyObject_GetDictPtr(selector)
        if names is not NULL and names[0] is not NULL and PyDict_GET_SIZE(names[0]) != 0:
            return False
        if not is_deque(ready) \
                or scheduled is NULL or not PyList_CheckExact(scheduled) \
                or resolution is NULL or not PyFloat_CheckExact(resolution):
            return False
        if PyList_GET_SIZE(scheduled) == 0:
            return True
        count = at(self_, _l_cancelled_count)[0]
        return count is not NULL and PyLong_CheckExact(count) and _has_system_clock()

    @cython.final
    cdef int _take_turn(self) except -1:
        cdef PyObject* self_ = <PyObject*> self
        cdef Selector selector
        cdef int64_t timeout_ns
        self._turns += 1
        if not self._has_plain_turn():
            _StdlibLoop._run_once(self)
            return 0
        # What is dropped may have run anything.
        if self._has_timers() and self._drop_cancelled() and not self._has_plain_turn():
            _StdlibLoop._run_once(self)
            return 0
        selector = <Selector> at(self_, _l_selector)[0]
        if Py_SIZE(at(self_, _l_ready)[0]) or at(self_, _l_stopping)[0] is not Py_False and self._stopping:
            timeout_ns = 0
        else:
            timeout_ns = self._time_left()
        # differs[L5]
        if timeout_ns != 0 or not selector.is_idle():
            selector.select_ns(timeout_ns)
        # differs[L4]
        self._turning = this_thread()
        store(&self._awake, 1)
        if self._has_timers():
            self._take_due()
        return self._run_ready()

    @cython.final
    cdef inline bint _has_timers(self) except -1:
        cdef PyObject* scheduled = at(<PyObject*> self, _l_scheduled)[0]
        if scheduled is not NULL and PyList_CheckExact(scheduled):
            return PyList_GET_SIZE(scheduled) != 0
        return bool(self._scheduled)

    @cython.final
    cdef bint _drop_cancelled(self) except -1:
        """Take cancelled timers out of the heap: those at its head, or all if they are many.

        True if there were any. (That there are timers, and that their count is an int, has been seen.)
        """
        cdef PyObject* self_ = <PyObject*> self
        cdef list scheduled = <list> at(self_, _l_scheduled)[0]
        cdef list kept
        cdef PyObject* items = <PyObject*> scheduled
        cdef PyObject* handle
        cdef Py_ssize_t size = PyList_GET_SIZE(items)
        cdef Py_ssize_t i
        cdef long count = PyLong_AsLong(at(self_, _l_cancelled_count)[0])
        cdef bint dropped = False
        if count and size > <Py_ssize_t> _base_names['_MIN_SCHEDULED_TIMER_HANDLES'] \
                and <double> count / <double> size > <double> _base_names['_MIN_CANCELLED_TIMER_HANDLES_FRACTION']:
            kept = []
            for item in scheduled:
                if item._cancelled:
                    item._scheduled = False
                else:
                    kept.append(item)
            item = None
            heapify(kept)
            self._scheduled = kept
            self._timer_cancelled_count = 0
            # What is dropped may run anything.
            for i in range(size):
                if PyList_GET_SIZE(items) != size:
                    break
                handle = PyList_GET_ITEM(items, i)
                if Py_TYPE(handle) is _timer_type and at(handle, _h_scheduled)[0] is Py_False:
                    Py_INCREF(Py_None)
                    PyList_SET_ITEM(items, i, Py_None)
                    _release(handle)
            return True
        while self._has_timers():
            scheduled = self._scheduled
            handle = PyList_GET_ITEM(<PyObject*> scheduled, 0)
            if is_timer(handle) and at(handle, _h_cancelled)[0] is Py_False:
                break
            if not (<object> handle)._cancelled:
                break
            dropped = True
            self._timer_cancelled_count -= 1
            item = heappop(scheduled)
            item._scheduled = False
            handle = <PyObject*> item
            Py_INCREF(handle)
            item = None
            _release(handle)
        return dropped

    @cython.final
    cdef int64_t _time_left(self) except? -2:
        """Return for how many nanoseconds the loop may sleep; -1: no limit."""
        cdef PyObject* handle
        cdef PyObject* when
        cdef double left
        cdef double limit
        if not self._has_timers():
            return -1
        handle = PyList_GET_ITEM(at(<PyObject*> self, _l_scheduled)[0], 0)
        when = usual_when(handle)
        left = PyFloat_AS_DOUBLE(when) if when is not NULL else <double> (<object> handle)._when
        left -= _now()
        limit = _base_names['MAXIMUM_SELECT_TIMEOUT']
        if left > limit:
            left = limit
        if not left > 0:
            return 0
        # Rounded away from zero, to wait at least that long.
        left *= 1e9
        return <int64_t> left + (<double> <int64_t> left != left)

    @cython.final
    cdef int _take_due(self) except -1:
        cdef double end_time = _now() + <double> self._clock_resolution
        cdef PyObject* handle
        cdef PyObject* when
        cdef list scheduled
        while self._has_timers():
            scheduled = self._scheduled
            handle = PyList_GET_ITEM(<PyObject*> scheduled, 0)
            when = usual_when(handle)
            if when is not NULL:
                if PyFloat_AS_DOUBLE(when) >= end_time:
                    return 0
            elif (<object> handle)._when >= end_time:
                return 0
            item = heappop(scheduled)
            if is_timer(<PyObject*> item):
                put(<PyObject*> item, _h_scheduled, Py_False)
            else:
                item._scheduled = False
            self.add_ready(item)
        return 0

    @cython.final
    cdef int _run_ready(self) except -1:
        cdef PyObject* self_ = <PyObject*> self
        cdef PyObject* ready = at(self_, _l_ready)[0]
        cdef Py_ssize_t count = Py_SIZE(ready) if is_deque(ready) else PyObject_Size(ready)
        cdef PyObject* handle
        cdef PyObject* context
        cdef PyObject* callback
        cdef PyObject* args
        cdef PyObject* cancelled
        cdef PyTypeObject* cls
        cdef int error
        while count > 0:
            count -= 1
            self._callbacks_run += 1
            # A callback may put another in its place.
            ready = at(self_, _l_ready)[0]
            if not is_deque(ready):
                item = self._ready.popleft()
                handle = <PyObject*> item
                Py_INCREF(handle)
                item = None
            else:
                handle = c_call(_deque_popleft, ready, NULL)
            cls = Py_TYPE(handle)
            if (cls is _handle_type or cls is _timer_type) and at(self_, _l_debug)[0] is Py_False \
                    and handle_class_is_plain():
                cancelled = at(handle, _h_cancelled)[0]
                context = at(handle, _h_context)[0]
                callback = at(handle, _h_callback)[0]
                args = at(handle, _h_args)[0]
                if cancelled is Py_True:
                    self._callbacks_run -= 1
                    _release(handle)
                    continue
                if cancelled is Py_False and context is not NULL and callback is not NULL and args is not NULL \
                        and PyContext_CheckExact(context) and PyTuple_CheckExact(args):
                    # The callback may cancel its own Handle.
                    Py_INCREF(context)
                    Py_INCREF(callback)
                    Py_INCREF(args)
                    error = call_in_context(context, callback, args)
                    Py_DECREF(args)
                    Py_DECREF(callback)
                    Py_DECREF(context)
                    if error == 0:
                        _release(handle)
                    else:
                        _report(steal(handle))
                    continue
            item = steal(handle)
            if at(self_, _l_debug)[0] is not Py_False and self._debug:
                if not item._cancelled:
                    self._run_in_debug(item)
            elif isinstance(item, ReadyOwner):
                (<ReadyOwner> item).run()
            elif isinstance(item, ReadyHandle):
                (<ReadyHandle> item).run()
            elif not item._cancelled:
                item._run()
            item = None
        return 0

    cdef int _run_in_debug(self, object handle) except -1:
        try:
            self._current_handle = handle
            t0 = self.time()
            handle._run()
            dt = self.time() - t0
            if dt >= self.slow_callback_duration:
                base_events.logger.warning('Executing %s took %.3f seconds',
                                           base_events._format_handle(handle), dt)
        finally:
            self._current_handle = None
        return 0


class SlottedEventLoop(BaseEventLoop):
    """The stdlib's attributes of a loop, as slots."""

    __slots__ = (
        # BaseEventLoop
        '_timer_cancelled_count', '_closed', '_stopping', '_ready', '_scheduled', '_default_executor',
        '_internal_fds', '_thread_id', '_clock_resolution', '_exception_handler', '_debug', '_old_agen_hooks',
        'slow_callback_duration', '_current_handle', '_task_factory', '_coroutine_origin_tracking_enabled',
        '_coroutine_origin_tracking_saved_depth', '_asyncgens', '_asyncgens_shutdown_called',
        '_executor_shutdown_called',
        # BaseProactorEventLoop
        '_proactor', '_selector', '_self_reading_future', '_accept_futures', '_csock', '_ssock',
        # _UnixSelectorEventLoop
        '_signal_handlers', '_unix_server_sockets', '_watcher',
        # ours
        '_keys', '_transports', '_signal_file', '_tier',
    )


# -- the fast methods, in front of those of the classes above --

cdef object _call_soon(PyObject* self_, PyObject** args, Py_ssize_t nargs, PyObject* kwnames):
    cdef BaseEventLoop self = <BaseEventLoop> self_
    cdef PyObject* context
    if nargs < 1 or not _find_context(args, nargs, kwnames, &context) or not self._is_plain(SOON):
        return _slow(self_, _slow_call_soon, args, nargs, kwnames)
    handle = self._make_handle(args[0], args + 1, nargs - 1, context)
    self.add_ready(handle)
    return handle


cdef object _call_soon_threadsafe(PyObject* self_, PyObject** args, Py_ssize_t nargs, PyObject* kwnames):
    cdef BaseEventLoop self = <BaseEventLoop> self_
    cdef PyObject* context
    cdef Py_ssize_t i
    if nargs < 1 or not _find_context(args, nargs, kwnames, &context) \
            or not self._is_plain(SOON | WRITE_TO_SELF):
        return _slow(self_, _slow_call_soon_threadsafe, args, nargs, kwnames)
    if _ThreadSafeHandle is None:
        handle = self._make_handle(args[0], args + 1, nargs - 1, context)
    else:
        handle = _ThreadSafeHandle(
            <object> args[0], tuple([<object> args[i] for i in range(1, nargs)]), self,
            None if context is NULL else <object> context)
    self.add_ready(handle)
    # differs[L4]
    fence()
    if not load(&self._awake):
        self._wake()
    elif this_thread() != self._turning:
        # Who calls this all the time would otherwise leave the loop behind for good: the GIL that is given
        # up is taken again before the other thread has woken up.
        with nogil:
            sched_yield()
    return handle


# The keywords of every future. What is read of them is read before anything of the program's is run, and nobody
# keeps them; a dict for each would be a good part of a future's cost.
cdef dict _future_keywords = {'loop': None}


cdef object _create_future(PyObject* self, PyObject* unused):
    if is_patched(FUTURE) or (<BaseEventLoop> self)._has_foreign(ANYTHING):
        return _StdlibLoop.create_future(<object> self)
    if not kHasGil:
        return _instance_of(_Future, (), {'loop': <object> self})
    _future_keywords['loop'] = <object> self
    try:
        return _instance_of(_Future, (), _future_keywords)
    finally:
        _future_keywords['loop'] = None


cdef object _create_task(PyObject* self_, PyObject** args, Py_ssize_t nargs, PyObject* kwnames):
    cdef PyObject* name
    cdef Py_ssize_t i
    # (What has a traceback, in debug mode, has its last line taken off.)
    if nargs != 1 or at(self_, _l_closed)[0] is not Py_False or at(self_, _l_debug)[0] is not Py_False \
            or at(self_, _l_task_factory)[0] is not Py_None \
            or is_patched(TASK) \
            or (<BaseEventLoop> self_)._has_foreign(CHECK_CLOSED | GET_DEBUG | ANYTHING):
        return _slow(self_, _StdlibLoop.create_task, args, nargs, kwnames)
    keywords = {'loop': <object> self_}
    if kwnames is not NULL:
        for i in range(PyTuple_GET_SIZE(kwnames)):
            name = PyTuple_GET_ITEM(kwnames, i)
            if PyUnicode_CompareWithASCIIString(name, "name") != 0 \
                    and PyUnicode_CompareWithASCIIString(name, "context") != 0:
                return _slow(self_, _StdlibLoop.create_task, args, nargs, kwnames)
            keywords[<object> name] = <object> args[nargs + i]
    return _instance_of(_Task, (<object> args[0],), keywords)


# A call of a class in C, straight: what type() does.
cdef inline object _instance_of(object cls, tuple args, dict keywords):
    made = (<NewType*> cls).tp_new(<PyTypeObject*> cls, args, <PyObject*> keywords)
    (<NewType*> cls).tp_init(made, args, keywords)
    return made


cdef object _call_at(PyObject* self_, PyObject** args, Py_ssize_t nargs, PyObject* kwnames):
    cdef BaseEventLoop self = <BaseEventLoop> self_
    cdef PyObject* context
    if nargs < 2 or not _find_context(args, nargs, kwnames, &context) \
            or not (PyFloat_CheckExact(args[0]) or PyLong_CheckExact(args[0])) \
            or not self._is_plain(TIMED) or not _has_plain_timers(self_):
        return _slow(self_, _slow_call_at, args, nargs, kwnames)
    return self._make_timer(args[0], args[1], args + 2, nargs - 2, context)


cdef object _call_later(PyObject* self_, PyObject** args, Py_ssize_t nargs, PyObject* kwnames):
    cdef BaseEventLoop self = <BaseEventLoop> self_
    cdef PyObject* context
    cdef double delay
    if nargs < 2 or not _find_context(args, nargs, kwnames, &context) \
            or not self._is_plain(TIMED | CALL_AT | TIME) \
            or not _has_plain_timers(self_) or not _has_system_clock():
        return _slow(self_, _slow_call_later, args, nargs, kwnames)
    if PyFloat_CheckExact(args[0]):
        delay = PyFloat_AS_DOUBLE(args[0])
    elif PyLong_CheckExact(args[0]):
        delay = PyLong_AsDouble(args[0])
    else:
        return _slow(self_, _slow_call_later, args, nargs, kwnames)
    when = steal(PyFloat_FromDouble(_now() + delay))
    return self._make_timer(<PyObject*> when, args[1], args + 2, nargs - 2, context)


cdef inline bint _has_plain_timers(PyObject* self) except -1:
    cdef PyObject* scheduled = at(self, _l_scheduled)[0]
    return scheduled is not NULL and PyList_CheckExact(scheduled) and not is_patched(TIMER_HANDLE)


cdef object _cancel(PyObject* self, PyObject* unused):
    cdef PyObject* loop
    cdef PyObject* count
    cdef PyObject* more
    if at(self, _h_cancelled)[0] is Py_True and handles_are_plain():
        return None
    loop = at(self, _h_loop)[0]
    if at(self, _h_cancelled)[0] is not Py_False or loop is NULL \
            or not isinstance(<object> loop, BaseEventLoop) \
            or at(loop, _l_debug)[0] is not Py_False or not handles_are_plain() \
            or (<BaseEventLoop> loop)._has_foreign(GET_DEBUG | TIMER_HANDLE_CANCELLED | ANYTHING):
        return _slow_cancel(<object> self)
    if at(self, _h_scheduled)[0] is Py_True:
        count = at(loop, _l_cancelled_count)[0]
        if count is NULL or not PyLong_CheckExact(count):
            return _slow_cancel(<object> self)
        more = PyLong_FromLong(PyLong_AsLong(count) + 1)
        put(loop, _l_cancelled_count, more)
        Py_DECREF(more)
    put(self, _h_cancelled, Py_True)
    put(self, _h_callback, Py_None)
    put(self, _h_args, Py_None)
    return None


cdef object _slow_call_soon, _slow_call_soon_threadsafe, _slow_call_at, _slow_call_later, _slow_cancel


cdef object _put_in_front(object cls, const char* name, void* function, int flags, const char* doc):
    """Have calls of a method go to a C function; return the def that it takes the place of."""
    method = vars(cls)[name.decode()]
    fast = fast_method(<PyTypeObject*> cls, name, function, flags, doc)
    put_into_type(<PyTypeObject*> cls, name.decode(), fast)
    if cls is BaseEventLoop:
        _fast_methods.append(fast)
    return method


# What stands in front of BaseEventLoop's methods.
cdef list _fast_methods = []
# The same in front of the methods of the class of loops: {name: method}.
cdef dict _methods_of_loops = {}


cdef int speed_up(object cls) except -1:
    """Give a class of loops, which all of them nearly always are of, the fast methods for its own.

    CPython calls a method in C straight where the object is of the very class that it was made for.
    """
    for method in _fast_methods:
        _methods_of_loops[method.__name__] = again_for(<PyTypeObject*> cls, method)
    for name, method in _methods_of_loops.items():
        setattr(cls, name, method)
    return 0


_slow_call_soon = _put_in_front(
    BaseEventLoop, "call_soon", <void*> _call_soon, METH_FASTCALL | METH_KEYWORDS,
    "call_soon($self, callback, *args, context=None)\n--\n\n"
    "Have callback(*args) called in the next turn; return its Handle.\n\nSource: asyncio.loop.call_soon.")
_slow_call_soon_threadsafe = _put_in_front(
    BaseEventLoop, "call_soon_threadsafe", <void*> _call_soon_threadsafe, METH_FASTCALL | METH_KEYWORDS,
    "call_soon_threadsafe($self, callback, *args, context=None)\n--\n\n"
    "As call_soon(), from any thread.\n\nSource: asyncio.loop.call_soon_threadsafe.")
_put_in_front(
    BaseEventLoop, "create_future", <void*> _create_future, METH_NOARGS,
    "create_future($self)\n--\n\nReturn a future of this loop.\n\nSource: asyncio.loop.create_future.")
# Its keywords are those of this stdlib: from 3.14 on whatever a task or its factory takes.
cdef bytes _create_task_doc = (
    f"create_task{str(inspect.signature(_StdlibLoop.create_task)).replace('(self', '($self', 1)}\n--\n\n"
    "Return a task that runs a coroutine on this loop.\n\nSource: asyncio.loop.create_task.").encode()
_put_in_front(
    BaseEventLoop, "create_task", <void*> _create_task, METH_FASTCALL | METH_KEYWORDS, _create_task_doc)
_slow_call_at = _put_in_front(
    BaseEventLoop, "call_at", <void*> _call_at, METH_FASTCALL | METH_KEYWORDS,
    "call_at($self, when, callback, *args, context=None)\n--\n\n"
    "Have callback(*args) called when time() is `when`; return its TimerHandle.\n\nSource: asyncio.loop.call_at.")
_slow_call_later = _put_in_front(
    BaseEventLoop, "call_later", <void*> _call_later, METH_FASTCALL | METH_KEYWORDS,
    "call_later($self, delay, callback, *args, context=None)\n--\n\n"
    "Have callback(*args) called in `delay` seconds; return its TimerHandle.\n\nSource: asyncio.loop.call_later.")
_slow_cancel = _put_in_front(
    TimerHandle, "cancel", <void*> _cancel, METH_NOARGS,
    "cancel($self)\n--\n\nKeep the callback from being called.\n\nSource: asyncio.TimerHandle.cancel.")


cdef Py_ssize_t _offset(object cls, name) except? -1:
    cdef Py_ssize_t offset = slot_offset(vars(cls).get(name))
    if offset <= 0:
        raise AttributeError(name)
    return offset


cdef bint _know() except -1:
    """Look all offsets up, and tell whether the constructors fill what is filled here."""
    global _h_context, _h_loop, _h_callback, _h_args, _h_cancelled, _h_repr, _h_traceback, _h_when, _h_scheduled
    global _l_ready, _l_scheduled, _l_debug, _l_closed, _l_stopping, _l_selector, _l_proactor
    global _l_cancelled_count, _l_resolution, _l_task_factory
    global _deque_append, _deque_popleft
    # Those of the loop are there in any case.
    _l_ready = _offset(SlottedEventLoop, '_ready')
    _l_scheduled = _offset(SlottedEventLoop, '_scheduled')
    _l_debug = _offset(SlottedEventLoop, '_debug')
    _l_closed = _offset(SlottedEventLoop, '_closed')
    _l_stopping = _offset(SlottedEventLoop, '_stopping')
    _l_selector = _offset(SlottedEventLoop, '_selector')
    _l_proactor = _offset(SlottedEventLoop, '_proactor')
    _l_cancelled_count = _offset(SlottedEventLoop, '_timer_cancelled_count')
    _l_resolution = _offset(SlottedEventLoop, '_clock_resolution')
    _l_task_factory = _offset(SlottedEventLoop, '_task_factory')
    try:
        _h_context = _offset(_Handle, '_context')
        _h_loop = _offset(_Handle, '_loop')
        _h_callback = _offset(_Handle, '_callback')
        _h_args = _offset(_Handle, '_args')
        _h_cancelled = _offset(_Handle, '_cancelled')
        _h_repr = _offset(_Handle, '_repr')
        _h_traceback = _offset(_Handle, '_source_traceback')
        _h_when = _offset(_StdlibTimerHandle, '_when')
        _h_scheduled = _offset(_StdlibTimerHandle, '_scheduled')
    except AttributeError:
        return False
    _deque_append = c_method(vars(deque).get('append'), METH_O)
    _deque_popleft = c_method(vars(deque).get('popleft'), METH_NOARGS)
    return (_deque_append is not NULL and _deque_popleft is not NULL
            and _handle_type.tp_weaklistoffset != 0 and _timer_type.tp_weaklistoffset != 0
            and set(_Handle.__slots__) - {'__weakref__'} == set(_HANDLE_SLOTS)
            and set(_StdlibTimerHandle.__slots__) == set(_TIMER_SLOTS)
            and _constructors_do_as_here())


cdef tuple _HANDLE_SLOTS = ('_context', '_loop', '_callback', '_args', '_cancelled', '_repr', '_source_traceback')
cdef tuple _TIMER_SLOTS = ('_when', '_scheduled')


class _LoopOfNoDebug:

    def get_debug(self):
        return False


cdef bint _constructors_do_as_here() except -1:
    loop = _LoopOfNoDebug()
    callback, args, context, when = print, (1,), loop, object()
    expected = [context, loop, callback, args, False, None, None]
    for handle in (_Handle(callback, args, loop, context), _TimerHandle(when, callback, args, loop, context)):
        for name, value in zip(_HANDLE_SLOTS, expected):
            if getattr(handle, name, expected) is not value:
                return False
    return handle._when is when and handle._scheduled is False


cdef int _start() except -1:
    global _is_known, _is_watching
    cdef int i
    _is_known = _know()
    _is_watching = all([watch_names(watched[0]) for watched in _watched_names])
    _handle_attributes.update(vars(_Handle))
    _timer_attributes.update(vars(_StdlibTimerHandle))
    for name in _NAMES:
        _own_methods.append(
            proactor_events.BaseProactorEventLoop._process_events if name == '_process_events'
            else getattr(SlottedEventLoop, name))
    for name in ('create_future', 'create_task', '_check_closed', 'time', 'call_later', 'call_at', 'call_soon', '_call_soon', 'call_soon_threadsafe',
                 '_add_callback', '_timer_handle_cancelled', '_run_once', 'get_debug'):
        _stdlib_methods[name] = vars(_StdlibLoop)[name]
    return 0


_start()
