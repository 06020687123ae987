// The antialiased resize: Pillow's bytes, and what must hold for every size.
#include <algorithm>
#include <cstring>

#include "golden.h"
#include "harness.h"
#include "io/resize.h"
#include "tensors.h"

namespace df::test {
namespace {

constexpr ResizeFilter kFilters[] = {ResizeFilter::Box, ResizeFilter::Bilinear, ResizeFilter::Bicubic, ResizeFilter::Lanczos};

std::vector<uint8_t> resized(const std::vector<uint8_t>& from, int64_t width, int64_t height, int64_t channels,
                             int64_t new_width, int64_t new_height, ResizeFilter filter) {
  std::vector<uint8_t> to(size_t(new_width * new_height * channels + 16), 0xa5);
  resize_pixels(from.data(), width, height, channels, to.data(), new_width, new_height, filter);
  for (size_t i = to.size() - 16; i < to.size(); i++) CHECK(to[i] == 0xa5);  // nothing behind the picture is touched
  to.resize(to.size() - 16);
  return to;
}

std::vector<uint8_t> noise(Random& random, size_t n) {
  std::vector<uint8_t> bytes(n);
  for (uint8_t& b : bytes) b = uint8_t(random.bits());
  return bytes;
}

void against_pillow(const std::string& name, ResizeFilter filter) {
  const auto file = golden("resize/pillow");
  const Tensor input = file->tensor("input.u8");  // (H, W, 3)
  const uint8_t* pixels = static_cast<const uint8_t*>(input.raw());
  const std::vector<uint8_t> from(pixels, pixels + input.numel());
  for (const auto& [width, height] : {std::pair<int, int>{64, 48}, {131, 97}, {200, 150}, {17, 97}}) {
    const Tensor want = file->tensor(format("%s.%dx%d.u8", name.c_str(), width, height));
    CHECK(want.dim(0) == height && want.dim(1) == width && want.dim(2) == 3);
    const auto got = resized(from, input.dim(1), input.dim(0), 3, width, height, filter);
    if (std::memcmp(got.data(), want.raw(), got.size()) != 0)
      fail_case("%s to %d × %d: other bytes than Pillow's", name.c_str(), width, height);
  }
}

const Registration resize([](Suite& suite) {
  suite.add("resize bilinear equals Pillow", [] { against_pillow("bilinear", ResizeFilter::Bilinear); });
  suite.add("resize bicubic equals Pillow", [] { against_pillow("bicubic", ResizeFilter::Bicubic); });
  suite.add("resize lanczos equals Pillow", [] { against_pillow("lanczos", ResizeFilter::Lanczos); });

  suite.add("resize box averages blocks", [] {
    Random random("resize box averages blocks");
    const auto from = noise(random, 12 * 8 * 3);
    const auto got = resized(from, 12, 8, 3, 4, 4, ResizeFilter::Box);
    for (int y = 0; y < 4; y++)
      for (int x = 0; x < 4; x++)
        for (int c = 0; c < 3; c++) {
          double sum = 0;
          for (int v = 0; v < 2; v++)
            for (int u = 0; u < 3; u++) sum += from[size_t(((2 * y + v) * 12 + 3 * x + u) * 3 + c)];
          CHECK(std::abs(got[size_t((y * 4 + x) * 3 + c)] - sum / 6) <= 1);  // two roundings of at most 1/2
        }
  });

  // Coefficients that do not sum to one, or are not numbers, would show.
  suite.add("resize keeps a plain colour, for every size", [] {
    Random random("resize keeps a plain colour");
    for (int i = 0; i < 4000; i++) {
      const auto side = [&] { return int64_t(1 + random.bits() % (i % 8 == 0 ? 700 : 40)); };
      const int64_t width = side(), height = side(), new_width = side(), new_height = side();
      const uint8_t value = i % 2 ? uint8_t(random.bits()) : 255;
      for (const ResizeFilter filter : kFilters) {
        const auto got = resized(std::vector<uint8_t>(size_t(width * height), value), width, height, 1, new_width, new_height, filter);
        if (!std::all_of(got.begin(), got.end(), [&](uint8_t b) { return b == value; }))
          fail_case("%lld × %lld to %lld × %lld, filter %d", (long long)width, (long long)height, (long long)new_width,
                    (long long)new_height, int(filter));
      }
    }
  });

  suite.add("resize treats channels apart", [] {
    Random random("resize treats channels apart");
    for (const ResizeFilter filter : kFilters)
      for (int64_t channels = 1; channels <= 4; channels++) {
        const auto from = noise(random, size_t(23 * 19 * channels));
        const auto all = resized(from, 23, 19, channels, 9, 31, filter);
        for (int64_t c = 0; c < channels; c++) {
          std::vector<uint8_t> plane(23 * 19);
          for (size_t i = 0; i < plane.size(); i++) plane[i] = from[i * size_t(channels) + size_t(c)];
          const auto one = resized(plane, 23, 19, 1, 9, 31, filter);
          for (size_t i = 0; i < one.size(); i++) CHECK(one[i] == all[i * size_t(channels) + size_t(c)]);
        }
      }
  });

  suite.add("resize of the extremes", [] {
    for (const ResizeFilter filter : kFilters) {
      std::vector<uint8_t> line(size_t(kLongestSide), 7);
      CHECK(resized(line, kLongestSide, 1, 1, 1, 1, filter)[0] == 7);
      CHECK(resized(line, 1, kLongestSide, 1, 1, 1, filter)[0] == 7);
      const auto wide = resized({9}, 1, 1, 1, kLongestSide, 1, filter);
      CHECK(std::all_of(wide.begin(), wide.end(), [](uint8_t b) { return b == 9; }));
      // a step overshoots on both sides: clamped, not wrapped
      std::vector<uint8_t> step(64, 0);
      std::fill(step.begin() + 32, step.end(), 255);
      const auto big = resized(step, 64, 1, 1, 256, 1, filter);
      CHECK(std::all_of(big.begin(), big.begin() + 124, [](uint8_t v) { return v < 64; }));
      CHECK(std::all_of(big.begin() + 132, big.end(), [](uint8_t v) { return v > 191; }));
    }
  });

  suite.add("resize refuses", [] {
    uint8_t pixel[4] = {};
    for (const int64_t side : {int64_t(0), int64_t(-1), kLongestSide + 1}) {
      const auto with = [&](int64_t w, int64_t h, int64_t nw, int64_t nh) {
        expect_error(ErrorCode::InvalidArgument, "resize: sides must be 1 to 1048576 pixels, got " + std::to_string(side),
                     [&] { resize_pixels(pixel, w, h, 1, pixel, nw, nh, ResizeFilter::Box); });
      };
      with(side, 1, 1, 1);
      with(1, side, 1, 1);
      with(1, 1, side, 1);
      with(1, 1, 1, side);
    }
    for (const int64_t channels : {0, 5})
      expect_error(ErrorCode::InvalidArgument, "resize: channels must be 1 to 4",
                   [&] { resize_pixels(pixel, 1, 1, channels, pixel, 1, 1, ResizeFilter::Box); });
  });
});

}  // namespace
}  // namespace df::test
