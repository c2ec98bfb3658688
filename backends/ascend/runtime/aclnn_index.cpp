// Functions that move elements: joining, indexing, scattering, ranges.
#include <algorithm>

#include "aclnn.h"

namespace v4npu::runtime {
namespace {

int64_t offset_of(const View& v, const Sizes& strides, int64_t flat) {  // flat: row-major, of v.sizes
  int64_t offset = 0;
  for (int64_t d = v.dim() - 1; d >= 0; --d) {
    offset += flat % v.sizes[d] * strides[d];
    flat /= v.sizes[d];
  }
  return offset;
}

int64_t checked(int64_t index, int64_t size) {
  require(index >= -size && index < size,
          "index " + std::to_string(index) + " is out of range for a dimension of size " + std::to_string(size));
  return index < 0 ? index + size : index;
}

void move(const View& to, int64_t to_offset, const View& from, int64_t from_offset) {
  const int64_t bytes = item_size(to.type);
  std::memcpy(to.data + to_offset * bytes, from.data + from_offset * bytes, static_cast<size_t>(bytes));
}

void require_same_type(const View& a, const View& b) {
  require(a.type == b.type, std::string("types must agree, got ") + name_of(a.type) + " and " + name_of(b.type));
}

Work join(const aclTensorList* list, int64_t dim, const aclTensor* out, bool new_axis) {
  const View y = view(out);
  std::vector<View> targets, sources;
  const int64_t axis = y.axis(dim);
  int64_t at = 0;
  for (const aclTensor* tensor : list->tensors) {
    View x = view(tensor);
    if (new_axis) {
      x.sizes.insert(x.sizes.begin() + axis, 1);
      x.strides.insert(x.strides.begin() + axis, 0);
    } else if (x.dim() == 1 && x.sizes[0] == 0) {
      continue;  // joins with anything, as in torch
    }
    require(x.dim() == y.dim(), "all tensors must have the same rank");
    View target = y;
    target.sizes = x.sizes;
    target.data += at * y.strides[axis] * item_size(y.type);
    at += x.sizes[axis];
    targets.push_back(target);
    sources.push_back(x);
  }
  require(at == y.sizes[axis], "the result has another size along dim");
  return [=] {
    for (size_t i = 0; i < sources.size(); ++i) copy_view(targets[i], sources[i]);
  };
}

// Advanced indexing: indices[d], where it has elements, picks along dimension d of self. The indexed
// dimensions are replaced by the indices' common sizes, in place if they are neighbours and in front otherwise.
struct Picked {
  View view;                            // self, strides of the result's sizes; 0 along the indices
  std::vector<View> indices;            // broadcast to the result's sizes
  std::vector<int64_t> sizes, strides;  // of the dimension that each picks along
};

Picked pick(const View& self, const aclTensorList* list) {
  Picked p;
  std::vector<std::pair<int64_t, View>> used;
  for (size_t d = 0; d < list->tensors.size(); ++d) {
    const aclTensor* tensor = list->tensors[d];
    if (tensor == nullptr || tensor->view.numel() == 0) continue;  // the dimension is kept
    const View index = view(tensor);
    require(index.type == ACL_INT64 || index.type == ACL_INT32,
            std::string("indices must be int64 or int32, got ") + name_of(index.type));
    used.emplace_back(static_cast<int64_t>(d), index);
  }
  require(!used.empty(), "no index");
  Sizes common;
  for (const auto& [d, index] : used) {
    const int64_t lead = static_cast<int64_t>(common.size()) - index.dim();
    if (lead < 0) common.insert(common.begin(), static_cast<size_t>(-lead), 1);
    for (int64_t i = 0; i < index.dim(); ++i) {
      int64_t& size = common[common.size() - static_cast<size_t>(index.dim()) + static_cast<size_t>(i)];
      if (size == 1) size = index.sizes[i];
    }
  }
  const bool neighbours = used.back().first - used.front().first == static_cast<int64_t>(used.size()) - 1;
  const int64_t front = neighbours ? used.front().first : 0;
  p.view = {self.data, self.type, {}, {}};
  const auto kept = [&](int64_t from, int64_t to) {
    for (int64_t d = from; d < to; ++d) {
      if (std::any_of(used.begin(), used.end(), [d](const auto& u) { return u.first == d; })) continue;
      p.view.sizes.push_back(self.sizes[d]);
      p.view.strides.push_back(self.strides[d]);
    }
  };
  kept(0, front);
  const auto place = static_cast<int64_t>(p.view.sizes.size());
  p.view.sizes.insert(p.view.sizes.end(), common.begin(), common.end());
  p.view.strides.insert(p.view.strides.end(), common.size(), 0);
  kept(front, self.dim());
  const int64_t behind = p.view.dim() - place - static_cast<int64_t>(common.size());
  for (auto& [d, index] : used) {
    for (int64_t i = 0; i < behind; ++i) index.sizes.push_back(1), index.strides.push_back(0);
    p.indices.push_back(broadcast(index, p.view.sizes));
    p.sizes.push_back(self.sizes[d]);
    p.strides.push_back(self.strides[d]);
  }
  return p;
}

// Calls body(flat position in the result, offset in self).
template <typename Body>
void for_picked(const Picked& p, Body body) {
  std::vector<std::vector<int64_t>> where;
  for (const View& index : p.indices) where.push_back(gathered<int64_t>(index));
  for (int64_t flat = 0; flat < p.view.numel(); ++flat) {
    int64_t offset = offset_of(p.view, p.view.strides, flat);
    for (size_t i = 0; i < where.size(); ++i)
      offset += checked(where[i][static_cast<size_t>(flat)], p.sizes[i]) * p.strides[i];
    body(flat, offset);
  }
}

void add_to(const View& to, int64_t offset, double value) {
  double sum;
  char* at = to.data + offset * item_size(to.type);
  load_row(to.type, at, 0, 1, &sum);
  sum += value;
  store_row(to.type, at, 0, 1, &sum);
}

// Calls body(flat position in index, offset in self): index runs along `dim`, its other axes match self's first ones.
template <typename Body>
void for_gathered(const View& self, int64_t dim, const View& index, Body body) {
  const std::vector<int64_t> where = gathered<int64_t>(index);
  Sizes strides = self.strides;
  strides[dim] = 0;
  for (int64_t flat = 0; flat < static_cast<int64_t>(where.size()); ++flat)
    body(flat, offset_of(index, strides, flat) +
                   checked(where[static_cast<size_t>(flat)], self.sizes[dim]) * self.strides[dim]);
}

// Writes one element per index, from a tensor of the index's sizes or a scalar.
auto writer(const View& to, const View& index, const aclTensor* source) {
  const View s = view(source);
  require_same_type(to, s);
  return [=](int64_t flat, int64_t at) { move(to, at, s, offset_of(index, s.strides, flat)); };
}
auto writer(const View& to, const View&, const aclScalar* source) {
  const aclScalar value = *source;
  return [=](int64_t, int64_t at) {
    char* place = to.data + at * item_size(to.type);
    is_floating(to.type) ? store_row(to.type, place, 0, 1, &value.real)
                         : store_row(to.type, place, 0, 1, &value.integer);
  };
}

template <typename Source>
Work scatter(const aclTensor* self, int64_t dim, const aclTensor* index, const Source* source, int64_t reduction,
             const aclTensor* out) {
  const View x = view(self), y = view(out), i = view(index);
  require(reduction == 0, "only a scatter without reduction is emulated");
  require_sizes(y, x.sizes);
  require(x.dim() == i.dim() && x.dim() > 0, "self and index must have the same rank");
  const int64_t axis = x.axis(dim);
  const auto write = writer(y, i, source);
  return [=] {
    if (y.data != x.data) copy_view(y, x);
    for_gathered(y, axis, i, write);
  };
}

// self along dim at index, in the sizes of the result; index is a vector.
Work select(const aclTensor* self, int64_t dim, const aclTensor* index, const aclTensor* out) {
  const View x = view(self), i = view(index), y = view(out);
  const int64_t axis = x.axis(dim);
  require_same_type(x, y);
  Sizes expected(x.sizes.begin(), x.sizes.begin() + axis);
  expected.insert(expected.end(), i.sizes.begin(), i.sizes.end());
  expected.insert(expected.end(), x.sizes.begin() + axis + 1, x.sizes.end());
  require_sizes(y, expected);
  return [=] {
    View wide = i;
    for (int64_t d = axis + 1; d < x.dim(); ++d) wide.sizes.push_back(1), wide.strides.push_back(0);
    const std::vector<int64_t> where = gathered<int64_t>(broadcast(wide, y.sizes));
    Sizes strides(x.strides.begin(), x.strides.begin() + axis);
    strides.insert(strides.end(), i.sizes.size(), 0);
    strides.insert(strides.end(), x.strides.begin() + axis + 1, x.strides.end());
    for (int64_t flat = 0; flat < y.numel(); ++flat)
      move(y, offset_of(y, y.strides, flat), x,
           offset_of(y, strides, flat) + checked(where[static_cast<size_t>(flat)], x.sizes[axis]) * x.strides[axis]);
  };
}

// The places are known now, or when the work is done if they lie on the device.
std::function<Sizes()> places(const aclIntArray* index) {
  return [where = index->values] { return where; };
}
std::function<Sizes()> places(const aclTensor* index) {
  return [where = view(index)] { return gathered<int64_t>(where); };
}

template <class Index>
Work index_fill(const aclTensor* self, int64_t dim, const Index* index, const aclScalar* value, const aclTensor* out) {
  const View x = view(self), y = view(out);
  require_sizes(y, x.sizes);
  const int64_t axis = x.axis(dim);
  const auto where = places(index);
  const aclScalar fill = *value;
  return [=] {
    if (y.data != x.data) copy_view(y, x);
    for (int64_t at : where()) {
      View slice = y;
      slice.sizes[axis] = 1;
      slice.data += checked(at, y.sizes[axis]) * y.strides[axis] * item_size(y.type);
      fill_view(slice, fill);
    }
  };
}

// Where self is not zero: [found, rank], or transposed.
Work nonzero(const aclTensor* self, aclTensor* out, bool transpose) {
  const View x = view(self), y = view(out);
  return [=] {
    const std::vector<double> all = gathered<double>(x);
    std::vector<int64_t> places;
    int64_t found = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      if (all[i] == 0) continue;
      ++found;
      auto rest = static_cast<int64_t>(i);
      Sizes place(x.sizes.size());
      for (int64_t d = x.dim() - 1; d >= 0; rest /= x.sizes[d--]) place[static_cast<size_t>(d)] = rest % x.sizes[d];
      places.insert(places.end(), place.begin(), place.end());
    }
    out->view.sizes = transpose ? Sizes{x.dim(), found} : Sizes{found, x.dim()};
    const View target = contiguous_like(y.data, y.type, out->view.sizes);
    scattered(transpose ? transposed(target, 0, 1) : target, places);
  };
}

// start + i * step.
Work range(const aclScalar* start, const aclScalar* step, const aclTensor* out) {
  const View y = view(out);
  const aclScalar first = *start, by = *step;
  return [=] {
    const auto fill = [&](auto from, auto distance) {
      std::vector<decltype(from)> all(static_cast<size_t>(y.numel()));
      for (size_t i = 0; i < all.size(); ++i) all[i] = from + static_cast<decltype(from)>(i) * distance;
      scattered(y, all);
    };
    is_floating(y.type) ? fill(first.real, by.real) : fill(first.integer, by.integer);
  };
}

}  // namespace
}  // namespace v4npu::runtime

