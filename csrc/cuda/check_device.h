// It is checked that the kernels of this module can run on the current device.
#pragma once

namespace asose::cuda {

// Throws std::runtime_error where the driver is too old for the kernels, or they were not built for
// the device.
void check_device();

}  // namespace asose::cuda
