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
      .def_readwrite("memory_bytes", &DeviceCaps::memory_bytes)
      .def_readwrite("l2_bytes", &DeviceCaps::l2_bytes)
      .def_readwrite("shared_bytes", &DeviceCaps::shared_bytes);
  py::class_<Plan>(m, "Plan").def_readonly("variant", &Plan::variant).def_readonly("reason", &Plan::reason);

  using v4npu::CacheGeometry, v4npu::CacheLayout, v4npu::LayerLayout, v4npu::RowFormat;
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
  m.attr("KEEP_TOKENS") = v4npu::kKeepTokens;
  m.def(
      "check_as_on_a_device", [](bool emulated) { v4npu::Check::stands_for_device() = emulated; }, py::arg("emulated"));
  m.def("row_format", &v4npu::row_format, py::arg("name"), py::arg("dim"), py::arg("rope_dim"), py::arg("element"));
  m.def("cache_layout", &v4npu::cache_layout, py::arg("geometry"));

  m.def("plan", &v4npu::plan, py::arg("op"), py::arg("caps"));
  py::class_<v4npu::VendorOperator>(m, "VendorOperator")
      .def_readonly("op", &v4npu::VendorOperator::op)
      .def_readonly("name", &v4npu::VendorOperator::name)
      .def_readonly("schema", &v4npu::VendorOperator::schema)
      .def_readonly("used", &v4npu::VendorOperator::used)
      .def_readonly("why", &v4npu::VendorOperator::why);
  m.def("vendor_operators", &v4npu::vendor_operators);
  py::class_<v4npu::GpuGemmPlan>(m, "GpuGemmPlan")
      .def_readonly("wide", &v4npu::GpuGemmPlan::wide)
      .def_readonly("row_tiles", &v4npu::GpuGemmPlan::row_tiles)
      .def_readonly("token_tiles", &v4npu::GpuGemmPlan::token_tiles);
  m.def("plan_gpu_gemm", &v4npu::plan_gpu_gemm, py::arg("num_tokens"), py::arg("num_rows"), py::arg("groups"),
        py::arg("may_be_wide"), py::arg("caps"));
  m.def("plan_gpu_stages", &v4npu::plan_gpu_stages, py::arg("stage_bytes"), py::arg("other_bytes"), py::arg("blocks"),
        py::arg("caps"));
  py::class_<v4npu::GpuExpertPlan>(m, "GpuExpertPlan")
      .def_property_readonly("layout", [](const v4npu::GpuExpertPlan& plan) { return v4npu::name_of(plan.layout); })
      .def_readonly("tile_tokens", &v4npu::GpuExpertPlan::tile_tokens)
      .def_readonly("max_tiles", &v4npu::GpuExpertPlan::max_tiles)
      .def_readonly("clusters", &v4npu::GpuExpertPlan::clusters);
  m.def("plan_gpu_experts", &v4npu::plan_gpu_experts, py::arg("num_assignments"), py::arg("num_experts"),
        py::arg("width"), py::arg("float32"), py::arg("quantises"), py::arg("caps"));
  py::class_<v4npu::GpuIndexPlan>(m, "GpuIndexPlan")
      .def_readonly("tiled", &v4npu::GpuIndexPlan::tiled)
      .def_readonly("tokens", &v4npu::GpuIndexPlan::tokens)
      .def_readonly("keys", &v4npu::GpuIndexPlan::keys);
  m.def("plan_gpu_index", &v4npu::plan_gpu_index, py::arg("num_tokens"), py::arg("num_seqs"), py::arg("head_dim"),
        py::arg("caps"));
  py::class_<v4npu::GpuTopkPlan>(m, "GpuTopkPlan")
      .def_readonly("parts", &v4npu::GpuTopkPlan::parts)
      .def_readonly("clusters", &v4npu::GpuTopkPlan::clusters);
  m.def("plan_gpu_topk", &v4npu::plan_gpu_topk, py::arg("num_tokens"), py::arg("num_keys"), py::arg("caps"));
  m.def("plan_gpu_attention_parts", &v4npu::plan_gpu_attention_parts, py::arg("num_tokens"), py::arg("head_tiles"),
        py::arg("segments"), py::arg("caps"));
  m.def("plan_gpu_staged_rows", &v4npu::plan_gpu_staged_rows, py::arg("row_bytes"), py::arg("other_bytes"),
        py::arg("most"), py::arg("caps"));
  py::class_<v4npu::AscendTiles>(m, "AscendTiles")
      .def_readonly("rows", &v4npu::AscendTiles::rows)
      .def_readonly("columns", &v4npu::AscendTiles::columns)
      .def_readonly("count", &v4npu::AscendTiles::count)
      .def_readonly("blocks", &v4npu::AscendTiles::blocks)
      .def_readonly("slot_bytes", &v4npu::AscendTiles::slot_bytes);
  m.def("plan_ascend_tiles", &v4npu::plan_ascend_tiles, py::arg("architecture"), py::arg("num_tokens"),
        py::arg("num_rows"), py::arg("groups"), py::arg("num_cores"));
  m.def("plan_ascend_head_tile", &v4npu::plan_ascend_head_tile, py::arg("element_bytes"), py::arg("num_tokens"),
        py::arg("num_heads"), py::arg("num_cores"));
  py::class_<v4npu::AscendTopkPlan>(m, "AscendTopkPlan")
      .def_readonly("tokens", &v4npu::AscendTopkPlan::tokens)
      .def_readonly("parts", &v4npu::AscendTopkPlan::parts);
  m.def("plan_ascend_topk", &v4npu::plan_ascend_topk, py::arg("num_tokens"), py::arg("width"), py::arg("num_cores"));
  m.def("ascend_architecture", &v4npu::ascend_architecture, py::arg("soc"));
  m.def("plan_cpu_query_tile", &v4npu::plan_cpu_query_tile, py::arg("num_heads"), py::arg("head_dim"), py::arg("caps"));
  m.def("plan_cpu_head_group", &v4npu::plan_cpu_head_group, py::arg("head_dim"), py::arg("caps"));
  m.def("plan_cpu_block_tokens", &v4npu::plan_cpu_block_tokens, py::arg("k"), py::arg("element"), py::arg("caps"));
  py::class_<v4npu::Capture>(m, "Capture")
      .def(py::init<>())
      .def("begin", &v4npu::Capture::begin)
      .def("end", &v4npu::Capture::end)
      .def("replay", &v4npu::Capture::replay, py::arg("first"), py::arg("last"),
           py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("size", &v4npu::Capture::size)
      .def_property_readonly("whole", &v4npu::Capture::whole);
  m.def("op_names", &v4npu::op_names);
  m.def("schemas", [] { return std::vector<std::string>(v4npu::schemas().begin(), v4npu::schemas().end()); });
  m.def("caps", [] { return std::vector<DeviceCaps>{v4npu::cpu_caps(), v4npu::cuda_caps(), v4npu::ascend_caps()}; });
  m.def("cpu_isas", [] { return v4npu::runnable_cpu_isas(v4npu::cpu_caps()); });
  m.def("use_cpu_isa", &v4npu::use_cpu_isa, py::arg("name"));
  m.def("advise_large_pages", &v4npu::advise_large_pages, py::arg("begin"), py::arg("bytes"));
  m.def("release_free_heap", &v4npu::release_free_heap);
  m.def("same_values", &v4npu::same_values, py::arg("dicts"), py::arg("values"));
  m.def("any_has", &v4npu::any_has, py::arg("dicts"), py::arg("key"));
  m.def("any_filled", &v4npu::any_filled, py::arg("dicts"));
  m.def("data_ptrs", &v4npu::data_ptrs, py::arg("data_ptr"), py::arg("tensors"), py::arg("places"));
  m.def("note_reference_error", &v4npu::note_reference_error, py::arg("is_value_error"), py::arg("text"));
}
