// v4npu._C: plain structs for Python. No tensor crosses pybind11; operators go through torch's dispatcher.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "module_tree.h"
#include "ops/check.h"
#include "ops/reference.h"
#include "ops/schema.h"
#include "plan/ascend.h"
#include "plan/backend_caps.h"
#include "plan/candidates.h"
#include "plan/cpu_isa.h"
#include "plan/cpu_tiles.h"
#include "plan/gpu.h"
#include "plan/vendor.h"
#include "runtime/capture.h"
#include "runtime/heap.h"
#include "v4npu/cache_layout.h"
#include "v4npu/plan.h"

namespace py = pybind11;

namespace v4npu {
namespace {

void bind_devices(py::module_& m) {
  py::class_<DeviceCaps>(m, "DeviceCaps")
      .def(py::init<>())
      .def_readwrite("kind", &DeviceCaps::kind)
      .def_readwrite("name", &DeviceCaps::name)
      .def_readwrite("available", &DeviceCaps::available)
      .def_readwrite("reason", &DeviceCaps::reason)
      .def_readwrite("features", &DeviceCaps::features)
      .def_readwrite("only", &DeviceCaps::only)
      .def_readwrite("num_cores", &DeviceCaps::num_cores)
      .def_readwrite("memory_bytes", &DeviceCaps::memory_bytes)
      .def_readwrite("l2_bytes", &DeviceCaps::l2_bytes)
      .def_readwrite("shared_bytes", &DeviceCaps::shared_bytes);
  py::class_<Plan>(m, "Plan").def_readonly("variant", &Plan::variant).def_readonly("reason", &Plan::reason);
  m.def("caps", [] { return std::vector<DeviceCaps>{cpu_caps(), cuda_caps(), ascend_caps()}; });
  m.def("cpu_isas", [] { return runnable_cpu_isas(cpu_caps()); });
  m.def("use_cpu_isa", &use_cpu_isa, py::arg("name"));
}

void bind_operators(py::module_& m) {
  m.def("op_names", &op_names);
  m.def("schemas", [] { return std::vector<std::string>(schemas().begin(), schemas().end()); });
  m.def("check_as_on_a_device", [](bool emulated) { Check::stands_for_device() = emulated; }, py::arg("emulated"));
  m.def("note_reference_error", &note_reference_error, py::arg("is_value_error"), py::arg("text"));
}

void bind_cache(py::module_& m) {
  py::class_<RowFormat>(m, "RowFormat")
      .def_readonly("payload", &RowFormat::payload)
      .def_readonly("scales", &RowFormat::scales)
      .def_property_readonly("row", &RowFormat::row)
      .def("page", &RowFormat::page, py::arg("rows"));
  py::class_<CacheGeometry>(m, "CacheGeometry")
      .def(py::init<>())
      .def_readwrite("block_tokens", &CacheGeometry::block_tokens)
      .def_readwrite("head_dim", &CacheGeometry::head_dim)
      .def_readwrite("index_head_dim", &CacheGeometry::index_head_dim)
      .def_readwrite("window", &CacheGeometry::window)
      .def_readwrite("entry", &CacheGeometry::entry)
      .def_readwrite("key", &CacheGeometry::key)
      .def_readwrite("state_element", &CacheGeometry::state_element)
      .def_readwrite("ratios", &CacheGeometry::ratios)
      .def_readwrite("overlaps", &CacheGeometry::overlaps);
  py::class_<LayerLayout>(m, "LayerLayout")
      .def_readonly("entries", &LayerLayout::entries)
      .def_readonly("keys", &LayerLayout::keys)
      .def_readonly("window", &LayerLayout::window)
      .def_readonly("overlap", &LayerLayout::overlap)
      .def_readonly("index_overlap", &LayerLayout::index_overlap)
      .def_readonly("state", &LayerLayout::state)
      .def_readonly("index_state", &LayerLayout::index_state)
      .def_readonly("entries_per_block", &LayerLayout::entries_per_block)
      .def_readonly("state_rows", &LayerLayout::state_rows)
      .def_readonly("state_cols", &LayerLayout::state_cols)
      .def_readonly("index_cols", &LayerLayout::index_cols)
      .def_readonly("overlap_rows", &LayerLayout::overlap_rows);
  py::class_<CacheLayout>(m, "CacheLayout")
      .def_readonly("layers", &CacheLayout::layers)
      .def_readonly("entry_block", &CacheLayout::entry_block)
      .def_readonly("window_block", &CacheLayout::window_block)
      .def_readonly("open_state", &CacheLayout::open_state);
  m.attr("KEEP_TOKENS") = kKeepTokens;
  m.def("row_format", &row_format, py::arg("name"), py::arg("dim"), py::arg("rope_dim"), py::arg("element"));
  m.def("cache_layout", &cache_layout, py::arg("geometry"));
}

void bind_plans(py::module_& m) {
  m.def("plan", &plan, py::arg("op"), py::arg("caps"));
  py::class_<VendorOperator>(m, "VendorOperator")
      .def_readonly("op", &VendorOperator::op)
      .def_readonly("name", &VendorOperator::name)
      .def_readonly("schema", &VendorOperator::schema)
      .def_readonly("used", &VendorOperator::used)
      .def_readonly("why", &VendorOperator::why);
  m.def("vendor_operators", &vendor_operators);
  m.def("plan_cpu_query_tile", &plan_cpu_query_tile, py::arg("num_heads"), py::arg("head_dim"), py::arg("caps"));
  m.def("plan_cpu_head_group", &plan_cpu_head_group, py::arg("head_dim"), py::arg("caps"));
  m.def("plan_cpu_block_tokens", &plan_cpu_block_tokens, py::arg("k"), py::arg("element"), py::arg("caps"));
}

void bind_gpu_plans(py::module_& m) {
  py::class_<GpuGemmPlan>(m, "GpuGemmPlan")
      .def_readonly("wide", &GpuGemmPlan::wide)
      .def_readonly("row_tiles", &GpuGemmPlan::row_tiles)
      .def_readonly("token_tiles", &GpuGemmPlan::token_tiles);
  m.def("plan_gpu_gemm", &plan_gpu_gemm, py::arg("num_tokens"), py::arg("num_rows"), py::arg("groups"),
        py::arg("may_be_wide"), py::arg("caps"));
  m.def("plan_gpu_stages", &plan_gpu_stages, py::arg("stage_bytes"), py::arg("weight_bytes"), py::arg("other_bytes"),
        py::arg("blocks"), py::arg("caps"));
  py::class_<GpuExpertPlan>(m, "GpuExpertPlan")
      .def_property_readonly("layout", [](const GpuExpertPlan& plan) { return name_of(plan.layout); })
      .def_readonly("tile_tokens", &GpuExpertPlan::tile_tokens)
      .def_readonly("max_tiles", &GpuExpertPlan::max_tiles)
      .def_readonly("clusters", &GpuExpertPlan::clusters);
  m.def("plan_gpu_experts", &plan_gpu_experts, py::arg("num_assignments"), py::arg("num_experts"), py::arg("width"),
        py::arg("float32"), py::arg("quantises"), py::arg("caps"));
  py::class_<GpuIndexPlan>(m, "GpuIndexPlan")
      .def_readonly("tiled", &GpuIndexPlan::tiled)
      .def_readonly("tokens", &GpuIndexPlan::tokens)
      .def_readonly("keys", &GpuIndexPlan::keys);
  m.def("plan_gpu_index", &plan_gpu_index, py::arg("num_tokens"), py::arg("num_seqs"), py::arg("head_dim"),
        py::arg("caps"));
  py::class_<GpuTopkPlan>(m, "GpuTopkPlan")
      .def_readonly("parts", &GpuTopkPlan::parts)
      .def_readonly("clusters", &GpuTopkPlan::clusters);
  m.def("plan_gpu_topk", &plan_gpu_topk, py::arg("num_tokens"), py::arg("num_keys"), py::arg("caps"));
  m.def("plan_gpu_attention_parts", &plan_gpu_attention_parts, py::arg("num_tokens"), py::arg("head_tiles"),
        py::arg("segments"), py::arg("caps"));
  m.def("plan_gpu_staged_rows", &plan_gpu_staged_rows, py::arg("row_bytes"), py::arg("other_bytes"), py::arg("most"),
        py::arg("caps"));
}

void bind_ascend_plans(py::module_& m) {
  py::class_<AscendTiles>(m, "AscendTiles")
      .def_readonly("rows", &AscendTiles::rows)
      .def_readonly("columns", &AscendTiles::columns)
      .def_readonly("count", &AscendTiles::count)
      .def_readonly("blocks", &AscendTiles::blocks)
      .def_readonly("slot_bytes", &AscendTiles::slot_bytes);
  m.def("plan_ascend_tiles", &plan_ascend_tiles, py::arg("architecture"), py::arg("num_tokens"), py::arg("num_rows"),
        py::arg("groups"), py::arg("num_cores"));
  m.def("plan_ascend_head_tile", &plan_ascend_head_tile, py::arg("element_bytes"), py::arg("num_tokens"),
        py::arg("num_heads"), py::arg("num_cores"));
  py::class_<AscendTopkPlan>(m, "AscendTopkPlan")
      .def_readonly("tokens", &AscendTopkPlan::tokens)
      .def_readonly("parts", &AscendTopkPlan::parts);
  m.def("plan_ascend_topk", &plan_ascend_topk, py::arg("num_tokens"), py::arg("width"), py::arg("num_cores"));
  m.def("ascend_architecture", &ascend_architecture, py::arg("soc"));
}

void bind_runtime(py::module_& m) {
  py::class_<Capture>(m, "Capture")
      .def(py::init<>())
      .def("begin", &Capture::begin)
      .def("end", &Capture::end)
      .def("replay", &Capture::replay, py::arg("first"), py::arg("last"), py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("size", &Capture::size)
      .def_property_readonly("whole", &Capture::whole);
  m.def("advise_large_pages", &advise_large_pages, py::arg("begin"), py::arg("bytes"));
  m.def("release_free_heap", &release_free_heap);
}

void bind_module_tree(py::module_& m) {
  m.def("same_values", &same_values, py::arg("dicts"), py::arg("values"));
  m.def("any_has", &any_has, py::arg("dicts"), py::arg("key"));
  m.def("any_filled", &any_filled, py::arg("dicts"));
  m.def("data_ptrs", &data_ptrs, py::arg("data_ptr"), py::arg("tensors"), py::arg("places"));
}

}  // namespace
}  // namespace v4npu

PYBIND11_MODULE(_C, m) {
  v4npu::bind_devices(m);
  v4npu::bind_operators(m);
  v4npu::bind_cache(m);
  v4npu::bind_plans(m);
  v4npu::bind_gpu_plans(m);
  v4npu::bind_ascend_plans(m);
  v4npu::bind_runtime(m);
  v4npu::bind_module_tree(m);
}
