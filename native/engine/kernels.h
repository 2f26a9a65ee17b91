// kernels.h: the arithmetic of the engine, one table of functions for each kind of processor.
//
// All work on layout.h's vectors of 16 lanes.  Planes, rows and steps are distances in floats
// unless a name says bytes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace thrifty::engine {

// What happens to a result before it is stored, in order.  Numbers are those of engine/building.py.
enum class Do : std::int32_t {
  relu, clamp, silu, hardswish, sigmoid, hardsigmoid, tanh, gelu, gelu_tanh, leaky_relu, elu,
  scale, shift, add, mul, blend
};

// `a` and `b` are the numbers of the step; `x` and `h` other values at the same place as the
// result: y + a * x, y * x, and h * y + (1 - y) * x.
struct Step {
  Do what;
  float a, b;
  const float *x, *h;
  std::size_t x_plane, x_row, h_plane, h_row;
};

// A rectangle of a part's vectors for many output channels of a sparse convolution.
struct SparseTile {
  const float* in;             // where a tap (0, 0) of channel 0 meets the tile's first vector
  std::size_t in_row;          // bytes from a row of the tile to the next, stride included
  const std::size_t* blocks;   // where each block of input channels starts, from `in`
  int count;                   // of blocks
  const std::size_t* group_starts;  // bytes to the inputs of each output channel's group, or null
  int channels, first, last;   // output channels: all, and those to do
  const std::int32_t* starts;  // of the weights of channel c in block b: starts[b * channels + c]
  const std::uint16_t* offsets;  // in vectors, from the start of the block
  const float* weights;
  const float* bias;           // one a channel
  float* scratch;              // a tile for every channel, where there are several blocks
  float* out;                  // the tile's first vector in channel 0
  std::size_t out_plane, out_row;
  const float* valid;          // masks of the tile's first vector, or null
  std::size_t valid_row;
  const Step* steps;
  int step_count;
};
using SparseKernel = void (*)(const SparseTile&);

// The same for a dense convolution: blocks of output channels share what is loaded.
struct DenseTile {
  const float* in;
  std::size_t in_row;
  std::size_t in_plane;        // bytes from an input channel to the next
  int inputs, taps;
  const std::uint32_t* offsets;  // of each tap, in bytes
  const float* weights;        // [block of channels][input][tap][channel of the block]
  int channels, first, last;   // `first` is a multiple of the block
  const float* bias;
  float* out;
  std::size_t out_plane, out_row;
  const float* valid;
  std::size_t valid_row;
  const Step* steps;
  int step_count;
};
using DenseKernel = void (*)(const DenseTile&);

// Vectors of a plane, one by one: y = x * scale + shift, then the steps.
struct Plane {
  const float* in;
  std::size_t in_row;
  float* out;
  std::size_t out_row;
  int h, w;
  const float *scale, *shift;  // a vector each
  const float* valid;          // h * w vectors, or null
  const Step* steps;           // at this plane
  int step_count;
};

// Windows over a plane; `h` and `w` are of the result.
struct Window {
  const float* in;             // where the first tap meets the first vector
  std::size_t in_row;          // from a row of the input to the next
  float* out;
  std::size_t out_row;
  int h, w, stride_y, stride_x;
  const std::int32_t* taps;    // offsets in floats
  int tap_count;
  const float* factors;        // h * w vectors: what sums are multiplied with
  const float* valid;
};

// Rows of features: out[o] = bias[o] + sum over weights.
struct SparseRows {
  const float* in;
  const std::uint32_t* starts;
  const std::uint16_t* narrow;  // places in `in`, or
  const std::uint32_t* wide;
  const float* weights;
  const float* bias;
  float* out;
  int first, last;
};
struct DenseRows {
  const float* in;
  const float* weights;         // [output][inputs rounded up to 16]
  const float* bias;
  float* out;
  int inputs, first, last;
};

struct Kernels {
  const char* name;
  int widest;  // vectors of a tile at most
  // Null where there is none: rows * columns is over `widest`, or the stride is neither 1 nor 2
  // and there is more than one column.
  SparseKernel (*sparse)(int rows, int columns, int stride);
  DenseKernel (*dense)(int rows, int columns, int stride, bool even);
  int (*dense_block)(int vectors, bool even);  // output channels done together
  void (*plane)(const Plane&);
  void (*max_window)(const Window&);
  void (*sum_window)(const Window&);
  // Sum, or largest, over the vectors of a plane, in each lane.
  void (*reduce)(const float* in, std::size_t row, int h, int w, const float* valid, bool largest,
                 float* out);
  // out[i] = from[i] < 0 ? rest : in[from[i]]
  void (*gather)(const float* in, const std::int32_t* from, std::size_t count, float rest,
                 float* out);
  void (*sparse_rows)(const SparseRows&);
  void (*dense_rows)(const DenseRows&);
  // Steps on rows of features, 16 at a time.
  void (*row_steps)(float* row, std::size_t count, const Step* steps, int step_count);
  void (*softmax)(float* row, std::size_t count);
  // The halo of a channel; `outside` beyond the image.
  void (*halo)(float* plane, const void* moves, std::size_t count, const std::int32_t* lanes,
               float outside);
};

extern const Kernels kBaselineEngine, kAvx2Engine, kAvx512Engine;

// The table of that name; throws std::invalid_argument if this processor does not run it.
const Kernels& kernels_named(const char* name);

}  // namespace thrifty::engine
