// The arithmetic of the decoder, in one fixed order for all formats of weights. kernels.py says what each function does.
//
// A sum has 32 float32 lanes: lane i adds elements i, 32 + i, 64 + i, ...; then the lanes are added by halves, lane i
// to lane i + 16, i + 8, i + 4, i + 2, i + 1. A weight is widened to float32 exactly as ggml widens it, then multiplied,
// then added. Nothing may be contracted (-ffp-contract=off). So bits depend neither on the format that held a number,
// nor on the other rows, nor on addresses, nor on the width of the processor's vectors.
//
// kernels_body.h is compiled once for each width; the widest that the processor has is chosen at run time.

#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define LANES 32

enum { FLOAT32, BFLOAT16, FLOAT16, Q8_0, Q4_0, Q4_1 }; // the order of FORMATS in testbed/formats.py

// Numbers at any address: messages and packed rows begin where they do.
typedef float any_float __attribute__((aligned(1), may_alias));
typedef uint16_t any_u16 __attribute__((aligned(1), may_alias));
typedef int32_t any_i32 __attribute__((aligned(1), may_alias));
typedef int64_t any_i64 __attribute__((aligned(1), may_alias));

typedef struct {
    const uint8_t *data;
    int64_t rows, columns;
    int64_t format;
} Matrix;

typedef struct {
    uint8_t *keys, *values;             // (positions, d) each
    const any_float *cosines, *sines;   // (positions, d/2) each, or null
    const any_float *q_norm, *k_norm;   // (d) each, or null
    int64_t format, queries, head_dim;  // of the cache; r; d
    int64_t window;                     // positions that a row attends to, or 0 for all
    float scale, epsilon;
} Attention;

// Queries (q of one head in one row) that attention takes through the cache together, and what they have found so far.
#define QUERIES 32
typedef struct {
    int64_t count, stride;            // a query's numbers, and then zeros up to a multiple of 32
    float *q, *lanes, *largest, *out; // (count, stride), (count, LANES), (count), (count, stride)
    float *score, *shrink;            // of the block at hand: (count, LANES), (count and up to a whole vector)
    int64_t *first, *end;             // (count): the positions that a query attends to
} Queries;

static inline int64_t block_bytes(int format) {
    return format == Q8_0 ? 34 : format == Q4_0 ? 18 : format == Q4_1 ? 20 : LANES * (format == FLOAT32 ? 4 : 2);
}

static inline int64_t row_bytes(int format, int64_t columns) {
    return format >= Q8_0 ? columns / LANES * block_bytes(format) : columns * (format == FLOAT32 ? 4 : 2);
}

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static inline float widen_half(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, size = half & 0x7fff;
    if (__builtin_expect(size - 0x0400 < 0x7800, 1)) return float_of(sign | ((size << 13) + 0x38000000));
    if (size >= 0x7c00) return float_of(sign | (size << 13) | 0x7f800000);
    return float_of(sign | bits_of(float_of(0x3f000000 | size) - 0.5f)); // size times 2^-24
}

