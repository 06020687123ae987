#include "cpu/scratch.h"

#include <cstdlib>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "core/error.h"

namespace df {
namespace {

constexpr size_t kHuge = size_t(2) << 20;  // a huge page
constexpr int kPurposes = int(Scratch::Transformed) + 1;

struct Buffers {
  void* data[kPurposes] = {};
  size_t size[kPurposes] = {};
  ~Buffers() {
    for (void* p : data) free(p);
  }
};
thread_local Buffers buffers;

}  // namespace

void* scratch(Scratch purpose, size_t bytes) {
  const int i = int(purpose);
  if (buffers.size[i] < bytes) {
    free(buffers.data[i]);
    buffers.data[i] = nullptr;
    buffers.size[i] = 0;
    const size_t alignment = bytes >= kHuge ? kHuge : 4096, size = (bytes + alignment - 1) / alignment * alignment;
    if (posix_memalign(&buffers.data[i], alignment, size) != 0) {
      buffers.data[i] = nullptr;
      fail(ErrorCode::OutOfMemory, "cpu: cannot allocate %.1f MB of scratch memory", double(size) / 1e6);
    }
#if defined(__linux__)
    if (size >= kHuge) madvise(buffers.data[i], size, MADV_HUGEPAGE);
#endif
    buffers.size[i] = size;
  }
  return buffers.data[i];
}

}  // namespace df
