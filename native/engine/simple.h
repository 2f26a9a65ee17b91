// simple.h: windows, planes, rows and halos. Part of kernels.cc, which alone includes it.
#pragma once

#include <cmath>
#include <limits>

#include "layout.h"
#include "vec.h"

namespace thrifty::engine {
namespace {

void plane_steps(const Plane& job) {
  const V scale = load(job.scale), shift = load(job.shift);
  for (int r = 0; r < job.h; ++r) {
    for (int i = 0; i < job.w; ++i) {
      V y = load(job.in + r * job.in_row + i * kLanes) * scale + shift;
      for (int s = 0; s < job.step_count; ++s) {
        const Step& step = job.steps[s];
        y = stepped(y, step, r * step.x_row + i * kLanes, r * step.h_row + i * kLanes);
      }
      if (job.valid) y = keep(y, job.valid + (r * job.w + i) * kLanes);
      store(job.out + r * job.out_row + i * kLanes, y);
    }
  }
}

void max_window(const Window& job) {
  for (int r = 0; r < job.h; ++r) {
    for (int i = 0; i < job.w; ++i) {
      const float* at = job.in + r * job.stride_y * job.in_row + i * job.stride_x * kLanes;
      V y = load(at + job.taps[0]);
      for (int t = 1; t < job.tap_count; ++t) y = larger(load(at + job.taps[t]), y);
      if (job.valid) y = keep(y, job.valid + (r * job.w + i) * kLanes);
      store(job.out + r * job.out_row + i * kLanes, y);
    }
  }
}

void sum_window(const Window& job) {
  for (int r = 0; r < job.h; ++r) {
    for (int i = 0; i < job.w; ++i) {
      const float* at = job.in + r * job.stride_y * job.in_row + i * job.stride_x * kLanes;
      V y = load(at + job.taps[0]);
      for (int t = 1; t < job.tap_count; ++t) y += load(at + job.taps[t]);
      y *= load(job.factors + (r * job.w + i) * kLanes);
      if (job.valid) y = keep(y, job.valid + (r * job.w + i) * kLanes);
      store(job.out + r * job.out_row + i * kLanes, y);
    }
  }
}

void reduce(const float* in, std::size_t row, int h, int w, const float* valid, bool largest,
            float* out) {
  const V none = splat(largest ? -std::numeric_limits<float>::infinity() : 0.0f);
  V y = none;
  for (int r = 0; r < h; ++r) {
    for (int i = 0; i < w; ++i) {
      V x = load(in + r * row + i * kLanes);
      if (valid && largest) {
        x = mask_at(valid + (r * w + i) * kLanes) != I{} ? x : none;
      }
      y = largest ? larger(x, y) : y + x;
    }
  }
  store(out, y);
}

void gather(const float* in, const std::int32_t* from, std::size_t count, float rest, float* out) {
  std::size_t i = 0;
#if defined(__AVX512F__)
  const __m512 other = _mm512_set1_ps(rest);
  for (; i + kLanes <= count; i += kLanes) {
    const __m512i places = _mm512_loadu_si512(from + i);
    const __mmask16 there = _mm512_cmpge_epi32_mask(places, _mm512_setzero_si512());
    _mm512_storeu_ps(out + i, _mm512_mask_i32gather_ps(other, there, places, in, 4));
  }
#endif
  for (; i < count; ++i) out[i] = from[i] < 0 ? rest : in[from[i]];
}

template <class Place>
THRIFTY_INLINE float sparse_row(const float* in, const Place* at, const float* weight,
                                std::size_t count) {
  std::size_t i = 0;
  float sum = 0;
#if defined(__AVX512F__)
  __m512 first = _mm512_setzero_ps(), second = first;
  const auto places = [&](std::size_t k) {
    if constexpr (sizeof(Place) == 2) {
      return _mm512_cvtepu16_epi32(
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + k)));
    } else {
      return _mm512_loadu_si512(at + k);
    }
  };
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    first = _mm512_fmadd_ps(_mm512_loadu_ps(weight + i), _mm512_i32gather_ps(places(i), in, 4),
                            first);
    second = _mm512_fmadd_ps(_mm512_loadu_ps(weight + i + kLanes),
                             _mm512_i32gather_ps(places(i + kLanes), in, 4), second);
  }
  sum = _mm512_reduce_add_ps(_mm512_add_ps(first, second));
