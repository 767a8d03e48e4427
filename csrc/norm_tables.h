// What batch norms normalise by, and their running statistics after a batch.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "kernel.h"

namespace asose {

struct RunningNorm {
  double eps;
  bool of_batch;             // it normalises by the statistics of the batch
  DType dtype;               // of its running statistics
  void* mean;                // [channels]; may be null where it normalises by those of the batch
  void* var;                 // [channels]
  int64_t* count;            // batches seen; null: nothing is updated
  double momentum;           // the share of a batch; NaN: all batches have the same
  const double* batch_mean;  // [channels], of the batch; read where they are used
  const double* batch_var;   // biased
};

struct NormTables {
  DType dtype;  // in which the statistics of the batch count for the running ones: f32 or f64
  int norms;
  int64_t channels;
  const RunningNorm* norm;  // [norms], updated in this order
  double unbiased;          // what var is multiplied by for the running statistics
  double* out_mean;         // [norms, channels]
  double* rstd;             // [norms, channels]: 1 / sqrt(var + eps)
};

ASOSE_KERNEL(norm_tables, NormTables);

}  // namespace asose
