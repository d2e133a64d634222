// The simulated kernel as a Python module, for tests that drive a whole event loop on it.
//
// `Kernel(seed)` is a SimulatedKernel over the process's real files; its `capsule` is what
// uringloop._overlapped.Ring takes.  The capsule keeps the kernel alive.  tests/simulation.py is
// what tests use.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <memory>
#include <mutex>
#include <new>

#include "simulated_kernel.hpp"

namespace {

using uring::test::Backing;
using uring::test::Call;
using uring::test::Chances;
using uring::test::FaultName;
using uring::test::kFaults;
using uring::test::SimulatedKernel;

constexpr char kCapsuleName[] = "uring::Kernel";

struct CallName {
  const char* name;
  Call call;
};
constexpr CallName kCalls[] = {
    {"setup", Call::kSetup},       {"enter", Call::kEnter},     {"register", Call::kRegister},
    {"mmap", Call::kMmap},         {"munmap", Call::kMunmap},   {"madvise", Call::kMadvise},
    {"eventfd", Call::kEventfd},   {"close", Call::kClose},     {"read", Call::kRead},
    {"write", Call::kWrite},       {"recvfrom", Call::kReceive}, {"send", Call::kSend},
    {"sendfile", Call::kSendfile}, {"epoll_create", Call::kEpollCreate},
    {"epoll_ctl", Call::kEpollControl}, {"epoll_wait", Call::kEpollWait}, {"poll", Call::kPoll},
};

// What a capsule keeps alive.
struct Shared {
  explicit Shared(unsigned long long seed)
      : kernel(seed, Backing::kReal), table(kernel.table()) {}
  SimulatedKernel kernel;
  uring::Kernel table;
};
using Owner = std::shared_ptr<Shared>;

struct KernelObject {
  PyObject_HEAD
  Owner owner;
};

SimulatedKernel& kernel_of(PyObject* self) {
  return reinterpret_cast<KernelObject*>(self)->owner->kernel;
}

// Nobody is in a call while it lives.  The holder of the lock never waits for the GIL.
struct Locked {
  explicit Locked(PyObject* self) : kernel(kernel_of(self)), guard(kernel.mutex()) {}
  SimulatedKernel* operator->() { return &kernel; }
  SimulatedKernel& kernel;
  std::lock_guard<std::recursive_mutex> guard;
};

PyObject* make(PyTypeObject* type, PyObject* arguments, PyObject* keywords) {
  static const char* names[] = {"seed", nullptr};
  unsigned long long seed;
  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "K", const_cast<char**>(names), &seed))
    return nullptr;
  PyObject* self = type->tp_alloc(type, 0);
  if (self == nullptr) return nullptr;
  Owner* owner = &reinterpret_cast<KernelObject*>(self)->owner;
  new (owner) Owner();
  try {
    *owner = std::make_shared<Shared>(seed);
  } catch (const std::bad_alloc&) {
    Py_DECREF(self);
    return PyErr_NoMemory();
  }
  return self;
}

void dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  reinterpret_cast<KernelObject*>(self)->owner.~Owner();
  type->tp_free(self);
  Py_DECREF(type);
}

void let_go(PyObject* capsule) { delete static_cast<Owner*>(PyCapsule_GetContext(capsule)); }

PyObject* get_capsule(PyObject* self, void*) {
  Owner* owner = new (std::nothrow) Owner(reinterpret_cast<KernelObject*>(self)->owner);
  if (owner == nullptr) return PyErr_NoMemory();
  PyObject* capsule = PyCapsule_New(&(*owner)->table, kCapsuleName, let_go);
  if (capsule == nullptr || PyCapsule_SetContext(capsule, owner) != 0) {
    delete owner;
    return nullptr;
  }
  return capsule;
}

PyObject* dict_of(const Chances& chances) {
  PyObject* dict = PyDict_New();
  for (const FaultName& fault : kFaults) {
    PyObject* number = dict ? PyLong_FromUnsignedLong(chances.*fault.member) : nullptr;
    if (number == nullptr || PyDict_SetItemString(dict, fault.name, number) != 0) Py_CLEAR(dict);
    Py_XDECREF(number);
  }
  return dict;
}

