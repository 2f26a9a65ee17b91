// census.cc: see census.h. Compiled once for each target: THRIFTY_TABLE names its table of
// kernels, THRIFTY_NAME the target, THRIFTY_WIDTH the bytes of its vectors, which are vector
// extensions of GCC and Clang.
//
// Nothing from the standard library is called here: of a function that several targets share,
// the linker keeps one copy, which may hold instructions that another target must not use.

#include "census.h"

#include "histograms.h"
#include "ranks.h"
#include "sums.h"
#include "sweep.h"
#include "vectors.h"

namespace thrifty {
namespace {

template <Type type>
void tally(const std::uint8_t* data, std::size_t count, const std::uint64_t* limits,
           std::size_t limit_count, std::uint64_t* out, Found* found, double* total,
           double* squares) {
  using Bits = typename Format<type>::Bits;
  using Unsigned = typename Format<type>::Unsigned;
  const PlainFloats plain;
  Sweep<type> sweep;
  sweep.add(1);  // what is under it is zero
  for (std::size_t j = 0; j < limit_count; ++j) sweep.add(limits[j]);
  std::uint64_t over_zero = 0;
  for (std::size_t i = 0; i < count; i += kBlock) {
    const std::uint8_t* const from = data + i * sizeof(Bits);
    const std::size_t now = count - i < kBlock ? count - i : kBlock;
    const std::size_t whole = rounded_up(now);
    auto block = [&](const std::uint8_t* bytes) {
      sweep.largest = Vector<Bits>{};
      sweep.template sweep<true>(bytes, whole);
      const Bits top = sweep.top();
      const bool finite = top < Format<type>::kInfinity;
      if (finite) {
        const auto wide = static_cast<std::uint64_t>(top);
        found->largest = wide > found->largest ? wide : found->largest;
      } else {
        find_special<type>(from, now, found);
      }
      const std::uint8_t* const next = from + now * sizeof(Bits);
      if (total != nullptr) {
        (finite ? sum<type, false> : sum<type, true>)(bytes, whole, next, total, squares);
      }
    };
    if (whole == now) {
      block(from);
    } else {
      block(Padded<type>(from, now, whole).bytes);
    }
    const std::uint64_t over = sweep.over(0);
    const std::uint64_t zeros = now - (over - over_zero);
    over_zero = over;
    found->zeros += zeros;
    if (zeros > 0) {
      constexpr auto sign = static_cast<Unsigned>(~Format<type>::kMagnitude);
      found->negative_zeros += count_pattern<type>(from, now, sign);
    }
  }
  for (std::size_t j = 0; j < limit_count; ++j) {
    if (limits[j] > 0) out[j] += count - sweep.over(j + 1);
  }
}

}  // namespace

const Kernels THRIFTY_TABLE = {
    THRIFTY_NAME,
    {below<Type::f64>, below<Type::f32>, below<Type::f16>, below<Type::bf16>},
    {tally<Type::f64>, tally<Type::f32>, tally<Type::f16>, tally<Type::bf16>},
    {octaves<Type::f64>, octaves<Type::f32>, octaves<Type::f16>, octaves<Type::bf16>},
    patterns,
    {digits<Order::magnitude>, digits<Order::value>, digits<Order::keys>},
    {gather<Order::magnitude>, gather<Order::value>, gather<Order::keys>},
};

}  // namespace thrifty
