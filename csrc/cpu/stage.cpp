#include "../stage.h"

#include <cstring>

#include "../dtype.h"

namespace asose::cpu::ASOSE_ISA {

void stage_forward(const StageForward& args, int threads) {
  stage_weights_forward(args.weights, threads);
  separable_forward(args.convolutions, threads);
}

void stage_backward(const StageBackward& args, int threads) {
  separable_backward(args.convolutions, threads);
  stage_weights_backward(args.weights, threads);
  if (!args.rest_bytes) return;
  const StageWeightsBackward& weights = args.weights;
  const int64_t first =
      weights.norms.count * 4 * weights.channels * accumulation_bytes(weights.dtype);
  std::memcpy(static_cast<char*>(weights.tables) + first,
              static_cast<const char*>(args.convolutions.tables) + first, args.rest_bytes);
}

}  // namespace asose::cpu::ASOSE_ISA
