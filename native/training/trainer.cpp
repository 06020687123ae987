#include "training/trainer.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "ops/backend.h"
#include "ops/ops.h"
#include "training/initial_source.h"

namespace df {
namespace {

long long ll(int64_t v) { return static_cast<long long>(v); }

// Of a picture; stages II and III read the low-resolution picture beside it.
int64_t image_channels(const UNetConfig& c) { return c.class_embed ? c.in_channels / 2 : c.in_channels; }

// A float32 vector of one value per sample, on `device`.
template <class F> Tensor per_sample(const MicroBatch& batch, Device device, const F& value) {
  const Tensor host = Tensor::empty({int64_t(batch.samples.size())}, DType::F32, kCpu);
  for (size_t i = 0; i < batch.samples.size(); i++) host.data<float>()[i] = value(batch.samples[i]);
  return device == kCpu ? host : ops::to_device(host, device);
}

template <class F> std::vector<float> coefficients(const MicroBatch& batch, const F& value) {
  std::vector<float> all;
  for (const TrainingSample& s : batch.samples) all.push_back(value(s));
  return all;
}

// Forward passes have the dropout of a batch for the lifetime of the scope.
class DropoutScope {
 public:
  DropoutScope(const MicroBatch& batch, std::initializer_list<Lora*> loras) : loras_(loras) {
    std::vector<uint64_t> samples;
    for (const TrainingSample& s : batch.samples) samples.push_back(s.index);
    for (Lora* lora : loras_)
      if (lora) lora->begin_dropout(batch.seed, samples);
  }
  ~DropoutScope() {
    for (Lora* lora : loras_)
      if (lora) lora->end_dropout();
  }
  DropoutScope(const DropoutScope&) = delete;
  DropoutScope& operator=(const DropoutScope&) = delete;

