// The state of a trainer in files, and copies of it for sampling.
#include "core/error.h"
#include "ops/ops.h"
#include "training/trainer.h"

namespace df {
namespace {

constexpr const char *kMoment = ".exp_avg", *kSquaredMoment = ".exp_avg_sq";  // as torch.optim.AdamW calls them

bool is_moments(Trainer::Part part) { return part == Trainer::Part::UnetMoments || part == Trainer::Part::T5Moments; }
bool is_ema(Trainer::Part part) { return part == Trainer::Part::UnetEma || part == Trainer::Part::T5Ema; }
bool is_t5(Trainer::Part part) {
  return part == Trainer::Part::T5 || part == Trainer::Part::T5Ema || part == Trainer::Part::T5Moments;
}

// One state of a model as a source.
class OneState : public StateSource {
 public:
  OneState(const ParameterStore& store, const std::vector<Tensor>& state) : store_(store), state_(state) {
    for (const TensorInfo& info : store.infos()) infos_[info.name] = info;
  }
  std::vector<std::string> names() const override {
    std::vector<std::string> all;
    for (const auto& [name, info] : infos_) all.push_back(name);
    return all;
  }
  TensorInfo describe(const std::string& name) const override { return infos_.at(name); }
  Tensor read(const std::string& name) override { return store_.read_state(name, state_); }

 private:
  const ParameterStore& store_;
  const std::vector<Tensor>& state_;
  std::map<std::string, TensorInfo> infos_;
};

// The tensors of a source whose names end in `suffix`, without it.
class WithoutSuffix : public StateSource {
 public:
  WithoutSuffix(StateSource& source, std::string suffix) : source_(source), suffix_(std::move(suffix)) {}
  std::vector<std::string> names() const override {
    std::vector<std::string> all;
    for (const std::string& name : source_.names())
      if (name.ends_with(suffix_)) all.push_back(name.substr(0, name.size() - suffix_.size()));
    return all;
  }
  TensorInfo describe(const std::string& name) const override {
    TensorInfo info = source_.describe(name + suffix_);
    info.name = name;
    return info;
  }
  Tensor read(const std::string& name) override { return source_.read(name + suffix_); }
  void prefetch(const std::string& name) override { source_.prefetch(name + suffix_); }
  void release(const std::string& name) override { source_.release(name + suffix_); }

 private:
  StateSource& source_;
  std::string suffix_;
};

}  // namespace

const TrainedModel& Trainer::model_of(Part part) const {
  const TrainedModel& model = is_t5(part) ? t5_model_ : unet_model_;
  DF_CHECK(model.store, "trainer: the text encoder is not trained here, it has no state");
  DF_CHECK(!is_ema(part) || options_.ema, "trainer: there are no averaged weights; create it with ema");
  return model;
}

void Trainer::save(const std::string& path, Part part, DType dtype, const Metadata& metadata) const {
  check_loaded();
  const TrainedModel& model = model_of(part);
  struct State {
    const std::vector<Tensor>* tensors;
    const char* suffix;
  };
  std::vector<State> states;
  if (is_moments(part)) states = {{&model.moments, kMoment}, {&model.squared_moments, kSquaredMoment}};
  else states = {{is_ema(part) ? &model.ema : &model.values, ""}};

  const std::vector<TensorInfo> infos = model.store->infos();
  std::vector<TensorInfo> written;
  for (const State& s : states)
    for (const TensorInfo& info : infos) written.push_back({info.name + s.suffix, info.shape, dtype});
  SafetensorsWriter writer(path, written, metadata);
  for (const State& s : states)
    for (const TensorInfo& info : infos) {
      const Tensor t = ops::copy(model.store->read_state(info.name, *s.tensors), dtype);
      if (!ops::all_finite(t))
        fail(ErrorCode::Weights, "%s: tensor \"%s\" has NaN or infinite values in %s", path.c_str(), info.name.c_str(),
             dtype_name(dtype));
      writer.write(info.name + s.suffix, t);
    }
  writer.commit();
}

void Trainer::restore(const std::string& path, Part part) {
  model_of(part);  // refuses parts that do not exist
  TrainedModel& model = is_t5(part) ? t5_model_ : unet_model_;
  SafetensorsSource source({path});
  if (is_moments(part)) {
    check_loaded();
    WithoutSuffix moments(source, kMoment), squares(source, kSquaredMoment);
    const size_t named = moments.names().size() + squares.names().size();
    if (named != source.names().size())
      fail(ErrorCode::Weights, "%s: %zu tensor(s) are neither \"NAME%s\" nor \"NAME%s\": not a file of moments",
           path.c_str(), source.names().size() - named, kMoment, kSquaredMoment);
    model.store->write_state(moments, model.moments);
    model.store->write_state(squares, model.squared_moments);
  } else if (is_ema(part)) {
    check_loaded();
    model.store->write_state(source, model.ema);
  } else if (!model.values.empty()) {
    model.store->write_state(source, model.values);
  } else {
    DF_CHECK(!options_.lora, "trainer: the frozen weights must be loaded before the factors; call load first");
    is_t5(part) ? t5_->load(source) : unet_->load(source);
    attach(model);
  }
}

// `into` gets the trained model's weights.
template <class Model>
std::shared_ptr<Model> Trainer::copy(std::shared_ptr<Model> into, const std::unique_ptr<Model>& from, Part part) const {
  check_loaded();
  const TrainedModel& model = model_of(part);
  const std::vector<Tensor>& values = is_ema(part) ? model.ema : model.values;
  if (options_.lora) {
    DF_CHECK(into->dtype() == options_.dtype, "trainer: a copy with LoRA must be %s like the frozen weights, got %s",
             dtype_name(options_.dtype), dtype_name(into->dtype()));
    const ValuesScope scope(model, values);
    into->store().load_merged(from->store());
  } else {
    OneState source(*model.store, values);
    into->load(source);
  }
  return into;
}

std::shared_ptr<UNet> Trainer::unet(DType dtype, bool ema) const {
  return copy(std::make_shared<UNet>(unet_config_, dtype, device_, options_.precision), unet_,
              ema ? Part::UnetEma : Part::Unet);
}

std::shared_ptr<T5Encoder> Trainer::t5(DType dtype, bool ema) const {
  const Part part = ema ? Part::T5Ema : Part::T5;
  model_of(part);  // refuses a text encoder that is not trained
  return copy(std::make_shared<T5Encoder>(*t5_config_, dtype, device_), t5_, part);
}

}  // namespace df
