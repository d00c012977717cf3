// Numbers as gradients are stored, and their values in float64.
#pragma once

namespace linalgkit {

struct Half {
    unsigned short bits;
};
struct BFloat {
    unsigned short bits;
};

__device__ double widen(double value) { return value; }
__device__ double widen(float value) { return value; }
__device__ double widen(BFloat value) { return __uint_as_float((unsigned int)value.bits << 16); }
__device__ double widen(Half value) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
}

}  // namespace linalgkit
