// Every kernel, written once over the vector type of a vec_<isa>.h. A kernels_<isa>.cpp includes its vec header and
// then this file inside an unnamed namespace, so that no two instruction sets share a symbol; for the same reason no
// header here includes anything of the C++ library.
#pragma once
#include "cpu/kernels/rows.h"
#include "cpu/kernels/gemm.h"
#include "cpu/kernels/winograd_transforms.h"
#include "cpu/kernels/winograd.h"
#include "cpu/kernels/pack.h"
#include "cpu/kernels/math.h"
#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/norm.h"
#include "cpu/kernels/norm_backward.h"
#include "cpu/kernels/attention.h"
#include "cpu/kernels/attention_backward.h"
#include "cpu/kernels/elementwise_backward.h"
#include "cpu/kernels/training.h"
#include "cpu/kernels/products_backward.h"
#include "cpu/kernels/winograd_backward.h"

constexpr CpuKernels kTable = {
    kPanel,
    kTileRows,
    {Product<float>::unit, Product<bf16>::unit},
    {1, Product<bf16>::widens ? 1 : 2},
    {gemm<float>, gemm<bf16>},
    {gemm_int8<float>, gemm_int8<bf16>},
    {winograd_kernels<float, 4>(), winograd_kernels<float, 8>(), winograd_kernels<bf16, 2>(),
     winograd_kernels<bf16, 4>()},
    {pack<float>, pack<bf16>},
    {unpack<float>, unpack<bf16>},
    {attention_pack<float>, attention_pack<bf16>},
    {attention<float>, attention<bf16>},
    {channel_moments<float>, channel_moments<bf16>},
    {normalize<float>, normalize<bf16>},
    {layer_norm<float>, layer_norm<bf16>},
    {rms_norm<float>, rms_norm<bf16>},
    {activation<float>, activation<bf16>},
    {gated_activation<float>, gated_activation<bf16>},
    {{{axpby<float, float, float>, axpby<float, float, bf16>}, {axpby<float, bf16, float>, axpby<float, bf16, bf16>}},
     {{axpby<bf16, float, float>, axpby<bf16, float, bf16>}, {axpby<bf16, bf16, float>, axpby<bf16, bf16, bf16>}}},
    {{convert<float, float>, convert<float, bf16>, convert<float, f16>},
     {convert<bf16, float>, convert<bf16, bf16>, convert<bf16, f16>},
     {convert<f16, float>, convert<f16, bf16>, convert<f16, f16>}},
    {all_finite<float>, all_finite<bf16>, all_finite<f16>},
    {average4<float>, average4<bf16>},
    kNormBackward,
    kAttentionBackward,
    kElementwiseBackward,
    kTraining,
    kProductsBackward,
    {winograd_backward_kernels<4>(), winograd_backward_kernels<8>()},
};