PyObject* get_chances(PyObject* self, void*) { return dict_of(Locked(self)->chances); }

PyObject* get_taken(PyObject* self, void*) { return dict_of(Locked(self)->taken); }

PyObject* get_violations(PyObject* self, void*) {
  Locked kernel(self);
  PyObject* list = PyList_New(0);
  for (const std::string& violation : kernel->violations) {
    PyObject* text = list ? PyUnicode_FromString(violation.c_str()) : nullptr;
    if (text == nullptr || PyList_Append(list, text) != 0) Py_CLEAR(list);
    Py_XDECREF(text);
  }
  return list;
}

PyObject* get_requests(PyObject* self, void*) {
  return PyLong_FromSize_t(Locked(self)->requests());
}

PyObject* get_rings(PyObject* self, void*) {
  Locked kernel(self);
  PyObject* list = PyList_New(0);
  for (unsigned flags : kernel->rings()) {
    PyObject* number = list ? PyLong_FromUnsignedLong(flags) : nullptr;
    if (number == nullptr || PyList_Append(list, number) != 0) Py_CLEAR(list);
    Py_XDECREF(number);
  }
  return list;
}

PyObject* get_slept(PyObject* self, void*) {
  return PyLong_FromLongLong(Locked(self)->slept);
}

PyObject* get_mappings(PyObject* self, void*) {
  return PyLong_FromSize_t(Locked(self)->mappings());
}

PyObject* set_chance(PyObject* self, PyObject* arguments) {
  const char* name;
  unsigned in_a_thousand;
  if (!PyArg_ParseTuple(arguments, "sI", &name, &in_a_thousand)) return nullptr;
  for (const FaultName& fault : kFaults) {
    if (std::string(fault.name) != name) continue;
    Locked(self)->chances.*fault.member = in_a_thousand;
    Py_RETURN_NONE;
  }
  return PyErr_Format(PyExc_ValueError, "no fault is called %s", name);
}

PyObject* set_limit(PyObject* self, PyObject* arguments) {
  const char* name;
  unsigned long long value;
  if (!PyArg_ParseTuple(arguments, "sK", &name, &value)) return nullptr;
  const std::string which = name;
  Locked kernel(self);
  if (which == "largest_transfer")
    kernel->largest_transfer = static_cast<std::size_t>(value);
  else if (which == "largest_submit")
    kernel->largest_submit = static_cast<unsigned>(value);
  else if (which == "largest_sq")
    kernel->largest_sq = static_cast<unsigned>(value);
  else if (which == "largest_cq")
    kernel->largest_cq = static_cast<unsigned>(value);
  else if (which == "setup_error")
    kernel->setup_error = -static_cast<int>(value);
  else if (which == "mmap_error")
    kernel->mmap_error = -static_cast<int>(value);
  else if (which == "submit_error")
    kernel->submit_error = -static_cast<int>(value);
  else if (which == "late_cancels")
    kernel->late_cancels = value != 0;
  else if (which == "deaf_requests")
    kernel->deaf_requests = value != 0;
  else if (which == "busy_on_overflow")
    kernel->busy_on_overflow = value != 0;
  else
    return PyErr_Format(PyExc_ValueError, "no limit is called %s", name);
  Py_RETURN_NONE;
}

PyObject* fail(PyObject* self, PyObject* arguments) {
  const char* name;
  int error;
  unsigned nth = 1, times = 1;
  if (!PyArg_ParseTuple(arguments, "si|II", &name, &error, &nth, &times)) return nullptr;
  for (const CallName& call : kCalls) {
    if (std::string(call.name) != name) continue;
    Locked(self)->fail(call.call, -error, nth, times);
    Py_RETURN_NONE;
  }
  return PyErr_Format(PyExc_ValueError, "no call is called %s", name);
}

PyObject* calls(PyObject* self, PyObject* arguments) {
  const char* name;
  if (!PyArg_ParseTuple(arguments, "s", &name)) return nullptr;
  for (const CallName& call : kCalls) {
    if (std::string(call.name) == name)
      return PyLong_FromUnsignedLong(Locked(self)->calls(call.call));
  }
  return PyErr_Format(PyExc_ValueError, "no call is called %s", name);
}

