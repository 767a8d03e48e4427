#include "../stage.h"

namespace asose::cpu::ASOSE_ISA {

void stage_forward(const StageForward& args, int threads) {
  stage_weights_forward(args.weights, threads);
  separable_forward(args.convolutions, threads);
}

void stage_backward(const StageBackward& args, int threads) {
  separable_backward(args.convolutions, threads);
  stage_weights_backward(args.weights, threads);
}

}  // namespace asose::cpu::ASOSE_ISA
