// kernels.cc: the kernels, compiled once for each kind of processor.
#include "kernels.h"

#include <cmath>
#include <limits>
#include <utility>

#include "layout.h"
#include "simple.h"
#include "vec.h"

namespace thrifty::engine {
namespace {

// Vectors that a tile may have: what the registers hold beside a weight and a pixel.
constexpr int kWidest = THRIFTY_ENGINE_TILE;

// Sums of a dense tile, and the vectors of one row of them.
constexpr int kDenseSums = THRIFTY_ENGINE_SUMS, kDenseTile = kDenseSums < 6 ? kDenseSums : 6;

// Steps, masks and the store, for a tile in channel c.
template <int rows, int columns, class Job>
THRIFTY_INLINE void finish(const Job& job, int c, V (&sum)[rows * columns]) {
  for (int s = 0; s < job.step_count; ++s) {
    const Step& step = job.steps[s];
    if (step.what == Do::relu) {
#pragma GCC unroll 16
      for (V& y : sum) y = at_least(y, V{});
    } else if (step.what == Do::add) {
      const float* x = step.x + c * step.x_plane;
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
        for (int i = 0; i < columns; ++i) {
          sum[r * columns + i] += load(x + r * step.x_row + i * kLanes) * step.a;
        }
      }
    } else {
      for (int r = 0; r < rows; ++r) {
        for (int i = 0; i < columns; ++i) {
          V& y = sum[r * columns + i];
          y = stepped(y, step, c * step.x_plane + r * step.x_row + i * kLanes,
                      c * step.h_plane + r * step.h_row + i * kLanes);
        }
      }
    }
  }
  if (job.valid) {
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
      for (int i = 0; i < columns; ++i) {
        sum[r * columns + i] =
            keep(sum[r * columns + i], job.valid + r * job.valid_row + i * kLanes);
      }
    }
  }
  float* out = job.out + c * job.out_plane;
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < columns; ++i) store(out + r * job.out_row + i * kLanes, sum[r * columns + i]);
  }
}

// One weight times the tile that it meets.
template <int rows, int columns, int stride>
THRIFTY_INLINE void accumulate(const char* at, std::size_t in_row, float weight,
                               V (&sum)[rows * columns]) {
  const V w = splat(weight);
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < columns; ++i) {
      sum[r * columns + i] += w * reinterpret_cast<const V*>(at + r * in_row)[i * stride];
    }
  }
}

// A sum waits four cycles or so for itself: small tiles keep several, for as many weights at once.
constexpr int sums_of(int vectors) {
  const int most = kWidest / vectors;
  const int wanted = vectors >= 8 ? 1 : vectors >= 4 ? 2 : vectors >= 2 ? 4 : 8;
  return wanted < most ? wanted : most > 0 ? most : 1;
}

template <int rows, int columns, int stride>
void sparse(const SparseTile& job) {
  constexpr int vectors = rows * columns, sums = sums_of(vectors);
  for (int b = 0; b < job.count; ++b) {
    const char* block = reinterpret_cast<const char*>(job.in + job.blocks[b]);
    const std::int32_t* starts = job.starts + static_cast<std::size_t>(b) * job.channels;
    for (int c = job.first; c < job.last; ++c) {
      const std::uint16_t* at = job.offsets + starts[c];
      const std::uint16_t* end = job.offsets + starts[c + 1];
      if (at == end && b > 0 && b + 1 < job.count) continue;
      const float* weight = job.weights + starts[c];
      const char* in = job.group_starts ? block + job.group_starts[c] : block;
      float* kept = job.scratch + static_cast<std::size_t>(c) * vectors * kLanes;
      V sum[vectors];
      if (b == 0) {
        const V bias = splat(job.bias[c]);
#pragma GCC unroll 16
        for (V& y : sum) y = bias;
      } else {
#pragma GCC unroll 16
        for (int i = 0; i < vectors; ++i) sum[i] = load(kept + i * kLanes);
      }
      if constexpr (sums > 1) {
        if (end - at >= sums) {
          V more[sums - 1][vectors] = {};
          for (; end - at >= sums; at += sums, weight += sums) {
            accumulate<rows, columns, stride>(in + std::size_t{at[0]} * kVector, job.in_row,
                                              weight[0], sum);
#pragma GCC unroll 8
            for (int s = 1; s < sums; ++s) {
              accumulate<rows, columns, stride>(in + std::size_t{at[s]} * kVector, job.in_row,
                                                weight[s], more[s - 1]);
            }
          }
#pragma GCC unroll 8
          for (int s = 1; s < sums; ++s) {
#pragma GCC unroll 16
            for (int i = 0; i < vectors; ++i) sum[i] += more[s - 1][i];
          }
        }
      }
      for (; at < end; ++at, ++weight) {
        accumulate<rows, columns, stride>(in + std::size_t{*at} * kVector, job.in_row, *weight,
                                          sum);
      }
      if (b + 1 == job.count) {
        finish<rows, columns>(job, c, sum);
      } else {
#pragma GCC unroll 16
        for (int i = 0; i < vectors; ++i) store(kept + i * kLanes, sum[i]);
      }
    }
  }
}