using namespace v4npu::runtime;

ACLNN(aclnnCat)(const aclTensorList* list, int64_t dim, aclTensor* out, PLANNED) {
  return plan(HERE, [&] { return join(list, dim, out, false); });
}
ACLNN(aclnnStack)(const aclTensorList* list, int64_t dim, aclTensor* out, PLANNED) {
  return plan(HERE, [&] { return join(list, dim, out, true); });
}

ACLNN(aclnnIndexSelect)(const aclTensor* self, int64_t dim, const aclTensor* index, aclTensor* out, PLANNED) {
  return plan(HERE, [&] { return select(self, dim, index, out); });
}
ACLNN(aclnnEmbedding)(const aclTensor* weight, const aclTensor* indices, aclTensor* out, PLANNED) {
  return plan(HERE, [&] { return select(weight, 0, indices, out); });
}

ACLNN(aclnnGather)(const aclTensor* self, int64_t dim, const aclTensor* index, aclTensor* out, PLANNED) {
  return plan(HERE, [&]() -> Work {
    const View x = view(self), i = view(index), y = view(out);
    require_same_type(x, y);
    require_sizes(y, i.sizes);
    require(x.dim() == i.dim() && x.dim() > 0, "self and index must have the same rank");
    const int64_t axis = x.axis(dim);
    return [=] {
      for_gathered(x, axis, i, [&](int64_t flat, int64_t at) { move(y, offset_of(y, y.strides, flat), x, at); });
    };
  });
}
#define SCATTER(name, Source)                                                                            \
  ACLNN(aclnn##name)(const aclTensor* self, int64_t dim, const aclTensor* index, const Source* source,   \
                     int64_t reduction, aclTensor* out, PLANNED) {                                       \
    return plan(HERE, [&] { return scatter(self, dim, index, source, reduction, out); });                \
  }                                                                                                      \
  ACLNN(aclnnInplace##name)(aclTensor * self, int64_t dim, const aclTensor* index, const Source* source, \
                            int64_t reduction, PLANNED) {                                                \
    return plan(HERE, [&] { return scatter(self, dim, index, source, reduction, self); });               \
  }
