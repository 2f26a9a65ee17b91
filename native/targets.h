// targets.h: which tables of kernels run on this processor.

#pragma once

#include <string_view>
#include <vector>

#include "census.h"

namespace thrifty {

// The targets that this processor runs, the fastest first; the last is "baseline".
std::vector<const Kernels*> available();

// The target of that name; throws std::invalid_argument if it is not available.
const Kernels& kernels(std::string_view name);

}  // namespace thrifty