PyObject* force_result(PyObject* self, PyObject* arguments) {
  unsigned opcode;
  int result;
  if (!PyArg_ParseTuple(arguments, "Ii", &opcode, &result)) return nullptr;
  Locked(self)->force_result(opcode, result);
  Py_RETURN_NONE;
}

PyObject* refuse(PyObject* self, PyObject* arguments) {
  unsigned opcode;
  if (!PyArg_ParseTuple(arguments, "I", &opcode)) return nullptr;
  Locked(self)->refused_operations.insert(opcode);
  Py_RETURN_NONE;
}

PyObject* post(PyObject* self, PyObject* arguments) {
  int ring_fd, result;
  unsigned long long user_data;
  unsigned flags = 0;
  if (!PyArg_ParseTuple(arguments, "iKi|I", &ring_fd, &user_data, &result, &flags)) return nullptr;
  if (!Locked(self)->post(ring_fd, user_data, result, flags))
    return PyErr_Format(PyExc_ValueError, "%d is no ring", ring_fd);
  Py_RETURN_NONE;
}

PyObject* below(PyObject* self, PyObject* limit) {
  const unsigned long long most = PyLong_AsUnsignedLongLong(limit);
  if (PyErr_Occurred()) return nullptr;
  if (most == 0) {
    PyErr_SetString(PyExc_ValueError, "nothing is below 0");
    return nullptr;
  }
  return PyLong_FromUnsignedLongLong(Locked(self)->below(most));
}

PyObject* end_closed_rings(PyObject* self, PyObject*) {
  Locked(self)->end_closed_rings();
  Py_RETURN_NONE;
}

PyGetSetDef properties[] = {
    {"capsule", get_capsule, nullptr, "The table of calls, for _overlapped.Ring.", nullptr},
    {"chances", get_chances, nullptr, "{fault: how often, of a thousand times}", nullptr},
    {"taken", get_taken, nullptr, "{fault: how often it has struck}", nullptr},
    {"violations", get_violations, nullptr, "What no program may do, in words.", nullptr},
    {"requests", get_requests, nullptr, "Requests in flight; each may hold a file.", nullptr},
    {"rings", get_rings, nullptr, "The set-up flags of the rings that are open.", nullptr},
    {"mappings", get_mappings, nullptr, "Mappings of rings.", nullptr},
    {"slept", get_slept, nullptr, "Nanoseconds in sleeps other than an enter's.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyMethodDef methods[] = {
    {"set_chance", set_chance, METH_VARARGS, "set_chance(fault, in_a_thousand)"},
    {"set_limit", set_limit, METH_VARARGS, "set_limit(name, value): a steady fault"},
    {"fail", fail, METH_VARARGS, "fail(call, errno, nth=1, times=1)"},
    {"calls", calls, METH_VARARGS, "calls(name): how many there were"},
    {"force_result", force_result, METH_VARARGS, "force_result(opcode, result)"},
    {"refuse", refuse, METH_VARARGS, "refuse(opcode): it ends with -EACCES from here on"},
    {"post", post, METH_VARARGS, "post(ring_fd, user_data, result, flags=0)"},
    {"below", below, METH_O, "A number from the seed."},
    {"end_closed_rings", end_closed_rings, METH_NOARGS, "Let go of what closed rings had."},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(make)},
    {Py_tp_dealloc, reinterpret_cast<void*>(dealloc)},
    {Py_tp_getset, properties},
    {Py_tp_methods, methods},
    {0, nullptr},
};
PyType_Spec spec = {"simulated_kernel.Kernel", sizeof(KernelObject), 0, Py_TPFLAGS_DEFAULT, slots};

int execute(PyObject* module) {
  PyObject* type = PyType_FromSpec(&spec);
  if (type == nullptr) return -1;
  const int error = PyModule_AddObjectRef(module, "Kernel", type);
  Py_DECREF(type);
  return error;
}

PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, reinterpret_cast<void*>(execute)},
    {0, nullptr},
};
PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "simulated_kernel", nullptr, 0, nullptr, module_slots,
    nullptr, nullptr, nullptr,
};

}  // namespace

PyMODINIT_FUNC PyInit_simulated_kernel() { return PyModuleDef_Init(&definition); }
