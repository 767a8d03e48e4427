// The arguments that the operators over channels have in common.
#pragma once

#include <cstdint>

#include "../lane_grid.h"
#include "arguments.h"

namespace asose {

inline ChannelSpace channel_space(int64_t outer, int64_t channels, int64_t inner) {
  expect_at_least("outer", outer, 0);
  expect_at_least("channels", channels, 1);
  expect_at_least("inner", inner, 1);
  return {outer, channels, inner};
}

}  // namespace asose