SCATTER(Scatter, aclTensor)
SCATTER(ScatterValue, aclScalar)

ACLNN(aclnnIndex)(const aclTensor* self, const aclTensorList* indices, aclTensor* out, PLANNED) {
  return plan(HERE, [&]() -> Work {
    const View y = view(out);
    if (y.numel() == 0) return [] {};  // an empty index would read as a dimension to keep
    const Picked p = pick(view(self), indices);
    require_same_type(p.view, y);
    require_sizes(y, p.view.sizes);
    return
        [=] { for_picked(p, [&](int64_t flat, int64_t at) { move(y, offset_of(y, y.strides, flat), p.view, at); }); };
  });
}
ACLNN(aclnnIndexPutImpl)
(aclTensor* self, const aclTensorList* indices, const aclTensor* values, bool accumulate, bool, PLANNED) {
  return plan(HERE, [&]() -> Work {
    const View x = view(self);
    const Picked p = pick(x, indices);
    const View v = broadcast(view(values), p.view.sizes);
    require_same_type(x, v);
    return [=] {
      const std::vector<double> all = accumulate ? gathered<double>(v) : std::vector<double>();
      for_picked(p, [&](int64_t flat, int64_t at) {
        accumulate ? add_to(p.view, at, all[static_cast<size_t>(flat)])
                   : move(p.view, at, v, offset_of(v, v.strides, flat));
      });
    };
  });
}

