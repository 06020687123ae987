#include "core/execution.h"
#include "ops/backend.h"
#include "ops/check.h"
#include "ops/ops.h"
#include "ops/recording.h"

namespace df::ops {

void check_ids(const Tensor& ids, int64_t vocabulary) {
  check_tensor("embedding", "ids", ids, 0, {DType::I32});
  const int64_t columns = ids.dim(-1);
  for (int64_t i = 0; ids.device().type == DeviceType::Cpu && i < ids.numel(); i++) {
    const int32_t id = ids.data<int32_t>()[i / columns * ids.row_stride() + i % columns];
    DF_CHECK(id >= 0 && id < vocabulary, "embedding: ids must be in [0, %lld), got %d at position %lld", ll(vocabulary),
             id, ll(i));
  }
}

Tensor embedding(const Tensor& ids, const Tensor& table) {
  check_tensor("embedding", "ids", ids, 0, {DType::I32});
  check_activations("embedding", "table", table, 2);
  DF_CHECK(table.device() == ids.device(), "embedding: table must be on %s, got %s", ids.device().str().c_str(),
           table.device().str().c_str());
  check_ids(ids, table.dim(0));
  begin_op();
  Shape shape = ids.shape();
  shape.push_back(table.dim(1));
  Tensor y = Tensor::empty(shape, table.dtype(), table.device());
  backend_for(ids.device()).embedding(y, ids, table);
  if (Tape* tape = recorder({&table}))
    tape->record(y, [ids, table](Tape& t, const Tensor& dy) {
      begin_op();
      Tensor dtable = t.parameter_gradient(table);
      backend_for(ids.device()).embedding_backward(dtable, dy, ids);
    });
  return y;
}

Tensor timestep_embedding(const Tensor& t, int64_t dim, bool flip_sin_to_cos, float freq_shift) {
  check_tensor("timestep_embedding", "t", t, 1, {DType::F32});
  refuse_gradient("timestep_embedding", t);
  DF_CHECK(dim >= 2, "timestep_embedding: dim must be at least 2, got %lld", ll(dim));
  DF_CHECK(freq_shift < float(dim / 2), "timestep_embedding: freq_shift must be less than dim / 2 = %lld, got %g",
           ll(dim / 2), double(freq_shift));
  begin_op();
  Tensor y = Tensor::empty({t.dim(0), dim}, DType::F32, t.device());
  backend_for(t.device()).timestep_embedding(y, t, flip_sin_to_cos, freq_shift);
  return y;
}

}  // namespace df::ops
