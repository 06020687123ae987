// Shape, Device, Tensor, storage, threads and execution.
#include <atomic>
#include <stdexcept>
#include <thread>

#include "core/execution.h"
#include "core/tensor.h"
#include "harness.h"
#include "tensors.h"

namespace df::test {
namespace {

constexpr ErrorCode kInvalid = ErrorCode::InvalidArgument;

const Registration tensors([](Suite& suite) {
  suite.add("shape", [] {
    const Shape s{2, 3, 4};
    CHECK(s.rank() == 3 && s.numel() == 24 && s.rows() == 6 && s[-1] == 4 && s[0] == 2 && s.str() == "(2, 3, 4)");
    CHECK(s == (Shape{2, 3, 4}) && s != (Shape{2, 3}) && s != (Shape{2, 3, 5}));
    CHECK(Shape{}.numel() == 1 && Shape{5}.str() == "(5,)" && (Shape{3, 0}).numel() == 0);
    expect_error(kInvalid, "at most 5", [] { Shape{1, 1, 1, 1, 1, 1}; });
    expect_error(kInvalid, "negative", [] { Shape{2, -1}; });
  });
  suite.add("device names", [] {
    CHECK(Device::parse("cpu") == kCpu && Device::parse("meta") == kMeta &&
          Device::parse("cpu:1") == (Device{DeviceType::Cpu, 1}));
    CHECK(Device::parse("cuda:3") == (Device{DeviceType::Cuda, 3}) && Device::parse("cuda:3").str() == "cuda:3");
    for (const char* bad : {"", "gpu", "cpu:", "cpu:x", "cuda:-1", "cpu:1x"})
      expect_error(kInvalid, bad, [=] { Device::parse(bad); });
  });
  suite.add("tensor views", [] {
    Tensor t =
        tensor_of({2, 3, 4}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23});
    CHECK(t.contiguous() && t.rows() == 6 && t.row_stride() == 4 && t.bytes() == 96);
    const Tensor columns = t.slice_last(1, 2);
    CHECK(!columns.contiguous() && columns.row_stride() == 4 && columns.shape() == (Shape{2, 3, 2}));
    CHECK(columns.data<float>()[0] == 1 && columns.data<float>()[5 * 4 + 1] == 22);
    const Tensor item = columns.slice_first(1, 1);
    CHECK(item.shape() == (Shape{1, 3, 2}) && item.data<float>()[0] == 13 && item.row_stride() == 4);
    const Tensor flat = columns.reshape({6, 2});  // keeps the last dimension
    CHECK(flat.row_stride() == 4 && flat.data<float>()[4] == 5);
    CHECK(t.reshape({24}).data<float>()[23] == 23 && t.reshape({4, 6}).row_stride() == 6);
    CHECK(t.slice_last(4, 0).numel() == 0 && t.slice_first(2, 0).numel() == 0);
    t.data<float>()[1] = 100;  // a view shares the memory
    CHECK(columns.data<float>()[0] == 100);
  });
  suite.add("tensor refusals", [] {
    const Tensor t = tensor_of({2, 3}, {0, 1, 2, 3, 4, 5});
    expect_error(kInvalid, "reshape", [=] { t.reshape({4}); });
    expect_error(kInvalid, "reshape", [=] { t.slice_last(0, 2).reshape({4}); });
    expect_error(kInvalid, "slice_last", [=] { t.slice_last(2, 2); });
    expect_error(kInvalid, "slice_last", [=] { t.slice_last(-1, 2); });
    expect_error(kInvalid, "slice_first", [=] { t.slice_first(1, 2); });
    expect_error(kInvalid, "slice_first", [] { tensor_of({2}, {0, 1}).slice_first(0, 1); });
    expect_error(kInvalid, "does not fit", [] { Tensor::from_storage(allocate(kCpu, 64), 4, {16}, DType::F32); });
    expect_error(ErrorCode::Internal, "f32 data read as bf16", [=] { t.data<BFloat16>(); });
  });
  suite.add("tensor zeros and undefined", [] {
    const Tensor z = Tensor::zeros({3, 5}, DType::BF16, kCpu);
    for (int i = 0; i < 15; i++) CHECK(z.data<BFloat16>()[i].bits == 0);
    CHECK(!Tensor().defined() && Tensor().raw() == nullptr);
    const Tensor m = Tensor::zeros({3, 5}, DType::F32, kMeta);
    CHECK(m.defined() && m.raw() == nullptr && m.device() == kMeta && m.bytes() == 60);
  });
});

const Registration storages([](Suite& suite) {
  suite.add("storage reuse and statistics", [] {
    const Device device{DeviceType::Cpu, 7};  // no other case uses it
    release_cached(device);
    reset_peak(device);
    void* first;
    {
      const auto s = allocate(device, 1000);
      first = s->data;
      CHECK(s->bytes >= 1000 && reinterpret_cast<uintptr_t>(first) % 64 == 0);
      CHECK(memory_stats(device).current == s->bytes && memory_stats(device).peak == s->bytes);
    }
    CHECK(memory_stats(device).current == 0 && memory_stats(device).cached >= 1000);
    const auto again = allocate(device, 990);  // of nearly the same size: the same block
    CHECK(again->data == first && memory_stats(device).cached == 0);
    const size_t peak = memory_stats(device).peak;
    {
      const auto large = allocate(device, size_t(3) << 20);
      CHECK(reinterpret_cast<uintptr_t>(large->data) % 4096 == 0);
      CHECK(memory_stats(device).peak == peak + large->bytes);
    }
    release_cached(device);
    CHECK(memory_stats(device).cached == 0);
    reset_peak(device);
    CHECK(memory_stats(device).peak == memory_stats(device).current);
  });
  suite.add("storage borrowed memory keeps its owner", [] {
    auto owner = std::make_shared<std::vector<float>>(4, 2.5f);
    const std::weak_ptr<std::vector<float>> alive = owner;
    void* const data = owner->data();
    Tensor t = Tensor::from_storage(borrow(kCpu, data, 16, std::move(owner)), 0, {4}, DType::F32).slice_last(1, 2);
    CHECK(!alive.expired() && t.data<float>()[1] == 2.5f);
    t = Tensor();
    CHECK(alive.expired());
  });
  suite.add("storage meta counts bytes without memory", [] {
    const size_t before = memory_stats(kMeta).current;
    const Tensor t = Tensor::empty({1 << 20, 1 << 20}, DType::F32, kMeta);  // 4 TiB
    CHECK(memory_stats(kMeta).current == before + (size_t(1) << 42) && t.raw() == nullptr);
  });
  suite.add("storage refuses what the machine cannot give", [] {
    expect_error(ErrorCode::OutOfMemory, "MB", [] { allocate(kCpu, size_t(1) << 50); });
    expect_error(ErrorCode::NotBuilt, "cuda:63 cannot be used: ", [] { allocate({DeviceType::Cuda, 63}, 16); });
  });
});

const Registration threads([](Suite& suite) {
  for (int threads : {1, 2, 3, 5}) {
    suite.add(format("thread pool runs every item once, threads=%d", threads), [=] {
      ThreadPool pool(threads);
      CHECK(pool.threads() == threads);
      for (int64_t items : {0, 1, 2, 7, 1000, 100000}) {
        std::vector<std::atomic<int>> seen(static_cast<size_t>(items));
        std::atomic<bool> valid{true};
        pool.run(items, [&](int64_t item, int thread) {
          seen[size_t(item)]++;
          if (thread < 0 || thread >= threads) valid = false;
        });
        CHECK(valid.load());
        for (const auto& s : seen) CHECK(s.load() == 1);
      }
      int64_t total = 0;  // many short jobs: no wake-up may be lost
      for (int job = 0; job < 5000; job++) {
        std::atomic<int64_t> sum{0};
        pool.run(3, [&](int64_t item, int) { sum += item; });
        total += sum;
      }
      CHECK(total == 15000);
    });
    suite.add(format("thread pool rethrows and stays usable, threads=%d", threads), [=] {
      ThreadPool pool(threads);
      for (int round = 0; round < 50; round++) {
        bool thrown = false;
        try {
          pool.run(20, [&](int64_t item, int) { if (item % 7 == 3) throw std::runtime_error("item"); });
        } catch (const std::runtime_error& e) {
          thrown = std::string(e.what()) == "item";
        }
        CHECK(thrown);
        std::atomic<int> count{0};
        pool.run(20, [&](int64_t, int) { count++; });
        CHECK(count == 20);
      }
    });
  }
  suite.add("parallel_ranges covers the range in pieces of the grain", [] {
    ThreadPool pool(2);
    Execution execution;
    execution.pool = &pool;
    ExecutionScope scope(execution);
    CHECK(parallel_threads() == 2);
    for (int64_t n : {0, 1, 9, 10, 11, 95}) {
      std::vector<std::atomic<int>> seen(static_cast<size_t>(n));
      std::atomic<bool> valid{true};
      parallel_ranges(n, 10, [&](int64_t begin, int64_t end) {
        if (begin % 10 != 0 || end > n || end - begin > 10) valid = false;
        for (int64_t i = begin; i < end; i++) seen[size_t(i)]++;
      });
      CHECK(valid.load());
      for (const auto& s : seen) CHECK(s.load() == 1);
    }
  });
  suite.add("execution: cancellation, work and nesting", [] {
    std::atomic<bool> cancelled{false};
    WorkCounter work;
    Execution outer;
    outer.cancelled = &cancelled;
    outer.work = &work;
    {
      ExecutionScope scope(outer);
      CHECK(&Execution::current() == &outer);
      begin_op(5);
      begin_op(7);
      CHECK(work.flops == 12);
      {
        Execution inner;
        ExecutionScope nested(inner);
        CHECK(&Execution::current() == &inner && parallel_threads() == 1);
        begin_op(100);
      }
      CHECK(&Execution::current() == &outer && work.flops == 12);
      cancelled = true;
      expect_error(ErrorCode::Cancelled, "cancelled", [] { begin_op(1); });
      CHECK(work.flops == 12);
      std::thread([&] { begin_op(1); }).join();  // scopes belong to their thread
    }
    begin_op(1);  // no scope: nothing to cancel
  });
});

}  // namespace
}  // namespace df::test
