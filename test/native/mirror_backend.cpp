#include "mirror_backend.h"

#include <map>

namespace df::test {

// The arguments of one call on the device. Whole storages are copied, so that views of one storage stay views of one.
class MirrorBackend::Call {
 public:
  explicit Call(Device device) : device_(device) {}

  Tensor in(const Tensor& t) { return t.defined() && t.device() != device_ ? t.view_of(copy_of(t.storage())) : t; }
  Tensor out(const Tensor& t) {
    if (t.defined() && t.device() != device_) results_[t.storage()->id] = t.storage();
    return in(t);
  }
  Gradient out(const Gradient& g) { return {out(g.into), g.add}; }
  std::vector<Gradient> out(const std::vector<Gradient>& gradients) {
    std::vector<Gradient> all;
    for (const Gradient& g : gradients) all.push_back(out(g));
    return all;
  }
  Weight in(Weight w) {
    for (Tensor* t : {&w.data, &w.scales, &w.master}) *t = in(*t);
    return w;
  }
  Epilogue in(Epilogue e) {
    for (Tensor* t : {&e.bias, &e.residual}) *t = in(*t);
    return e;
  }
  GroupNormParams in(GroupNormParams p) {
    for (Tensor* t : {&p.gamma, &p.beta, &p.scale, &p.shift}) *t = in(*t);
    return p;
  }
  AttentionParams in(AttentionParams p) {
    for (KeyValue& s : p.segments) s = {in(s.key), in(s.value)};
    for (Tensor* t : {&p.bias, &p.mask}) *t = in(*t);
    return p;
  }
  void finish() {
    for (const auto& [id, storage] : results_) transfer(bytes_of(storage), bytes_of(copies_.at(id)));
  }

