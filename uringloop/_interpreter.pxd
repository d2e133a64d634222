# What several modules want of CPython's C API beyond what Cython declares. Each has its own copy: there is no module.
from cpython.object cimport PyObject
from libc.stdint cimport uintptr_t

cdef extern from *:
    """
    // Another one whenever something is set in the class or in one of its bases; 0: nobody has asked yet.
    static inline unsigned version_tag(PyObject* type) { return ((PyTypeObject*)type)->tp_version_tag; }

    // A new reference becomes an object of Cython's.
    static inline PyObject* steal(PyObject* object) { return object; }

    // Of an object of a class in C with a dict, in __cinit__: it is made when something is put into it, so that most have
    // none. CPython finds methods faster there, too. And in __dealloc__, where Cython would empty it, whoever else has it,
    // and go down a chain of such objects until the stack ends.
    static inline void drop_dict(PyObject* object) {
        Py_CLEAR(*(PyObject**)((char*)object + Py_TYPE(object)->tp_dictoffset));
    }

    // For an exception that is set: to be called in a try.
    static inline int raise_pending(void) { return -1; }

    // A number that no other living thread has: that of pthread_self(3), without a call where the compiler knows how.
    #ifdef __has_builtin
    #if __has_builtin(__builtin_thread_pointer)
    #define THREAD_POINTER __builtin_thread_pointer()
    #endif
    #endif
    static inline uintptr_t this_thread(void) {
    #ifdef THREAD_POINTER
        return (uintptr_t)THREAD_POINTER;
    #else
        return PyThread_get_thread_ident();
    #endif
    }

    #ifdef Py_GIL_DISABLED
    enum { kHasGil = 0 };
    #else
    enum { kHasGil = 1 };
    #endif
    """
    unsigned version_tag(PyObject* cls)
    object steal(PyObject* reference)
    void drop_dict(object obj) noexcept
    int raise_pending() except -1
    uintptr_t this_thread() noexcept nogil
    enum: kHasGil

cdef extern from "Python.h":
    object PyContext_CopyCurrent()
    # Bytes without a reference that Cython counts: who is resized must have one owner.
    PyObject* PyBytes_FromStringAndSize_raw "PyBytes_FromStringAndSize"(const char* data, Py_ssize_t size)
    char* PyBytes_AS_STRING_raw "PyBytes_AS_STRING"(PyObject* data)
    int _PyBytes_Resize(PyObject** data, Py_ssize_t size) except -1
    void Py_XDECREF_raw "Py_XDECREF"(PyObject* data)
    void PyErr_WriteUnraisable(object obj) noexcept

# What a __del__ does; below zero with an exception set.
ctypedef int (*Finalizer)(object) noexcept


cdef inline int run_finalizer(Finalizer finalizer, object obj) noexcept:
    """Tell of an exception as Python does.

    Cython would print it a second time, and at the interpreter's end, with nothing left to print to, say just that.
    """
    if finalizer(obj) < 0:
        PyErr_WriteUnraisable(obj)
    return 0
