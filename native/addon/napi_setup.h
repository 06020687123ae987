// The single include of napi.h.
#pragma once
#include <napi.h>
