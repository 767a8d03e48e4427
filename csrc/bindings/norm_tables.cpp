#include "../norm_tables.h"

#include <cstdint>
#include <vector>

#include "arguments.h"
#include "device.h"
#include "module.h"

namespace asose {
namespace {

// Of each norm, integers: whether it is of the batch, dtype, addresses of mean, var and count, and
// of mean and var of the batch; and numbers: eps, momentum.
void norm_tables(int dtype, int norms, int64_t channels, const Integers& integers,
                 const std::vector<double>& numbers, double unbiased, uintptr_t out_mean,
                 uintptr_t rstd, device::Execution execution) {
  constexpr int kIntegers = 7, kNumbers = 2;
  expect_at_least("norms", norms, 1);
  expect_at_least("channels", channels, 1);
  expect_count("integers", integers.size(), int64_t{kIntegers} * norms);
  expect_count("numbers", numbers.size(), int64_t{kNumbers} * norms);
  std::vector<RunningNorm> all;
  all.reserve(norms);
  for (int k = 0; k < norms; ++k) {
    const int64_t* of = integers.data() + kIntegers * k;
    const double* number = numbers.data() + kNumbers * k;
    all.push_back({number[0], of[0] != 0, static_cast<DType>(of[1]),
                   address(static_cast<uintptr_t>(of[2])), address(static_cast<uintptr_t>(of[3])),
                   address<int64_t>(static_cast<uintptr_t>(of[4])), number[1],
                   address<double>(static_cast<uintptr_t>(of[5])),
                   address<double>(static_cast<uintptr_t>(of[6]))});
  }
  device::run(device::norm_tables,
              {static_cast<DType>(dtype), norms, channels, all.data(), unbiased,
               address<double>(out_mean), address<double>(rstd)},
              execution);
}

const Binding norm_tables_binding([](py::module_& module) {
  define_kernel(module, "norm_tables", &norm_tables);
});

}  // namespace
}  // namespace asose