static inline uint16_t narrow_half(float x) {
    uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff, half;
    if (size > 0x7f800000) half = 0x7e00;
    else if (size >= 0x477ff000) half = 0x7c00; // 65520 and above are nearer to infinity
    else if (size >= 0x38800000) half = (size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13;
    else half = bits_of(float_of(size) + 0.5f) - 0x3f000000; // the addition rounds to a multiple of 2^-24
    return sign | half;
}

static inline uint16_t narrow_bfloat(float x) {
    uint32_t bits = bits_of(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return bits >> 16 | 64;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static inline void put_half(uint8_t *to, uint16_t half) { memcpy(to, &half, 2); }

static inline int is_finite(float x) { return (bits_of(x) & 0x7f800000) != 0x7f800000; }

// Narrows n numbers; returns how many finite ones became infinite.
static inline int64_t narrow(int format, const any_float *x, int64_t n, uint8_t *to) {
    int64_t lost = 0;
    if (format == FLOAT32) {
        memmove(to, x, 4 * n);
        return 0;
    }
    for (int64_t i = 0; i < n; i++) {
        uint16_t narrowed = format == FLOAT16 ? narrow_half(x[i]) : narrow_bfloat(x[i]);
        uint16_t infinity = format == FLOAT16 ? 0x7c00 : 0x7f80;
        lost += (narrowed & 0x7fff) == infinity && is_finite(x[i]);
        put_half(to + 2 * i, narrowed);
    }
    return lost;
}

// --- the same code for each width of vectors ----------------------------------------------------------------------

#if defined(__x86_64__) && !defined(PLAIN_ONLY) // a test defines it, to compile what other machines compile
#define WIDER
#endif

#ifdef WIDER
#include <immintrin.h>
#define NAME(name) name##_avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")))
#define WIDTH 16
#include "kernels_body.h"

#define NAME(name) name##_avx2
#define TARGET __attribute__((target("avx2,f16c")))
#define WIDTH 8
#include "kernels_body.h"
#endif

#if defined(__aarch64__)
#include <arm_neon.h>
#endif
#define NAME(name) name##_plain
#define TARGET
#define WIDTH 4
#include "kernels_body.h"

// --- the choice ---------------------------------------------------------------------------------------------------

static int level;

#ifdef WIDER
EXPORT int best_level(void) {
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
    int avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return avx2 ? avx512 ? 2 : 1 : 0;
}
#define CHOOSE(name, ...) (level == 2 ? name##_avx512 : level == 1 ? name##_avx2 : name##_plain)(__VA_ARGS__)
#else
EXPORT int best_level(void) { return 0; }
#define CHOOSE(name, ...) name##_plain(__VA_ARGS__)
#endif

EXPORT void use_level(int wanted) { level = wanted; }

__attribute__((constructor)) static void choose_level(void) { level = best_level(); }

EXPORT void matmul(const Matrix *w, const any_float *x, int64_t rows, const any_float *bias, any_float *y) {
    CHOOSE(matmul, w, x, rows, bias, y);
}

EXPORT int64_t rows_of(const Matrix *w, const any_i64 *ids, int64_t n, any_float *y) {
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= w->rows) return i;
    }
    CHOOSE(rows_of, w, ids, n, y);
    return -1;
}

EXPORT void unpack(int64_t format, const uint8_t *from, int64_t n, any_float *y) {
    CHOOSE(widen_any, (int)format, from, n, y);
}

EXPORT void layer_norm(const any_float *x, int64_t rows, int64_t columns, const any_float *weight,
                       const any_float *bias, float epsilon, any_float *y) {
    CHOOSE(layer_norm, x, rows, columns, weight, bias, epsilon, y);
}

EXPORT void rms_norm(const any_float *x, int64_t rows, int64_t columns, const any_float *weight, float epsilon,
                     any_float *y) {
    CHOOSE(rms_norm, x, rows, columns, weight, epsilon, y);
}

EXPORT void gelu_new(const any_float *x, int64_t n, any_float *y) { CHOOSE(gelu_new, x, n, y); }

EXPORT void gelu(const any_float *x, int64_t n, any_float *y) { CHOOSE(gelu, x, n, y); }

EXPORT void silu_gate(const any_float *x, int64_t rows, int64_t columns, any_float *y) {
    CHOOSE(silu_gate, x, rows, columns, y);
}

EXPORT void exponentials(const any_float *x, int64_t n, any_float *y) { CHOOSE(exponentials, x, n, y); }

EXPORT int64_t attend(const Attention *a, const any_float *qkv, int64_t rows, int64_t position, any_float *out) {
    return CHOOSE(attend, a, qkv, rows, position, out);
}

// --- making packed rows: the reference quantisers of ggml ---------------------------------------------------------

static int64_t put_scale(uint8_t *to, float scale) {
    uint16_t half = narrow_half(scale);
    put_half(to, half);
    return (half & 0x7fff) == 0x7c00;
}

static int64_t quantise_q8_0(const any_float *x, uint8_t *to) {
    float largest = 0;
    for (int i = 0; i < LANES; i++) largest = __builtin_fabsf(x[i]) > largest ? __builtin_fabsf(x[i]) : largest;
    float d = largest / 127, inverse = d == 0 ? 0 : 1 / d;
    for (int i = 0; i < LANES; i++) {
        float scaled = x[i] * inverse, size = __builtin_fabsf(scaled);
        int whole = (int)size;
        whole += size - (float)whole >= 0.5f; // halves away from zero
        to[2 + i] = (uint8_t)(scaled < 0 ? -whole : whole);
    }
    return put_scale(to, d);
}

static void put_nibbles(uint8_t *to, const int *q) {
    for (int i = 0; i < LANES / 2; i++) {
        int low = q[i] > 15 ? 15 : q[i], high = q[i + LANES / 2] > 15 ? 15 : q[i + LANES / 2];
        to[i] = (uint8_t)(low | high << 4);
    }
}

static int64_t quantise_q4_0(const any_float *x, uint8_t *to) {
    float largest = x[0];
    for (int i = 1; i < LANES; i++) largest = __builtin_fabsf(x[i]) > __builtin_fabsf(largest) ? x[i] : largest;
    float d = largest / -8, inverse = d == 0 ? 0 : 1 / d;
    int q[LANES];
    for (int i = 0; i < LANES; i++) q[i] = (int)(x[i] * inverse + 8.5f);
    put_nibbles(to + 2, q);
    return put_scale(to, d);
}

static int64_t quantise_q4_1(const any_float *x, uint8_t *to) {
    float most = x[0], least = x[0];
    for (int i = 1; i < LANES; i++) {
        most = x[i] > most ? x[i] : most;
        least = x[i] < least ? x[i] : least;
    }
    float d = (most - least) / 15, inverse = d == 0 ? 0 : 1 / d;
    int q[LANES];
    for (int i = 0; i < LANES; i++) q[i] = (int)((x[i] - least) * inverse + 0.5f);
    put_nibbles(to + 4, q);
    int64_t lost = put_scale(to, d);
    return lost + put_scale(to + 2, least);
}

// Narrows n numbers to a plain format and widens them again; returns how many finite ones became infinite.
EXPORT int64_t round_to(int64_t format, const any_float *x, int64_t n, any_float *y) {
    uint8_t narrowed[4 * 512];
    int64_t lost = 0;
    for (int64_t at = 0; at < n; at += 512) {
        int64_t count = n - at < 512 ? n - at : 512;
        lost += narrow((int)format, x + at, count, narrowed);
        unpack(format, narrowed, count, y + at);
    }
    return lost;
}

// Packs n numbers, whole blocks of them; returns how many numbers or scales became infinite.
EXPORT int64_t pack(int64_t format, const any_float *x, int64_t n, uint8_t *to) {
    int64_t lost = 0;
    if (format < Q8_0) return narrow((int)format, x, n, to);
    for (int64_t i = 0; i < n; i += LANES, to += block_bytes((int)format)) {
        lost += format == Q8_0   ? quantise_q8_0(x + i, to)
                : format == Q4_0 ? quantise_q4_0(x + i, to)
                                 : quantise_q4_1(x + i, to);
    }
    return lost;
}
