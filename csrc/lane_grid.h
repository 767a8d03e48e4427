// Per-channel work on dense tensors is cut, alike for channels_last and for NCHW, into runs of rows
// whose lanes (the elements of a row) keep their channels from one row to the next.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

namespace asose {

// Memory is (outer, channels, inner); inner is 1 in channels_last, height * width in NCHW.
struct ChannelSpace {
  int64_t outer, channels, inner;
};

constexpr int64_t kMaxLanes = 512;
constexpr int64_t kBlockElements = 4096;  // of a run that is kept in the L1 cache
constexpr int64_t kSumRows = 64;          // of a run that is summed up, few enough for float32

// These are in an unnamed namespace, so that every instruction set has its own copy.
namespace {

// Row r starts at offset + r * pitch; its lane i belongs to channel first + i / width % channels.
// The number of lanes is a multiple of channels * width.
struct LaneRun {
  int64_t offset, rows, pitch, lanes, first, channels, width;
  int64_t group;
};

// The cut depends on the shape alone, never on the thread count, so that sums do not either. The
// runs of one group hold every channel exactly once.
class LaneGrid {
 public:
  // Runs have at most `sum_rows` rows or, where that is 0, at most kBlockElements elements.
  LaneGrid(const ChannelSpace& space, int64_t sum_rows) : space_(space) {
    const int64_t image = space.channels * space.inner;
    if (space.inner > kMaxLanes) {
      // A row is a piece of one channel of one image.
      lanes_ = pitch_ = kPlaneLanes;
      length_ = space.inner;
      parts_ = space.channels;
      part_stride_ = space.inner;
      sheets_ = space.outer;
      sheet_stride_ = image;
    } else {
      // A row is some or all channels of an image (a pixel in channels_last), or several images.
      const int64_t channels = std::min(space.channels, kMaxLanes / space.inner);
      lanes_ = channels < space.channels ? channels * space.inner : lanes_of_images(image);
      pitch_ = std::max(lanes_, image);
      length_ = space.outer * image;
      parts_ = (image + lanes_ - 1) / lanes_;
      part_stride_ = lanes_;
      sheets_ = 1;
      sheet_stride_ = 0;
    }
    rows_ = sum_rows ? sum_rows : kBlockElements / lanes_;
    whole_ = (length_ / pitch_ + rows_ - 1) / rows_;
    pieces_ = whole_ + (length_ % pitch_ != 0);
  }

  int64_t groups() const { return sheets_ * pieces_; }
  int64_t runs() const { return groups() * parts_; }

  LaneRun run(int64_t index) const {
    const int64_t group = index / parts_, part = index % parts_;
    const int64_t sheet = group / pieces_, piece = group % pieces_;
    const int64_t first_row = std::min(piece * rows_, length_ / pitch_);
    LaneRun run;
    run.group = group;
    run.pitch = pitch_;
    run.offset = sheet * sheet_stride_ + part * part_stride_ + first_row * pitch_;
    run.rows = piece < whole_ ? std::min(rows_, length_ / pitch_ - first_row) : 1;
    run.lanes = piece < whole_ ? lanes_ : length_ % pitch_;  // else what is left of the last row
    if (space_.inner > kMaxLanes) {
      run.first = part;
      run.channels = run.width = 1;
    } else {
      run.first = part * part_stride_ / space_.inner;
      if (parts_ > 1) run.lanes = std::min(run.lanes, pitch_ - part * part_stride_);
      run.channels = std::min(space_.channels, run.lanes / space_.inner);
      run.width = space_.inner;
    }
    return run;
  }

 private:
  static constexpr int64_t kPlaneLanes = 128;

  // It takes enough images for whole vectors and a loop worth starting, or one large image.
  static int64_t lanes_of_images(int64_t image) {
    constexpr int64_t vector = 16, enough = 128;
    const int64_t lanes = std::lcm(image, vector);
    if (lanes <= kMaxLanes) return lanes * std::max<int64_t>(enough / lanes, 1);
    return kMaxLanes / image * image;
  }

  ChannelSpace space_;
  int64_t lanes_, pitch_, length_, rows_, whole_, pieces_;
  int64_t parts_, part_stride_, sheets_, sheet_stride_;
};

}  // namespace
}  // namespace asose
