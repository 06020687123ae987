// Configurations as diffusers and transformers publish them, for programs without TypeScript (lib/models reads them there).
#pragma once
#include <string>

#include "io/json.h"

namespace df {

/// diffusers' unet/config.json as the normalised JSON that UNetConfig::from_json reads. Fields that are absent have
/// diffusers' defaults.
std::string normalised_unet_config(const Json& diffusers);
/// The same for transformers' text_encoder/config.json.
std::string normalised_t5_config(const Json& transformers);

}  // namespace df
