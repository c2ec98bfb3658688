// Where there is no bfloat16 dot product: the names, so that `if constexpr (has_bf16_dot)` compiles. Right, but slow; a
// kernel widens to float32 instead.
#pragma once

namespace v4npu::cpu::V4NPU_ISA {

constexpr bool has_bf16_dot = false;

struct bf16x32 {
  bf16 lane[32];
};

V4NPU_INLINE bf16x32 load_bf16x32(const bf16* p) {
  bf16x32 out;
  std::memcpy(&out, p, sizeof out);
  return out;
}

V4NPU_INLINE f32x16 dot_bf16(f32x16 acc, bf16x32 a, bf16x32 b) {
  float sum[kLanes];
  store(sum, acc);
  for (int i = 0; i < 32; ++i) sum[i / 2] += bf16_decode(a.lane[i].bits) * bf16_decode(b.lane[i].bits);
  return load(sum);
}

V4NPU_INLINE void store(bf16* p, bf16x32 v) { std::memcpy(p, &v, sizeof v); }

V4NPU_INLINE void pair_up(bf16x32 a, bf16x32 b, f32x16 (&out)[2]) {
  for (int part = 0; part < 2; ++part) {
    float pairs[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const bf16 both[2] = {a.lane[part * kLanes + i], b.lane[part * kLanes + i]};
      std::memcpy(pairs + i, both, sizeof both);
    }
    out[part] = load(pairs);
  }
}
V4NPU_INLINE f32x16 pair_up(f32x16 a, f32x16 b) {
  bf16x32 halves[2];
  store(halves[0].lane, a);
  store(halves[1].lane, b);
  f32x16 out[2];
  std::memcpy(halves[0].lane + kLanes, halves[0].lane, kLanes * sizeof(bf16));
  std::memcpy(halves[1].lane + kLanes, halves[1].lane, kLanes * sizeof(bf16));
  pair_up(halves[0], halves[1], out);
  return out[0];
}

// By integers nothing is decoded here: their callers go on in float32.
struct ScaledE4m3 {
  V4NPU_MEMBER void load(const uint8_t* p, uint8_t scale, bf16x32 (&out)[2]) const {
    for (int i = 0; i < 64; ++i) out[i / 32].lane[i % 32].bits = bf16_encode(e4m3_decode(p[i]) * e8m0_decode(scale));
  }
  V4NPU_MEMBER bool exact() const { return false; }
};
template <int GROUPS, class Put>
V4NPU_INLINE bool decode_e4m3(const uint8_t*, uint8_t, const Put&) {
  return false;
}
template <class Put>
V4NPU_INLINE bool decode_e2m1(const uint8_t*, const uint8_t*, const Put&) {
  return false;
}

}  // namespace v4npu::cpu::V4NPU_ISA
