// What a tree of nn.Modules holds, compared once for each decoded token: thousands of Python objects that lie anywhere
// and are in no cache by then, so what is known of their places is asked for at once instead of one after another.
#pragma once

#include <pybind11/pybind11.h>

namespace v4npu {

// Whether the values of the dictionaries are these very objects, in order.
bool same_values(const pybind11::list& dicts, const pybind11::list& values);

// Whether any of the dictionaries has this key.
bool any_has(const pybind11::list& dicts, const pybind11::str& key);

// Whether any of the dictionaries has a value.
bool any_filled(const pybind11::list& dicts);

// `data_ptr()` of each tensor, 8 bytes each; `places`: 8 bytes for each address that it reads on the way, as far as the
// caller knows. Those that are no longer valid do no harm.
pybind11::bytes data_ptrs(const pybind11::object& data_ptr, const pybind11::list& tensors,
                          const pybind11::bytes& places);

}  // namespace v4npu
