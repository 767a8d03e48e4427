// How per-channel work on dense tensors is cut, alike for channels_last and for NCHW: into runs of
// rows whose lanes (the elements of a row) keep their channels from one row to the next.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

namespace asose {

// Memory as (outer, channels, inner): inner is 1 in channels_last, height * width in NCHW.
struct ChannelSpace {
  int64_t outer, channels, inner;
};

constexpr int64_t kMaxLanes = 512;
constexpr int64_t kBlockElements = 4096;  // of a run that is kept in the L1 cache
constexpr int64_t kSumRows = 64;          // of a run that is summed up, few enough for float32

// Unnamed: every instruction set has its own copy.
namespace {

// Row r starts at offset + r * pitch; its lane i belongs to channel first + i % channels. The
// number of lanes is a multiple of channels.
struct LaneRun {
  int64_t offset, rows, pitch, lanes, first, channels;
  int64_t group;
};

// The cut depends on the shape alone, never on the thread count, so that sums do not either. The
// runs of one group hold every channel exactly once.
class LaneGrid {
 public:
  // Runs of at most `sum_rows` rows or, where that is 0, of at most kBlockElements elements.
  LaneGrid(const ChannelSpace& space, int64_t sum_rows)
      : channels_(space.channels), planes_(space.inner > 1), plane_(space.channels * space.inner) {
    length_ = planes_ ? space.inner : space.outer * channels_;
    lanes_ = planes_ ? std::min(space.inner, kPlaneLanes) : std::min(lanes_of_pixels(), kMaxLanes);
    pitch_ = planes_ ? lanes_ : std::max(lanes_, channels_);
    parts_ = planes_ ? channels_ : (pitch_ + lanes_ - 1) / lanes_;
    part_stride_ = planes_ ? space.inner : lanes_;
    rows_ = sum_rows ? sum_rows : kBlockElements / lanes_;
    whole_ = (length_ / pitch_ + rows_ - 1) / rows_;
    pieces_ = whole_ + (length_ % pitch_ != 0);
    groups_ = planes_ ? space.outer * pieces_ : pieces_;
  }

  int64_t groups() const { return groups_; }
  int64_t runs() const { return groups_ * parts_; }

  LaneRun run(int64_t index) const {
    const int64_t group = index / parts_, part = index % parts_;
    const int64_t image = group / pieces_, piece = group % pieces_;
    LaneRun run;
    run.group = group;
    run.pitch = pitch_;
    run.offset = image * plane_ + part * part_stride_ + piece * rows_ * pitch_;
    if (piece < whole_) {
      run.rows = std::min(rows_, length_ / pitch_ - piece * rows_);
      run.lanes = lanes_;
    } else {  // what is left of the last row
      run.offset = image * plane_ + part * part_stride_ + length_ / pitch_ * pitch_;
      run.rows = 1;
      run.lanes = length_ % pitch_;
    }
    run.first = planes_ ? part : part * lanes_;
    if (!planes_ && parts_ > 1) run.lanes = std::min(run.lanes, channels_ - run.first);
    run.channels = planes_ ? 1 : std::min(channels_, run.lanes);
    return run;
  }

 private:
  static constexpr int64_t kPlaneLanes = 128;

  // Enough pixels for whole vectors and a loop worth starting; a single one where channels are
  // many.
  int64_t lanes_of_pixels() const {
    constexpr int64_t vector = 16, enough = 128;
    const int64_t pixels = vector / std::gcd(vector, std::max<int64_t>(channels_, 1));
    const int64_t lanes = std::max<int64_t>(channels_ * pixels, 1);
    if (lanes <= kMaxLanes) return lanes * std::max<int64_t>(enough / lanes, 1);
    return std::max<int64_t>(kMaxLanes / channels_, 1) * channels_;
  }

  int64_t channels_;
  bool planes_;
  int64_t plane_, length_, lanes_, pitch_, parts_, part_stride_, rows_, whole_, pieces_, groups_;
};

}  // namespace
}  // namespace asose