 private:
  std::vector<Lora*> loras_;
};

// Purposes of the masks; training/noise.cpp and initial_source.cpp have those below.
constexpr uint32_t kUnetMasks = 1 << 16, kT5Masks = 2 << 16;

std::unique_ptr<Lora> make_lora(Module& model, const TrainedLora& o, const std::vector<std::string>& targets,
                                uint32_t stream) {
  return std::make_unique<Lora>(
      model, LoraOptions{.rank = o.rank, .alpha = o.alpha, .dropout = o.dropout, .targets = targets}, stream);
}

std::vector<Tensor> zeros_like(const std::vector<Tensor>& state) {
  std::vector<Tensor> all;
  for (const Tensor& t : state) all.push_back(Tensor::zeros(t.shape(), DType::F32, t.device()));
  return all;
}

}  // namespace

Trainer::Trainer(const UNetConfig& unet, const std::optional<T5Config>& t5, Device device,
                 const TrainerOptions& options)
    : unet_config_(unet), t5_config_(t5), device_(device), options_(options), optimizer_({}) {
  const int64_t channels = image_channels(unet);
  DF_CHECK(unet.out_channels == channels || unet.out_channels == 2 * channels,
           "trainer: the UNet must have %lld output channels, or %lld with a learned variance, got %lld", ll(channels),
           ll(2 * channels), ll(unet.out_channels));
  const WeightOptions weights{.precision = options.precision, .trainable = !options.lora};
  unet_ = std::make_unique<UNet>(unet, options.dtype, device, weights);
  unet_->set_checkpointing(options.checkpointing);
  if (options.lora) unet_lora_ = make_lora(*unet_, *options.lora, options.lora->targets, kUnetMasks);
  unet_model_.store = unet_lora_ ? &unet_lora_->store() : &unet_->store();
  if (!t5) return;
  DF_CHECK(t5->d_model == unet.encoder_hid_dim, "trainer: the text encoder must have a width of %lld, got %lld",
           ll(unet.encoder_hid_dim), ll(t5->d_model));
  t5_ = std::make_unique<T5Encoder>(*t5, options.dtype, device, weights);
  t5_->set_checkpointing(options.checkpointing);
  if (options.lora) t5_lora_ = make_lora(*t5_, *options.lora, options.lora->text_targets, kT5Masks);
  t5_model_.store = t5_lora_ ? &t5_lora_->store() : &t5_->store();
}

std::vector<TrainedModel*> Trainer::models() {
  if (t5_) return {&unet_model_, &t5_model_};
  return {&unet_model_};
}

// Everything that belongs to newly loaded parameters.
void Trainer::attach(TrainedModel& model) {
  model.values = model.store->values();
  model.gradients = zeros_like(model.values);
  model.moments = zeros_like(model.values);
  model.squared_moments = zeros_like(model.values);
  model.ema.clear();
  if (options_.ema)
    for (const Tensor& t : model.values) model.ema.push_back(ops::copy(t, DType::F32));
  tape_ = Tape();
  std::vector<TrainedParameter> parameters;
  for (const TrainedModel* m : models())
    for (size_t i = 0; i < m->values.size(); i++) {
      tape_.watch(m->values[i], m->gradients[i]);
      parameters.push_back({m->values[i], m->gradients[i], m->moments[i], m->squared_moments[i],
                            m->ema.empty() ? Tensor() : m->ema[i]});
    }
  optimizer_ = AdamW(std::move(parameters));
}

void Trainer::load(StateSource& unet, StateSource* t5, const LoadProgress& progress, uint64_t seed) {
  DF_CHECK((t5 != nullptr) == (t5_ != nullptr), "trainer: the weights of the text encoder must %s",
           t5_ ? "be given, for it is trained as well" : "not be given, for it is not trained");
  for (TrainedModel* m : models()) {
    ParameterStore* store = m->store;
    *m = TrainedModel();
    m->store = store;
  }
  tape_ = Tape();
  optimizer_ = AdamW({});
  unet_->load(unet, progress);
  if (t5_) t5_->load(*t5, progress);
  for (Lora* lora : {unet_lora_.get(), t5_lora_.get()}) {
    if (!lora) continue;
    InitialSource factors = initial_lora(lora->store().infos(), seed);
    lora->store().load(factors, {});
  }
  for (TrainedModel* m : models()) attach(*m);
}

void Trainer::initialise(uint64_t seed) {
  InitialSource unet = initial_unet(unet_->parameters(), seed);
  if (!t5_) return load(unet, nullptr, {}, seed);
  InitialSource t5 = initial_t5(t5_->parameters(), *t5_config_, seed);
  load(unet, &t5, {}, seed);
}

void Trainer::check_loaded() const {
  const bool loaded = !unet_model_.values.empty() && (!t5_ || !t5_model_.values.empty());
  DF_CHECK(loaded, "trainer: there are no parameters; call load, initialise or restore first");
}

void Trainer::check_batch(const MicroBatch& b) const {
  check_loaded();
  const int64_t batch = int64_t(b.samples.size());
  const int64_t channels = image_channels(unet_config_);
  const auto is_image = [&](const Tensor& t) {
    return t.defined() && t.shape().rank() == 4 && t.dim(0) == batch && t.dim(3) == channels && t.dtype() == DType::F32;
  };
  for (const Tensor* t : {&b.images, &b.low_res, &b.text})
    DF_CHECK(!t->defined() || t->device() == device_, "trainer: a batch must be on %s, got %s", device_.str().c_str(),
             t->device().str().c_str());
  for (const TrainingSample& s : b.samples)
    DF_CHECK(s.loss.variational_weight == 0 || unet_config_.out_channels == 2 * channels,
             "trainer: variational_weight must be 0 for a UNet without learned variance (%lld output channels)",
             ll(unet_config_.out_channels));
  const auto shape = [](const Tensor& t) { return t.defined() ? t.shape().str() : std::string("none"); };
  DF_CHECK(batch > 0 && is_image(b.images), "trainer: images must be (%lld samples, H, W, %lld) f32, got %s", ll(batch),
           ll(channels), shape(b.images).c_str());
  if (unet_config_.class_embed)
    DF_CHECK(is_image(b.low_res), "trainer: low_res must be (%lld, h, w, %lld) f32, got %s", ll(batch), ll(channels),
             shape(b.low_res).c_str());
  else
    DF_CHECK(!b.low_res.defined(), "trainer: low_res is for stages II and III, and this UNet is a stage I");
  if (t5_)
    DF_CHECK(b.ids.defined() && b.ids.dim(0) == batch && b.mask.defined() && !b.text.defined(),
             "trainer: ids and mask of %lld captions must be given, and no text, for the text encoder is trained",
             ll(batch));
  else
    DF_CHECK(b.text.defined() && b.text.shape().rank() == 3 && b.text.dim(0) == batch && !b.ids.defined(),
             "trainer: text must be (%lld, T, %lld), got %s", ll(batch), ll(unet_config_.encoder_hid_dim),
             shape(b.text).c_str());
}

Tensor Trainer::forward(const MicroBatch& b, const NoisedImages& images) const {
  const Shape& s = b.images.shape();
  const Tensor input = Tensor::empty({s[0], s[1], s[2], unet_config_.in_channels}, options_.dtype, device_);
  ops::copy(images.xt, options_.dtype, input.slice_last(0, s[3]));
  if (images.low_res.defined()) ops::copy(images.low_res, options_.dtype, input.slice_last(s[3], s[3]));
  const Tensor t = per_sample(b, device_, [](const TrainingSample& x) { return x.timestep; });
  const Tensor labels = images.low_res.defined()
                            ? per_sample(b, device_, [](const TrainingSample& x) { return x.noise_level; })
                            : Tensor();
  return unet_->forward(input, t, unet_->prepare(t5_ ? t5_->forward(b.ids, b.mask) : b.text), labels);
}

Tensor Trainer::loss(const MicroBatch& b, const NoisedImages& images, const Tensor& model, Tensor dmodel) const {
  DiffusionLoss p;
  p.main = b.main;
  p.huber_delta = b.huber_delta;
  p.gradient_scale = b.gradient_scale;
  for (const TrainingSample& s : b.samples) p.samples.push_back(s.loss);
  Tensor terms = Tensor::empty({int64_t(b.samples.size()), 2}, DType::F32, device_);
  backend_for(device_).diffusion_loss(terms, dmodel, model, b.images, images.xt, images.noise, p);
  return terms;
}

NoisedImages Trainer::add_noise(const MicroBatch& b) const {
  NoisedImages r;
  const Shape& shape = b.images.shape();
  std::vector<uint64_t> indices;
  for (const TrainingSample& s : b.samples) indices.push_back(s.index);
  const bool meta = device_.type == DeviceType::Meta;
  const auto here = [&](const Tensor& t) { return device_ == kCpu ? t : ops::to_device(t, device_); };
  Backend& backend = backend_for(device_);
  Tensor input;
  if (meta) {
    r.noise = input = Tensor::empty(shape, DType::F32, device_);
  } else {
    const TrainingNoise noise = training_noise(shape, indices, b.seed, b.noise);
    r.noise = here(noise.target);
    input = noise.input.storage() == noise.target.storage() ? r.noise : here(noise.input);
  }
  r.xt = Tensor::empty(shape, DType::F32, device_);
  backend.blend(r.xt, coefficients(b, [](const TrainingSample& s) { return s.image_scale; }), b.images,
                coefficients(b, [](const TrainingSample& s) { return s.noise_scale; }), input);
  if (b.low_res.defined()) {
    const Tensor large = ops::bilinear(b.low_res, shape[1], shape[2]);
    const Tensor noise = meta ? Tensor::empty(shape, DType::F32, device_) : here(low_res_noise(shape, indices, b.seed));
    r.low_res = Tensor::empty(shape, DType::F32, device_);
    backend.blend(r.low_res, coefficients(b, [](const TrainingSample& s) { return s.low_res_scale; }), large,
                  coefficients(b, [](const TrainingSample& s) { return s.low_res_noise_scale; }), noise);
  }
  return r;
}

Tensor Trainer::accumulate(const MicroBatch& batch) {
  check_batch(batch);
  return accumulate(batch, add_noise(batch));
}

Tensor Trainer::accumulate(const MicroBatch& batch, const NoisedImages& images) {
  check_batch(batch);
  const DropoutScope dropout(batch, {unet_lora_.get(), t5_lora_.get()});
  try {
    Tensor model;
    {
      RecordScope scope(&tape_);
      model = forward(batch, images);
    }
    Tensor dmodel = Tensor::empty(model.shape(), model.dtype(), device_);
    const Tensor terms = loss(batch, images, model, dmodel);
    tape_.backward(model, std::move(dmodel));
    return terms;
  } catch (...) {
    tape_.clear();
    zero_gradients();
    throw;
  }
}

Tensor Trainer::evaluate(const MicroBatch& batch, bool use_ema) {
  check_batch(batch);
  DF_CHECK(!use_ema || options_.ema, "trainer: there are no averaged weights; create it with ema");
  const NoisedImages images = add_noise(batch);
  std::vector<std::unique_ptr<ValuesScope>> scopes;
  if (use_ema)
    for (const TrainedModel* m : models()) scopes.push_back(std::make_unique<ValuesScope>(*m, m->ema));
  return loss(batch, images, forward(batch, images), {});
}

void Trainer::zero_gradients() {
  for (const TrainedModel* m : models())
    for (const Tensor& g : m->gradients) set_zero(g);
}

OptimizerResult Trainer::step(const OptimizerStep& p) {
  check_loaded();
  const OptimizerResult result = optimizer_.step(p);
  zero_gradients();
  return result;
}

int64_t Trainer::parameter_count() const {
  int64_t n = 0;
  for (const ParameterStore* store : {unet_model_.store, t5_model_.store})
    if (store)
      for (const TensorInfo& info : store->infos()) n += info.shape.numel();
  return n;
}

size_t Trainer::bytes() const {
  const size_t trained = size_t(parameter_count()) * sizeof(float) * (options_.ema ? 5 : 4);
  if (!options_.lora) return trained;
  return trained + unet_->weight_bytes() + (t5_ ? t5_->weight_bytes() : 0);
}

void reduce_gradients(const std::vector<Trainer*>& replicas) {
  DF_CHECK(!replicas.empty(), "reduce_gradients: replicas must not be empty");
  DF_CHECK(std::set<Trainer*>(replicas.begin(), replicas.end()).size() == replicas.size(),
           "reduce_gradients: a replica is given twice");
  std::vector<std::vector<Tensor>> gradients;  // of every replica
  for (Trainer* replica : replicas) {
    gradients.emplace_back();
    for (const TrainedModel* m : replica->models())
      gradients.back().insert(gradients.back().end(), m->gradients.begin(), m->gradients.end());
    bool alike = gradients.back().size() == gradients[0].size() && !gradients[0].empty();
    for (size_t i = 0; alike && i < gradients[0].size(); i++)
      alike = gradients.back()[i].shape() == gradients[0][i].shape();
    DF_CHECK(alike, "reduce_gradients: the replicas must be of one model, with parameters");
  }
  for (size_t i = 0; i < gradients[0].size(); i++) {
    std::vector<Tensor> terms;
    for (const auto& g : gradients) terms.push_back(g[i]);
    ops::add_terms(terms);
    for (size_t r = 1; r < terms.size(); r++) transfer(terms[r], terms[0]);
  }
}

MemoryPlan plan_trainer(const UNetConfig& unet, const std::optional<T5Config>& t5, const TrainerOptions& options,
                        int64_t batch, int64_t height, int64_t width, int64_t tokens, Device meta) {
  const size_t base = memory_stats(meta).current;
  Trainer trainer(unet, t5, meta, options);
  trainer.initialise(0);
  return measure_memory(meta, base, [&](WorkCounter&) {
    const int64_t channels = image_channels(unet);
    MicroBatch b;
    b.images = Tensor::empty({batch, height, width, channels}, DType::F32, meta);
    if (unet.class_embed)
      b.low_res = Tensor::empty({batch, std::max<int64_t>(height / 4, 1), std::max<int64_t>(width / 4, 1), channels},
                                DType::F32, meta);
    if (t5) b.ids = b.mask = Tensor::empty({batch, tokens}, DType::I32, meta);
    else b.text = Tensor::empty({batch, tokens, unet.encoder_hid_dim}, DType::F32, meta);
    b.samples.resize(size_t(batch));
    trainer.accumulate(b);
  });
}

}  // namespace df
