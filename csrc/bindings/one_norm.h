// The batch norm of an operator that has one (asose_fast/ops/native/one_norm.py).
#pragma once

#include <cstdint>

#include "../norm_tables.h"
#include "tables.h"

namespace asose {

// The addresses are those of the running mean, variance and count, gamma and beta; the dtypes are
// those of the running statistics, gamma and beta.
struct GivenNorm {
  RunningNorm running;  // but for the statistics of the batch
  WideTable gamma, beta;

  GivenNorm(const Addresses& tables, const Integers& dtypes, bool of_batch, double eps,
            double momentum, int64_t channels)
      : running(running_of(tables, dtypes, of_batch, eps, momentum)),
        gamma(tables[3], dtypes[1], channels),
        beta(tables[4], dtypes[2], channels) {}

 private:
  static RunningNorm running_of(const Addresses& tables, const Integers& dtypes, bool of_batch,
                                double eps, double momentum) {
    expect_count("tables", tables.size(), 5);
    expect_count("dtypes", dtypes.size(), 3);
    return {eps,
            of_batch,
            static_cast<DType>(dtypes[0]),
            address(tables[0]),
            address(tables[1]),
            address<int64_t>(tables[2]),
            momentum,
            nullptr,
            nullptr};
  }
};

// The addresses are those of gamma, beta and their gradients; the dtypes are those of gamma and
// beta.
struct GivenAffine {
  WideTable gamma, beta;
  ResultTable grad_gamma, grad_beta;

  GivenAffine(const Addresses& tables, const Integers& dtypes, int64_t channels)
      : gamma(counted(tables, dtypes)[0], dtypes[0], channels),
        beta(tables[1], dtypes[1], channels),
        grad_gamma(tables[2], dtypes[0], channels),
        grad_beta(tables[3], dtypes[1], channels) {}

 private:
  static const Addresses& counted(const Addresses& tables, const Integers& dtypes) {
    expect_count("tables", tables.size(), 4);
    expect_count("dtypes", dtypes.size(), 2);
    return tables;
  }
};

}  // namespace asose
