// Parameter and GFLOP counts of the published networks, on the meta device: no memory is used. The figures were
// computed from the published config.json files.
#include <cmath>

#include "core/execution.h"
#include "golden.h"
#include "harness.h"
#include "nn/t5_encoder.h"
#include "nn/unet.h"

namespace df::test {
namespace {

struct Published {
  const char* name;
  const char* config;  // what differs from the fields below, diffusers' names
  bool stage2;
  int64_t side;        // of the picture
  int64_t parameters;
  double gflop;        // one forward pass of one picture with 77 tokens, text projections included
};

constexpr Published kUNets[] = {
    {"IF-I-M", R"("block_out_channels":[192,384,576,768],"cross_attention_dim":768)", false, 64, 371605830, 229.4},
    {"IF-I-L", R"("block_out_channels":[320,640,960,1280],"cross_attention_dim":1280)", false, 64, 935365830, 612.1},
    {"IF-I-XL", R"("block_out_channels":[704,1408,2112,2816],"cross_attention_dim":2816)", false, 64, 4304695110,
     2879.0},
    {"IF-II-L", R"("block_out_channels":[160,320,640,960,1280],"cross_attention_dim":1280)", true, 256, 1243277190,
     3089.8}};

constexpr const char* kCommon = R"(,"out_channels":6,"attention_head_dim":64,"encoder_hid_dim":4096,"act_fn":"gelu",
  "addition_embed_type_num_heads":64,"cross_attention_norm":"group_norm")";
constexpr const char* kStage1 = R"(,"in_channels":3,"layers_per_block":3,
  "down_block_types":["ResnetDownsampleBlock2D","SimpleCrossAttnDownBlock2D","SimpleCrossAttnDownBlock2D",
                      "SimpleCrossAttnDownBlock2D"],
  "up_block_types":["SimpleCrossAttnUpBlock2D","SimpleCrossAttnUpBlock2D","SimpleCrossAttnUpBlock2D",
                    "ResnetUpsampleBlock2D"])";
constexpr const char* kStage2 = R"(,"in_channels":6,"layers_per_block":[2,2,3,5,5],
  "down_block_types":["ResnetDownsampleBlock2D","ResnetDownsampleBlock2D","ResnetDownsampleBlock2D",
                      "SimpleCrossAttnDownBlock2D","SimpleCrossAttnDownBlock2D"],
  "up_block_types":["SimpleCrossAttnUpBlock2D","SimpleCrossAttnUpBlock2D","ResnetUpsampleBlock2D",
                    "ResnetUpsampleBlock2D","ResnetUpsampleBlock2D"],
  "class_embed_type":"timestep","time_embedding_dim":1280,"time_embedding_act_fn":"gelu","resnet_skip_time_act":true)";

int64_t count(const std::vector<TensorInfo>& parameters) {
  int64_t n = 0;
  for (const TensorInfo& p : parameters) n += p.shape.numel();
  return n;
}

void check_count(const std::vector<TensorInfo>& parameters, int64_t expected) {
  if (count(parameters) != expected)
    fail_case("expected %lld parameters, got %lld", static_cast<long long>(expected),
              static_cast<long long>(count(parameters)));
}

const Registration published([](Suite& suite) {
  for (const Published& m : kUNets)
    suite.add(format("%s has the published size", m.name), [m] {
      const std::string json = std::string("{") + m.config + kCommon + (m.stage2 ? kStage2 : kStage1) + "}";
      const UNetConfig config = UNetConfig::from_json(normalised_unet_config(Json::parse(json, m.name)));
      UNet unet(config, DType::BF16, kMeta);
      check_count(unet.parameters(), m.parameters);
      RandomSource source(unet.parameters());
      unet.load(source);

      WorkCounter work;
      Execution execution;
      execution.work = &work;
      ExecutionScope scope(execution);
      const Conditioning cond = unet.prepare(Tensor::empty({1, 77, 4096}, DType::BF16, kMeta));
      const Tensor x = Tensor::empty({1, m.side, m.side, config.in_channels}, DType::BF16, kMeta);
      const Tensor t = Tensor::empty({1}, DType::F32, kMeta);
      const Tensor y = unet.forward(x, t, cond, m.stage2 ? t : Tensor());
      CHECK((y.shape() == Shape{1, m.side, m.side, 6}));
      if (!(std::abs(work.flops / 1e9 - m.gflop) <= 0.1))  // one unit of the last digit of the figure
        fail_case("expected %g GFLOP, got %g", m.gflop, work.flops / 1e9);
    });

  suite.add("T5-XXL has the published size", [] {
    const char* json = R"({"vocab_size":32128,"d_model":4096,"d_kv":64,"d_ff":10240,"num_layers":24,"num_heads":64})";
    const T5Config config = T5Config::from_json(normalised_t5_config(Json::parse(json, "T5-XXL")));
    check_count(T5Encoder(config, DType::BF16, kMeta).parameters(), 4762310656);
  });
});

}  // namespace
}  // namespace df::test