ACLNN(aclnnIndexAdd)
(const aclTensor* self, int64_t dim, const aclTensor* index, const aclTensor* source, const aclScalar* alpha,
 aclTensor* out, PLANNED) {
  return plan(HERE, [&]() -> Work {
    const View x = view(self), y = view(out), s = view(source), i = view(index);
    require_sizes(y, x.sizes);
    const int64_t axis = x.axis(dim);
    require(i.dim() <= 1 && s.dim() == x.dim() && s.sizes[axis] == i.numel(), "source must have one slice per index");
    const double factor = alpha->real;
    return [=] {
      if (y.data != x.data) copy_view(y, x);
      const std::vector<int64_t> where = gathered<int64_t>(i);
      const std::vector<double> all = gathered<double>(s);
      Sizes strides = y.strides;
      strides[axis] = 0;
      int64_t behind = 1;
      for (int64_t d = axis + 1; d < s.dim(); ++d) behind *= s.sizes[d];
      for (int64_t flat = 0; flat < static_cast<int64_t>(all.size()); ++flat) {
        const int64_t at = checked(where[static_cast<size_t>(flat / behind % s.sizes[axis])], y.sizes[axis]);
        add_to(y, offset_of(s, strides, flat) + at * y.strides[axis], factor * all[static_cast<size_t>(flat)]);
      }
    };
  });
}

// torch-npu calls the second pair on the 910B and 910C, the first on the 950.
#define INDEX_FILL(name, Index)                                                                                      \
  ACLNN(aclnn##name)(const aclTensor* self, int64_t dim, const Index* index, const aclScalar* value, aclTensor* out, \
                     PLANNED) {                                                                                      \
    return plan(HERE, [&] { return index_fill(self, dim, index, value, out); });                                     \
  }                                                                                                                  \
  ACLNN(aclnnInplace##name)(aclTensor * self, int64_t dim, const Index* index, const aclScalar* value, PLANNED) {    \
    return plan(HERE, [&] { return index_fill(self, dim, index, value, self); });                                    \
  }
INDEX_FILL(IndexFillTensor, aclIntArray)
INDEX_FILL(IndexFill, aclTensor)

ACLNN(aclnnNonzero)(const aclTensor* self, aclTensor* out, PLANNED) {
  return waiting(plan(HERE, [&] { return nonzero(self, out, false); }), executor);
}
ACLNN(aclnnNonzeroV2)(const aclTensor* self, aclTensor* out, PLANNED) {
  return waiting(plan(HERE, [&] { return nonzero(self, out, true); }), executor);
}

ACLNN(aclnnMaskedSelect)(const aclTensor* self, const aclTensor* mask, aclTensor* out, PLANNED) {
  const auto make = [&]() -> Work {
    View x = view(self), m = view(mask);
    x = broadcast(x, m.dim() > x.dim() ? m.sizes : x.sizes);
    m = broadcast(m, x.sizes);
    const View y = view(out);
    require_same_type(x, y);
    return [=] {
      const std::vector<int64_t> chosen = gathered<int64_t>(m);
      int64_t found = 0;
      for (int64_t flat = 0; flat < x.numel(); ++flat)
        if (chosen[static_cast<size_t>(flat)] != 0) move(y, found++, x, offset_of(x, x.strides, flat));
      out->view.sizes = {found};
    };
  };
  return waiting(plan(HERE, make), executor);
}