// Output channels done together: as many sums as registers hold, or the power of two below, which
// divides what most layers have.
constexpr int block_of(int vectors, bool even) {
  const int most = kDenseSums / (vectors > 0 ? vectors : 1);
  const int block = most > 16 ? 16 : most > 0 ? most : 1;
  int power = 1;
  while (power * 2 <= block) power *= 2;
  return even ? power : block;
}

template <int rows, int columns, int stride, bool even>
void dense(const DenseTile& job) {
  constexpr int vectors = rows * columns, block = block_of(vectors, even);
  const std::size_t panel = static_cast<std::size_t>(job.inputs) * job.taps * block;
  for (int c = job.first; c < job.last; c += block) {
    V sum[block][vectors];
#pragma GCC unroll 16
    for (int o = 0; o < block; ++o) {
      const V bias = splat(c + o < job.channels ? job.bias[c + o] : 0.0f);
#pragma GCC unroll 16
      for (V& y : sum[o]) y = bias;
    }
    const float* weight = job.weights + c / block * panel;
    const char* plane = reinterpret_cast<const char*>(job.in);
    for (int i = 0; i < job.inputs; ++i, plane += job.in_plane) {
      for (int t = 0; t < job.taps; ++t, weight += block) {
        const char* at = plane + job.offsets[t];
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
          for (int k = 0; k < columns; ++k) {
            const V x = reinterpret_cast<const V*>(at + r * job.in_row)[k * stride];
#pragma GCC unroll 16
            for (int o = 0; o < block; ++o) sum[o][r * columns + k] += x * weight[o];
          }
        }
      }
    }
    for (int o = 0; o < block && c + o < job.last; ++o) finish<rows, columns>(job, c + o, sum[o]);
  }
}

// Tables of kernels by rows, columns and stride.
template <int rows, int columns>
SparseKernel sparse_of(int stride) {
  if constexpr (rows * columns <= kWidest) {
    if (stride == 1 || columns == 1) return sparse<rows, columns, 1>;
    if (stride == 2) return sparse<rows, columns, 2>;
  }
  return nullptr;
}

template <int rows, int columns>
DenseKernel dense_of(int stride, bool even) {
  if constexpr (rows * columns <= kDenseTile) {
    if (stride == 1 || columns == 1) {
      return even ? dense<rows, columns, 1, true> : dense<rows, columns, 1, false>;
    }
    if (stride == 2) return even ? dense<rows, columns, 2, true> : dense<rows, columns, 2, false>;
  }
  return nullptr;
}

constexpr int kRows = 8, kColumns = 16;

template <int... place>
SparseKernel sparse_kernel(int wanted, int stride, std::integer_sequence<int, place...>) {
  SparseKernel found = nullptr;
  ((place == wanted ? (found = sparse_of<place / kColumns + 1, place % kColumns + 1>(stride), 0)
                    : 0),
   ...);
  return found;
}

template <int... place>
DenseKernel dense_kernel(int wanted, int stride, bool even, std::integer_sequence<int, place...>) {
  DenseKernel found = nullptr;
  ((place == wanted ? (found = dense_of<place / kColumns + 1, place % kColumns + 1>(stride, even), 0)
                    : 0),
   ...);
  return found;
}

bool in_table(int rows, int columns) {
  return rows >= 1 && rows <= kRows && columns >= 1 && columns <= kColumns;
}

SparseKernel find_sparse(int rows, int columns, int stride) {
  if (!in_table(rows, columns)) return nullptr;
  return sparse_kernel((rows - 1) * kColumns + columns - 1, stride,
                       std::make_integer_sequence<int, kRows * kColumns>{});
}

DenseKernel find_dense(int rows, int columns, int stride, bool even) {
  if (!in_table(rows, columns)) return nullptr;
  return dense_kernel((rows - 1) * kColumns + columns - 1, stride, even,
                      std::make_integer_sequence<int, kRows * kColumns>{});
}

}  // namespace

extern const Kernels THRIFTY_TABLE;
const Kernels THRIFTY_TABLE = {THRIFTY_NAME, kWidest,     find_sparse, find_dense,  block_of,
                               plane_steps,  max_window,  sum_window,  reduce,      gather,
                               sparse_rows,  dense_rows,  row_steps,   softmax,     halo};

}  // namespace thrifty::engine
