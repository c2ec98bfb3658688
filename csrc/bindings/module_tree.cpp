#include "module_tree.h"

#include <cstdint>
#include <cstring>
#include <string>

namespace py = pybind11;

namespace v4npu {
namespace {

void fetch(const void* p) {
  __builtin_prefetch(p);
  __builtin_prefetch(static_cast<const char*>(p) + 64);
}

void fetch_objects(const py::list& objects) {
  for (const py::handle object : objects) fetch(object.ptr());
}

void fetch_dicts(const py::list& dicts) {
  fetch_objects(dicts);
  for (const py::handle item : dicts) {
    if (!PyDict_Check(item.ptr())) throw py::type_error("dicts must be dictionaries");
    const auto* dict = reinterpret_cast<const PyDictObject*>(item.ptr());
    fetch(dict->ma_keys);
    if (dict->ma_values != nullptr) fetch(dict->ma_values);
  }
}

}  // namespace

bool same_values(const py::list& dicts, const py::list& values) {
  fetch_dicts(dicts);
  const Py_ssize_t total = PyList_GET_SIZE(values.ptr());
  Py_ssize_t seen = 0;
  for (const py::handle dict : dicts) {
    PyObject *key, *value;
    for (Py_ssize_t at = 0; PyDict_Next(dict.ptr(), &at, &key, &value);) {
      if (seen == total || PyList_GET_ITEM(values.ptr(), seen++) != value) return false;
    }
  }
  return seen == total;
}

bool any_has(const py::list& dicts, const py::str& key) {
  fetch_dicts(dicts);
  for (const py::handle dict : dicts) {
    if (PyDict_Contains(dict.ptr(), key.ptr()) != 0) return true;
  }
  return false;
}

bool any_filled(const py::list& dicts) {
  fetch_objects(dicts);
  for (const py::handle dict : dicts) {
    const Py_ssize_t size = PyObject_Size(dict.ptr());
    if (size < 0) throw py::error_already_set();
    if (size > 0) return true;
  }
  return false;
}

py::bytes data_ptrs(const py::object& data_ptr, const py::list& tensors, const py::bytes& places) {
  const char* place = PyBytes_AS_STRING(places.ptr());
  for (Py_ssize_t i = 0; i < PyBytes_GET_SIZE(places.ptr()); i += 8) {
    uintptr_t p;
    std::memcpy(&p, place + i, sizeof p);
    __builtin_prefetch(reinterpret_cast<const void*>(p));
  }
  std::string out;
  out.reserve(static_cast<size_t>(PyList_GET_SIZE(tensors.ptr())) * 8);
  for (const py::handle tensor : tensors) {
    const auto p = py::reinterpret_steal<py::object>(PyObject_CallOneArg(data_ptr.ptr(), tensor.ptr()));
    if (!p) throw py::error_already_set();
    const unsigned long long address = PyLong_AsUnsignedLongLong(p.ptr());
    out.append(reinterpret_cast<const char*>(&address), sizeof address);
  }
  return out;
}

}  // namespace v4npu