 private:
  static Tensor bytes_of(const std::shared_ptr<Storage>& s) {
    return Tensor::from_storage(s, 0, {int64_t(s->requested)}, DType::U8);
  }
  std::shared_ptr<Storage> copy_of(const std::shared_ptr<Storage>& s) {
    std::shared_ptr<Storage>& copy = copies_[s->id];
    if (!copy) {
      copy = allocate(device_, s->requested);
      transfer(bytes_of(copy), bytes_of(s));
    }
    return copy;
  }
  Device device_;
  std::map<uint64_t, std::shared_ptr<Storage>> copies_, results_;  // by the id of the storage of the CPU
};

template <class F> void MirrorBackend::call(F run) {
  Call c(device_);
  run(c);
  c.finish();
}

Weight MirrorBackend::pack(const Tensor& plain, DType dtype) { return backend_.pack(Call(device_).in(plain), dtype); }
Weight MirrorBackend::pack_int8(const Tensor& plain, DType dtype) {
  return backend_.pack_int8(Call(device_).in(plain), dtype);
}
Weight MirrorBackend::pack_transposed(const Tensor& plain, DType dtype) {
  return backend_.pack_transposed(Call(device_).in(plain), dtype);
}
void MirrorBackend::unpack(Tensor& plain, const Weight& weight) {
  call([&](Call& c) {
    Tensor p = c.out(plain);
    backend_.unpack(p, c.in(weight));
  });
}
size_t MirrorBackend::packed_bytes(int64_t out, int64_t kernel_h, int64_t kernel_w, int64_t in, DType dtype) {
  return backend_.packed_bytes(out, kernel_h, kernel_w, in, dtype);
}

void MirrorBackend::linear(Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e) {
  call([&](Call& c) {
    Tensor r = c.out(y);
    backend_.linear(r, c.in(x), c.in(w), c.in(e));
  });
}
void MirrorBackend::conv2d(Tensor& y, const Tensor& x, const Weight& w, const Conv2dParams& p, const Epilogue& e) {
  call([&](Call& c) {
    Tensor r = c.out(y);
    backend_.conv2d(r, c.in(x), c.in(w), p, c.in(e));
  });
}
void MirrorBackend::attention(Tensor& y, const Tensor& q, const AttentionParams& p) {
  call([&](Call& c) {
    Tensor r = c.out(y);
    backend_.attention(r, c.in(q), c.in(p));
  });
}

void MirrorBackend::group_norm(Tensor& y, const Tensor& x, const GroupNormParams& p) {
  call([&](Call& c) {
    Tensor r = c.out(y);
    backend_.group_norm(r, c.in(x), c.in(p));
  });
}
void MirrorBackend::layer_norm(Tensor& y, const Tensor& x, const Tensor& gamma, const Tensor& beta, float eps) {
  call([&](Call& c) {
    Tensor r = c.out(y);
    backend_.layer_norm(r, c.in(x), c.in(gamma), c.in(beta), eps);
  });
}
void MirrorBackend::rms_norm(Tensor& y, const Tensor& x, const Tensor& gamma, float eps) {
  call([&](Call& c) {
    Tensor r = c.out(y);
    backend_.rms_norm(r, c.in(x), c.in(gamma), eps);
  });
}

void MirrorBackend::activation(Tensor& y, const Tensor& x, Activation kind) {
  call([&](Call& c) {
    Tensor r = c.out(y);
    backend_.activation(r, c.in(x), kind);
  });
}
void MirrorBackend::gated_activation(Tensor& y, const Tensor& gate, const Tensor& up, Activation kind) {
  call([&](Call& c) {
    Tensor r = c.out(y);
    backend_.gated_activation(r, c.in(gate), c.in(up), kind);
  });
}
void MirrorBackend::axpby(Tensor& y, float a, const Tensor& x, float b, const Tensor& z) {
  call([&](Call& c) {
    Tensor r = c.out(y);
    backend_.axpby(r, a, c.in(x), b, c.in(z));
  });
}
void MirrorBackend::copy(Tensor& y, const Tensor& x) {
  call([&](Call& c) {
    Tensor r = c.out(y);
    backend_.copy(r, c.in(x));
  });
}
bool MirrorBackend::all_finite(const Tensor& x) { return backend_.all_finite(Call(device_).in(x)); }

void MirrorBackend::resample(Tensor& y, const Tensor& x, Resample mode) {
  call([&](Call& c) {
    Tensor r = c.out(y);
    backend_.resample(r, c.in(x), mode);
  });
}
void MirrorBackend::bilinear(Tensor& y, const Tensor& x) {
  call([&](Call& c) {
    Tensor r = c.out(y);
    backend_.bilinear(r, c.in(x));
  });
}
void MirrorBackend::nchw_to_nhwc(Tensor& y, const Tensor& x) {
  call([&](Call& c) {
    Tensor r = c.out(y);
    backend_.nchw_to_nhwc(r, c.in(x));
  });
}
void MirrorBackend::nhwc_to_nchw(Tensor& y, const Tensor& x) {
  call([&](Call& c) {
    Tensor r = c.out(y);
    backend_.nhwc_to_nchw(r, c.in(x));
  });
}

void MirrorBackend::embedding(Tensor& y, const Tensor& ids, const Tensor& table) {
  call([&](Call& c) {
    Tensor r = c.out(y);
    backend_.embedding(r, c.in(ids), c.in(table));
  });
}
void MirrorBackend::timestep_embedding(Tensor& y, const Tensor& t, bool flip_sin_to_cos, float freq_shift) {
  call([&](Call& c) {
    Tensor r = c.out(y);
    backend_.timestep_embedding(r, c.in(t), flip_sin_to_cos, freq_shift);
  });
}
void MirrorBackend::prepend_mean_token(Tensor& y, const Tensor& x, const Tensor& position) {
  call([&](Call& c) {
    Tensor r = c.out(y);
    backend_.prepend_mean_token(r, c.in(x), c.in(position));
  });
}
void MirrorBackend::relative_position_bias(Tensor& y, const Tensor& table, int max_distance) {
  call([&](Call& c) {
    Tensor r = c.out(y);
    backend_.relative_position_bias(r, c.in(table), max_distance);
  });
}
void MirrorBackend::ddpm_step(Tensor& prev, Tensor& x0, const Tensor& x, const Tensor& model, const Tensor& noise,
                              const DdpmStep& p) {
  call([&](Call& c) {
    Tensor r = c.out(prev), r0 = c.out(x0);
    backend_.ddpm_step(r, r0, c.in(x), c.in(model), c.in(noise), p);
  });
}

void MirrorBackend::weight_gradient(Tensor& dw, const Tensor& x, const Tensor& dy, const Conv2dParams& p, float scale) {
  call([&](Call& c) {
    Tensor r = c.out(dw);
    backend_.weight_gradient(r, c.in(x), c.in(dy), p, scale);
  });
}
void MirrorBackend::bias_gradient(Tensor& db, const Tensor& dy, float scale) {
  call([&](Call& c) {
    Tensor r = c.out(db);
    backend_.bias_gradient(r, c.in(dy), scale);
  });
}
void MirrorBackend::attention_backward(Gradient dq, const std::vector<Gradient>& dkey, const std::vector<Gradient>& dvalue,
                                       Tensor dbias, const Tensor& dy, const Tensor& y, const Tensor& q,
                                       const AttentionParams& p) {
  call([&](Call& c) {
    backend_.attention_backward(c.out(dq), c.out(dkey), c.out(dvalue), c.out(dbias), c.in(dy), c.in(y), c.in(q), c.in(p));
  });
}
void MirrorBackend::group_norm_backward(Gradient dx, Tensor dgamma, Tensor dbeta, Gradient dscale, Gradient dshift,
                                        const Tensor& dy, const Tensor& x, const GroupNormParams& p) {
  call([&](Call& c) {
    backend_.group_norm_backward(c.out(dx), c.out(dgamma), c.out(dbeta), c.out(dscale), c.out(dshift), c.in(dy), c.in(x), c.in(p));
  });
}
void MirrorBackend::layer_norm_backward(Gradient dx, Tensor dgamma, Tensor dbeta, const Tensor& dy, const Tensor& x,
                                        const Tensor& gamma, float eps) {
  call([&](Call& c) {
    backend_.layer_norm_backward(c.out(dx), c.out(dgamma), c.out(dbeta), c.in(dy), c.in(x), c.in(gamma), eps);
  });
}
void MirrorBackend::rms_norm_backward(Gradient dx, Tensor dgamma, const Tensor& dy, const Tensor& x, const Tensor& gamma,
                                      float eps) {
  call([&](Call& c) { backend_.rms_norm_backward(c.out(dx), c.out(dgamma), c.in(dy), c.in(x), c.in(gamma), eps); });
}
void MirrorBackend::activation_backward(Gradient dx, const Tensor& dy, const Tensor& x, Activation kind) {
  call([&](Call& c) { backend_.activation_backward(c.out(dx), c.in(dy), c.in(x), kind); });
}
void MirrorBackend::gated_activation_backward(Gradient dgate, Gradient dup, const Tensor& dy, const Tensor& gate,
                                              const Tensor& up, Activation kind) {
  call([&](Call& c) {
    backend_.gated_activation_backward(c.out(dgate), c.out(dup), c.in(dy), c.in(gate), c.in(up), kind);
  });
}
void MirrorBackend::scale_backward(Gradient dx, float a, const Tensor& dy) {
  call([&](Call& c) { backend_.scale_backward(c.out(dx), a, c.in(dy)); });
}
void MirrorBackend::resample_backward(Gradient dx, const Tensor& dy, Resample mode) {
  call([&](Call& c) { backend_.resample_backward(c.out(dx), c.in(dy), mode); });
}
void MirrorBackend::prepend_mean_token_backward(Gradient dx, Tensor dposition, const Tensor& dy) {
  call([&](Call& c) { backend_.prepend_mean_token_backward(c.out(dx), c.out(dposition), c.in(dy)); });
}
void MirrorBackend::embedding_backward(Tensor& dtable, const Tensor& dy, const Tensor& ids) {
  call([&](Call& c) {
    Tensor r = c.out(dtable);
    backend_.embedding_backward(r, c.in(dy), c.in(ids));
  });
}
void MirrorBackend::relative_position_bias_backward(Tensor& dtable, const Tensor& dy, int max_distance) {
  call([&](Call& c) {
    Tensor r = c.out(dtable);
    backend_.relative_position_bias_backward(r, c.in(dy), max_distance);
  });
}

void MirrorBackend::blend(Tensor& y, const std::vector<float>& a, const Tensor& x, const std::vector<float>& b,
                          const Tensor& z) {
  call([&](Call& c) {
    Tensor r = c.out(y);
    backend_.blend(r, a, c.in(x), b, c.in(z));
  });
}
void MirrorBackend::diffusion_loss(Tensor& terms, Tensor& dmodel, const Tensor& model, const Tensor& x0, const Tensor& xt,
                                   const Tensor& noise, const DiffusionLoss& p) {
  call([&](Call& c) {
    Tensor r = c.out(terms), d = c.out(dmodel);
    backend_.diffusion_loss(r, d, c.in(model), c.in(x0), c.in(xt), c.in(noise), p);
  });
}
double MirrorBackend::squared_norm(const Tensor& x) { return backend_.squared_norm(Call(device_).in(x)); }
void MirrorBackend::adamw_step(Tensor& parameter, Tensor& m, Tensor& v, Tensor& ema, const Tensor& gradient,
                               const AdamWStep& p) {
  call([&](Call& c) {
    Tensor rp = c.out(parameter), rm = c.out(m), rv = c.out(v), re = c.out(ema);
    backend_.adamw_step(rp, rm, rv, re, c.in(gradient), p);
  });
}

}  // namespace df::test