ACLNN(aclnnArange)(const aclScalar* start, const aclScalar*, const aclScalar* step, aclTensor* out, PLANNED) {
  return plan(HERE, [&] { return range(start, step, out); });
}
ACLNN(aclnnRange)(const aclScalar* start, const aclScalar*, const aclScalar* step, aclTensor* out, PLANNED) {
  return plan(HERE, [&] { return range(start, step, out); });
}

ACLNN(aclnnConstantPadNd)
(const aclTensor* self, const aclIntArray* pad, const aclScalar* value, aclTensor* out, PLANNED) {
  return plan(HERE, [&]() -> Work {
    const View x = view(self), y = view(out);
    View inside = y, from = x;
    for (size_t i = 0; i + 1 < pad->values.size(); i += 2) {  // from the last dimension on
      const int64_t d = x.dim() - 1 - static_cast<int64_t>(i / 2), before = pad->values[i], after = pad->values[i + 1];
      require(y.sizes[d] == x.sizes[d] + before + after, "the result has another size");
      (before < 0 ? from : inside).data +=
          std::abs(before) * (before < 0 ? from : inside).strides[d] * item_size(x.type);
      from.sizes[d] = x.sizes[d] + std::min<int64_t>(before, 0) + std::min<int64_t>(after, 0);
    }
    inside.sizes = from.sizes;
    require_same_type(x, y);
    const aclScalar fill = *value;
    return [=] {
      fill_view(y, fill);
      copy_view(inside, from);
    };
  });
}

ACLNN(aclnnRepeatInterleaveIntWithDim)
(const aclTensor* self, int64_t repeats, int64_t dim, int64_t, aclTensor* out, PLANNED) {
  return plan(HERE, [&]() -> Work {
    const View x = view(self), y = view(out);
    const int64_t axis = x.axis(dim);
    require(y.sizes[axis] == x.sizes[axis] * repeats, "the result has another size along dim");
    View split = y, wide = x;  // [..., size, repeats, ...]
    split.sizes[axis] = x.sizes[axis];
    split.strides[axis] = y.strides[axis] * repeats;
    split.sizes.insert(split.sizes.begin() + axis + 1, repeats);
    split.strides.insert(split.strides.begin() + axis + 1, y.strides[axis]);
    wide.sizes.insert(wide.sizes.begin() + axis + 1, repeats);
    wide.strides.insert(wide.strides.begin() + axis + 1, 0);
    return [=] { copy_view(split, wide); };
  });
}

ACLNN(aclnnFlip)(const aclTensor* self, const aclIntArray* dims, aclTensor* out, PLANNED) {
  return plan(HERE, [&]() -> Work {
    View x = view(self);
    const View y = view(out);
    require_sizes(y, x.sizes);
    for (int64_t dim : dims->values) {
      const int64_t d = x.axis(dim);
      if (x.dim() == 0 || x.sizes[d] == 0) continue;
      x.data += (x.sizes[d] - 1) * x.strides[d] * item_size(x.type);
      x.strides[d] = -x.strides[d];
    }
    return [=] { copy_view(y, x); };
  });
}

ACLNN(aclnnRepeat)(const aclTensor* self, const aclIntArray* repeats, aclTensor* out, PLANNED) {
  return plan(HERE, [&]() -> Work {
    const View x = view(self), y = view(out);
    View target{y.data, y.type, {}, {}}, source{x.data, x.type, {}, {}};  // [repeats, size] for every dimension
    const int64_t lead = y.dim() - x.dim();
    require(static_cast<int64_t>(repeats->values.size()) == y.dim() && lead >= 0, "one repeat per dimension");
    for (int64_t d = 0; d < y.dim(); ++d) {
      const int64_t size = d < lead ? 1 : x.sizes[d - lead], times = repeats->values[d];
      require(y.sizes[d] == size * times, "the result has another size");
      target.sizes.insert(target.sizes.end(), {times, size});
      target.strides.insert(target.strides.end(), {size * y.strides[d], y.strides[d]});
      source.strides.insert(source.strides.end(), {0, d < lead ? 0 : x.strides[d - lead]});
    }
    source.sizes = target.sizes;
    return [=] { copy_view(target, source); };
  });
}
