// v4npu._C: plain structs for Python. No tensor crosses pybind11; operators go through torch's dispatcher.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../../backends/caps.h"
#include "ops/reference.h"
#include "ops/schema.h"
#include "plan/candidates.h"
#include "plan/cpu_isa.h"
#include "v4npu/plan.h"

namespace py = pybind11;

PYBIND11_MODULE(_C, m) {
  using v4npu::DeviceCaps, v4npu::Plan;

  py::class_<DeviceCaps>(m, "DeviceCaps")
      .def(py::init<>())
      .def_readwrite("kind", &DeviceCaps::kind)
      .def_readwrite("name", &DeviceCaps::name)
      .def_readwrite("available", &DeviceCaps::available)
      .def_readwrite("reason", &DeviceCaps::reason)
      .def_readwrite("features", &DeviceCaps::features)
      .def_readwrite("only", &DeviceCaps::only)
      .def_readwrite("num_cores", &DeviceCaps::num_cores)
      .def_readwrite("memory_bytes", &DeviceCaps::memory_bytes);
  py::class_<Plan>(m, "Plan").def_readonly("variant", &Plan::variant).def_readonly("reason", &Plan::reason);

  m.def("plan", &v4npu::plan, py::arg("op"), py::arg("caps"));
  m.def("op_names", &v4npu::op_names);
  m.def("schemas", [] { return std::vector<std::string>(v4npu::schemas().begin(), v4npu::schemas().end()); });
  m.def("caps", [] { return std::vector<DeviceCaps>{v4npu::cpu_caps(), v4npu::cuda_caps(), v4npu::ascend_caps()}; });
  m.def("cpu_isas", [] { return v4npu::runnable_cpu_isas(v4npu::cpu_caps()); });
  m.def("use_cpu_isa", &v4npu::use_cpu_isa, py::arg("name"));
  m.def("note_reference_error", &v4npu::note_reference_error, py::arg("is_value_error"), py::arg("text"));
}
