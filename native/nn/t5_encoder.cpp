#include "nn/t5_encoder.h"

#include "autograd/tape.h"
#include "core/error.h"
#include "ops/ops.h"

namespace df {

T5Block::T5Block(ParameterStore& p, const std::string& name, const T5Config& c)
    : heads_(c.num_heads),
      inner_(c.num_heads * c.d_kv),
      d_ff_(c.d_ff),
      eps_(c.layer_norm_epsilon),
      attention_norm_(p.tensor({name + ".layer.0.layer_norm.weight"}, {c.d_model})),
      qkv_(p, {name + ".layer.0.SelfAttention.q", name + ".layer.0.SelfAttention.k", name + ".layer.0.SelfAttention.v"},
           c.d_model, inner_, false),
      o_(p, name + ".layer.0.SelfAttention.o", inner_, c.d_model, false),
      feed_forward_norm_(p.tensor({name + ".layer.1.layer_norm.weight"}, {c.d_model})),
      wi_(p, {name + ".layer.1.DenseReluDense.wi_0", name + ".layer.1.DenseReluDense.wi_1"}, c.d_model, c.d_ff, false),
      wo_(p, name + ".layer.1.DenseReluDense.wo", c.d_ff, c.d_model, false) {}

Tensor T5Block::forward(const Tensor& x, const Tensor& position_bias, const Tensor& mask) const {
  Tensor qkv = qkv_.forward(ops::rms_norm(x, *attention_norm_, eps_));  // (B, T, 3 * inner)
  AttentionParams params;
  params.heads = heads_;
  params.segments = {{qkv.slice_last(inner_, inner_), qkv.slice_last(2 * inner_, inner_)}};
  params.bias = position_bias;
  params.mask = mask;
  const Tensor h = o_.forward(ops::attention(qkv.slice_last(0, inner_), params), x);  // (B, T, d_model)
  const Tensor wi = wi_.forward(ops::rms_norm(h, *feed_forward_norm_, eps_));         // (B, T, 2 * d_ff)
  const Tensor gate = wi.slice_last(0, d_ff_), up = wi.slice_last(d_ff_, d_ff_);
  return wo_.forward(ops::gated_activation(gate, up, Activation::GeluTanh), h);
}

T5Encoder::T5Encoder(const T5Config& c, DType dtype, Device device, const WeightOptions& options)
    : Module("t5 encoder", dtype, device, options),
      config_(c),
      embedding_(parameters_.tensor({"shared.weight"}, {c.vocab_size, c.d_model}, dtype)) {
  DF_CHECK(dtype != DType::F16, "t5 encoder: dtype must be f32 or bf16, got f16");
  parameters_.alias("shared.weight", "encoder.embed_tokens.weight");  // one table, saved under one or both names
  relative_attention_bias_ =
      parameters_.tensor({"encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"},
                         {c.relative_attention_num_buckets, c.num_heads});
  for (int i = 0; i < c.num_layers; i++) blocks_.emplace_back(parameters_, "encoder.block." + std::to_string(i), c);
  final_norm_ = parameters_.tensor({"encoder.final_layer_norm.weight"}, {c.d_model});
}

Tensor T5Encoder::forward(const Tensor& given_ids, const Tensor& given_mask) const {
  parameters_.check_loaded();
  DF_CHECK(given_ids.defined() && given_ids.shape().rank() == 2 && given_ids.dtype() == DType::I32 &&
               given_mask.defined() && given_mask.shape() == given_ids.shape() && given_mask.dtype() == DType::I32,
           "t5 encoder: ids and mask must be (batch, tokens) i32, got %s %s and %s %s", dtype_name(given_ids.dtype()),
           given_ids.shape().str().c_str(), dtype_name(given_mask.dtype()), given_mask.shape().str().c_str());
  ops::check_ids(given_ids, config_.vocab_size);
  ops::check_mask(given_mask);
  const auto here = [&](const Tensor& t) { return t.device() == device() ? t : ops::to_device(t, device()); };
  const Tensor ids = here(given_ids), mask = here(given_mask);
  const Tensor bias = ops::relative_position_bias(*relative_attention_bias_, ids.dim(1),
                                                  config_.relative_attention_max_distance);  // (heads, T, T)
  Tensor h = ops::embedding(ids, *embedding_);                                               // (B, T, d_model)
  if (h.dtype() != dtype()) h = ops::copy(h, dtype());  // the table is float32 in training
  for (const T5Block& block : blocks_) {
    if (!checkpointing_) h = block.forward(h, bias, mask);
    else h = checkpoint({}, [&block, h, bias, mask](const Tensor&) { return block.forward(h, bias, mask); });
  }
  return ops::rms_norm(h, *final_norm_, config_.layer_norm_epsilon);
}

}  // namespace df