#else
  float part[8] = {};
  for (; i + 8 <= count; i += 8) {
    for (int k = 0; k < 8; ++k) part[k] += weight[i + k] * in[at[i + k]];
  }
  for (const float each : part) sum += each;
#endif
  for (; i < count; ++i) sum += weight[i] * in[at[i]];
  return sum;
}

void sparse_rows(const SparseRows& job) {
  for (int o = job.first; o < job.last; ++o) {
    const std::size_t start = job.starts[o], count = job.starts[o + 1] - start;
    const float sum = job.narrow
                          ? sparse_row(job.in, job.narrow + start, job.weights + start, count)
                          : sparse_row(job.in, job.wide + start, job.weights + start, count);
    job.out[o] = job.bias[o] + sum;
  }
}

float total(V x) {
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += x[i];
  return sum;
}

// The first `count` of 16 floats; what lies after them may be anything, even NaN.
THRIFTY_INLINE V some(const float* p, std::size_t count) {
  V x{};
  std::memcpy(&x, p, count * sizeof(float));
  return x;
}

void dense_rows(const DenseRows& job) {
  const std::size_t inputs = job.inputs, even = inputs / kLanes * kLanes;
  const std::size_t width = (inputs + kLanes - 1) / kLanes * kLanes;
  const V last = some(job.in + even, inputs - even);
  const auto sum = [&](auto& sums, int o) {
    constexpr int count = sizeof(sums) / sizeof(V);
    const float* row = job.weights + o * width;
    for (std::size_t i = 0; i < width; i += kLanes) {
      const V x = i < even ? load(job.in + i) : last;
#pragma GCC unroll 4
      for (int k = 0; k < count; ++k) sums[k] += x * load(row + k * width + i);
    }
    for (int k = 0; k < count; ++k) job.out[o + k] = job.bias[o + k] + total(sums[k]);
  };
  int o = job.first;
  for (; o + 4 <= job.last; o += 4) {
    V four[4] = {};
    sum(four, o);
  }
  for (; o < job.last; ++o) {
    V one[1] = {};
    sum(one, o);
  }
}

void row_steps(float* row, std::size_t count, const Step* steps, int step_count) {
  for (std::size_t i = 0; i < count; i += kLanes) {
    V y = load(row + i);
    for (int s = 0; s < step_count; ++s) y = stepped(y, steps[s], i, i);
    store(row + i, y);
  }
}

void softmax(float* row, std::size_t count) {
  float largest = -std::numeric_limits<float>::infinity();
  for (std::size_t i = 0; i < count; ++i) largest = row[i] > largest ? row[i] : largest;
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i) sum += row[i] = std::exp(row[i] - largest);
  for (std::size_t i = 0; i < count; ++i) row[i] = static_cast<float>(row[i] / sum);
}

void halo(float* plane, const void* given, std::size_t count, const std::int32_t* lanes,
          float outside) {
  const HaloMove* moves = static_cast<const HaloMove*>(given);
  const V other = splat(outside);
  for (std::size_t i = 0; i < count; ++i) {
    const HaloMove& move = moves[i];
    if (move.lanes < 0) {
      store(plane + move.to, other);
      continue;
    }
    const std::int32_t* from = lanes + move.lanes;
#if defined(__AVX512F__)
    const __m512i places = _mm512_loadu_si512(from);
    const __mmask16 there = _mm512_cmpge_epi32_mask(places, _mm512_setzero_si512());
    const __m512 x = _mm512_load_ps(plane + move.from);
    _mm512_store_ps(plane + move.to,
                    _mm512_mask_permutexvar_ps(reinterpret_cast<__m512>(other), there, places, x));
#else
    float made[kLanes];
    for (int l = 0; l < kLanes; ++l) made[l] = from[l] < 0 ? outside : plane[move.from + from[l]];
    std::memcpy(plane + move.to, made, sizeof(made));
#endif
  }
}

}  // namespace
}  // namespace thrifty::engine
