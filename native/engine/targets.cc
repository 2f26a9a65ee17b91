#include <stdexcept>
#include <string>

#include "kernels.h"

namespace thrifty::engine {

const Kernels& kernels_named(const char* name) {
  const std::string wanted = name;
#if defined(__x86_64__) && !defined(THRIFTY_BASELINE_ONLY)  // a test has no others
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (wanted == "avx512" && avx2 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return kAvx512Engine;
  }
  if (wanted == "avx2" && avx2) return kAvx2Engine;
#endif
  if (wanted == "baseline") return kBaselineEngine;
  throw std::invalid_argument("no kernels for the target " + wanted + " run on this processor");
}

}  // namespace thrifty::engine
