// Gumbel noise that is the same number on every backend: Philox4x32-10 (Salmon et al., SC 2011),
// one counter an element.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define ASOSE_HOST_DEVICE __host__ __device__
#else
#define ASOSE_HOST_DEVICE
#endif

namespace asose {
namespace {

struct PhiloxBlock {
  uint32_t word[4];
};

ASOSE_HOST_DEVICE inline PhiloxBlock philox4x32(PhiloxBlock counter, uint64_t key) {
  uint32_t key0 = static_cast<uint32_t>(key);
  uint32_t key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * counter.word[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * counter.word[2];
    counter = {{static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0,
                static_cast<uint32_t>(product1),
                static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1,
                static_cast<uint32_t>(product0)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// G = -log(E), E = -log(u) an exact exponential draw. u has 52 random bits and lies strictly inside
// (0, 1), so that G is finite without clipping.
ASOSE_HOST_DEVICE inline double gumbel(int64_t seed, int64_t offset, int64_t layer, int64_t op) {
  const uint64_t call = static_cast<uint64_t>(offset);
  const PhiloxBlock random =
      philox4x32({{static_cast<uint32_t>(op), static_cast<uint32_t>(layer),
                   static_cast<uint32_t>(call), static_cast<uint32_t>(call >> 32)}},
                 static_cast<uint64_t>(seed));
  const uint64_t bits = (static_cast<uint64_t>(random.word[0]) << 32 | random.word[1]) >> 12;
  const double u = (static_cast<double>(bits) + 0.5) * 0x1p-52;
  return -log(-log(u));
}

}  // namespace
}  // namespace asose
