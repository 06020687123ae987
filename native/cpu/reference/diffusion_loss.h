// The variational term of the diffusion loss for one value, shared with the fast CPU code.
#pragma once

namespace df::reference {

struct VariationalTerm {
  double value = 0;            ///< in nats
  double by_log_variance = 0;  ///< derivative
};

/// -log of the probability that a Gaussian gives to the bin of x0, 2/255 wide and open at -1 and 1 (Ho et al. 2020,
/// eq. 13), at least 1e-12; with the tanh form of Φ (improved-diffusion losses.py,
/// discretized_gaussian_log_likelihood).
VariationalTerm decoder_likelihood(double x0, double mean, double log_variance);

}  // namespace df::reference
