// The stages of one depth of a mixed layer: their weights as `separable` takes them, then the
// convolutions; backward, the convolutions, then what their gradients mean for the weights and for
// the norms before.
#pragma once

#include <cstdint>

#include "kernel.h"
#include "separable.h"
#include "stage_weights.h"

namespace asose {

// The convolutions read what is written for the weights.
struct StageForward {
  StageWeightsForward weights;
  SeparableForward convolutions;
};

// `weights` replaces the first of the tables that `convolutions` is given; the rest are copied.
struct StageBackward {
  SeparableBackward convolutions;
  StageWeightsBackward weights;
  int64_t rest_bytes = 0;
};

ASOSE_KERNEL(stage_forward, StageForward);
ASOSE_KERNEL(stage_backward, StageBackward);

}  // namespace asose
