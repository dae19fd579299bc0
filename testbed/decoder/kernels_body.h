// The kernels for one width of vectors: kernels.c includes this file with NAME, TARGET and WIDTH (floats in a vector).

#define PARTS (LANES / WIDTH)
#define INLINE static inline __attribute__((always_inline)) TARGET
#define vec NAME(vec)
#define ivec NAME(ivec)
#define any_vec NAME(any_vec)

typedef float vec __attribute__((vector_size(4 * WIDTH)));
typedef int32_t ivec __attribute__((vector_size(4 * WIDTH)));
typedef float any_vec __attribute__((vector_size(4 * WIDTH), aligned(1), may_alias));

// --- loading ------------------------------------------------------------------------------------------------------

#if WIDTH == 16
INLINE ivec NAME(load_u8)(const uint8_t *p) { return (ivec)_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p)); }
INLINE ivec NAME(load_i8)(const uint8_t *p) { return (ivec)_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)); }
INLINE ivec NAME(load_u16)(const uint8_t *p) { return (ivec)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)); }
#elif WIDTH == 8
INLINE ivec NAME(load_u8)(const uint8_t *p) { return (ivec)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p)); }
INLINE ivec NAME(load_i8)(const uint8_t *p) { return (ivec)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)); }
INLINE ivec NAME(load_u16)(const uint8_t *p) { return (ivec)_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)); }
#elif defined(WIDER)
INLINE ivec NAME(load_u8)(const uint8_t *p) {
    __m128i bytes = _mm_unpacklo_epi8(_mm_cvtsi32_si128(*(const any_i32 *)p), _mm_setzero_si128());
    return (ivec)_mm_unpacklo_epi16(bytes, _mm_setzero_si128());
}
INLINE ivec NAME(load_i8)(const uint8_t *p) {
    __m128i bytes = _mm_unpacklo_epi8(_mm_setzero_si128(), _mm_cvtsi32_si128(*(const any_i32 *)p));
    return (ivec)_mm_srai_epi32(_mm_unpacklo_epi16(_mm_setzero_si128(), bytes), 24);
}
INLINE ivec NAME(load_u16)(const uint8_t *p) {
    return (ivec)_mm_unpacklo_epi16(_mm_loadl_epi64((const void *)p), _mm_setzero_si128());
}
#elif defined(__aarch64__)
INLINE ivec NAME(load_u8)(const uint8_t *p) {
    return (ivec)vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8((uint32_t)*(const any_i32 *)p))));
}
INLINE ivec NAME(load_i8)(const uint8_t *p) {
    return (ivec)vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8((uint32_t)*(const any_i32 *)p))));
}
INLINE ivec NAME(load_u16)(const uint8_t *p) { return (ivec)vmovl_u16(vreinterpret_u16_u8(vld1_u8(p))); }
#else
INLINE ivec NAME(load_u8)(const uint8_t *p) { return (ivec){p[0], p[1], p[2], p[3]}; }
INLINE ivec NAME(load_i8)(const uint8_t *p) { return (ivec){(int8_t)p[0], (int8_t)p[1], (int8_t)p[2], (int8_t)p[3]}; }
INLINE ivec NAME(load_u16)(const uint8_t *p) {
    const any_u16 *u = (const any_u16 *)p;
    return (ivec){u[0], u[1], u[2], u[3]};
}
#endif

INLINE vec NAME(load)(const any_float *p) { return *(const any_vec *)p; }
INLINE void NAME(store)(any_float *p, vec x) { *(any_vec *)p = x; }
INLINE vec NAME(all)(float x) { return x - (vec){0}; }
INLINE vec NAME(pick)(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

#if WIDTH == 16
INLINE vec NAME(load_halves)(const uint8_t *p) { return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)p)); }
#elif WIDTH == 8
INLINE vec NAME(load_halves)(const uint8_t *p) { return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const void *)p)); }
#elif defined(__aarch64__)
INLINE vec NAME(load_halves)(const uint8_t *p) { return (vec)vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p))); }
#else
INLINE vec NAME(load_halves)(const uint8_t *p) {
    ivec half = NAME(load_u16)(p);
    ivec size = half & 0x7fff, sign = (half & 0x8000) << 16;
    ivec normal = (size << 13) + 0x38000000 + ((size >= 0x7c00) & 0x38000000);
    ivec small = (ivec)((vec)(size | 0x3f000000) - 0.5f); // size times 2^-24
    ivec is_small = size < 0x0400;
    return (vec)(((is_small & small) | (~is_small & normal)) | sign);
}
#endif

INLINE vec NAME(all_half)(const uint8_t *p) { return NAME(all)(widen_half(*(const any_u16 *)p)); }

#if WIDTH == 16
// Scale times 0 to 15 plus minimum, each in its place: a lookup replaces a conversion.
INLINE void NAME(widen_nibbles)(const int format, const uint8_t *block, vec w[PARTS]) {
    vec values = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    __m512i both = (__m512i)NAME(load_u8)(block + (format == Q4_1 ? 4 : 2));
    if (format == Q4_1) {
        __m512 scales = _mm512_castps128_ps512(_mm_cvtph_ps(_mm_cvtsi32_si128(*(const any_i32 *)block)));
        values = values * (vec)_mm512_permutexvar_ps(_mm512_setzero_si512(), scales);
        values += (vec)_mm512_permutexvar_ps(_mm512_set1_epi32(1), scales);
    } else {
        values = (values - 8.0f) * NAME(all_half)(block);
    }
    w[0] = (vec)_mm512_permutexvar_ps(both, (__m512)values); // the lookup ignores upper bits
    w[1] = (vec)_mm512_permutexvar_ps(_mm512_srli_epi32(both, 4), (__m512)values);
}
#else
INLINE void NAME(widen_nibbles)(const int format, const uint8_t *block, vec w[PARTS]) {
    vec d = NAME(all_half)(block), m = format == Q4_1 ? NAME(all_half)(block + 2) : (vec){0};
    const uint8_t *quants = block + (format == Q4_1 ? 4 : 2);
    for (int n = 0; n < PARTS / 2; n++) {
        ivec both = NAME(load_u8)(quants + n * WIDTH), low = both & 15, high = both >> 4;
        if (format == Q4_0) {
            w[n] = __builtin_convertvector(low - 8, vec) * d;
            w[n + PARTS / 2] = __builtin_convertvector(high - 8, vec) * d;
        } else {
            w[n] = __builtin_convertvector(low, vec) * d + m;
            w[n + PARTS / 2] = __builtin_convertvector(high, vec) * d + m;
        }
    }
}
#endif

// The 32 numbers of one block as float32. A byte of q4 holds element i and, in its upper half, element i + 16.
INLINE void NAME(widen)(const int format, const uint8_t *block, vec w[PARTS]) {
    if (format == FLOAT32) {
        for (int n = 0; n < PARTS; n++) w[n] = NAME(load)((const any_float *)block + n * WIDTH);
    } else if (format == BFLOAT16) {
        for (int n = 0; n < PARTS; n++) w[n] = (vec)(NAME(load_u16)(block + 2 * n * WIDTH) << 16);
    } else if (format == FLOAT16) {
        for (int n = 0; n < PARTS; n++) w[n] = NAME(load_halves)(block + 2 * n * WIDTH);
    } else if (format == Q8_0) {
        vec d = NAME(all_half)(block);
        for (int n = 0; n < PARTS; n++) w[n] = __builtin_convertvector(NAME(load_i8)(block + 2 + n * WIDTH), vec) * d;
    } else {
        NAME(widen_nibbles)(format, block, w);
    }
}

#if WIDTH == 4
INLINE float NAME(add_vec)(vec a) {
    return (a[0] + a[2]) + (a[1] + a[3]);
}
#else
INLINE float NAME(add_vec)(vec a) {
#if WIDTH == 16
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256((__m512)a), _mm512_extractf32x8_ps((__m512)a, 1));
#else
    __m256 h = (__m256)a;
#endif
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
#endif

// The sum of the lanes, by halves.
INLINE float NAME(add_lanes)(vec a[PARTS]) {
    vec left[PARTS];
    for (int n = 0; n < PARTS; n++) left[n] = a[n];
    for (int half = PARTS / 2; half > 0; half /= 2) {
        for (int n = 0; n < half; n++) left[n] = left[n] + left[n + half];
    }
    return NAME(add_vec)(left[0]);
}

INLINE void NAME(widen_row)(const int format, const uint8_t *from, int64_t columns, any_float *to) {
    int64_t whole = columns / LANES * LANES;
    vec wide[PARTS];
    for (int64_t at = 0; at < whole; at += LANES, from += block_bytes(format)) {
        NAME(widen)(format, from, wide);
        for (int n = 0; n < PARTS; n++) NAME(store)(to + at + n * WIDTH, wide[n]);
    }
    if (format < Q8_0 && whole < columns) {
        uint8_t block[4 * LANES] = {0};
        float padded[LANES];
        memcpy(block, from, row_bytes(format, columns - whole));
        NAME(widen)(format, block, wide);
        for (int n = 0; n < PARTS; n++) NAME(store)(padded + n * WIDTH, wide[n]);
        memcpy(to + whole, padded, 4 * (columns - whole));
    }
}

static TARGET void NAME(widen_any)(int format, const uint8_t *from, int64_t columns, any_float *to) {
    switch (format) {
    case FLOAT32: NAME(widen_row)(FLOAT32, from, columns, to); break;
    case BFLOAT16: NAME(widen_row)(BFLOAT16, from, columns, to); break;
    case FLOAT16: NAME(widen_row)(FLOAT16, from, columns, to); break;
    case Q8_0: NAME(widen_row)(Q8_0, from, columns, to); break;
    case Q4_0: NAME(widen_row)(Q4_0, from, columns, to); break;
    case Q4_1: NAME(widen_row)(Q4_1, from, columns, to); break;
    }
}

#include "kernels_products.h"
#include "kernels_rowwise.h"
#include "kernels_attention.h"

#undef PARTS
#undef INLINE
#undef vec
#undef ivec
#undef any_vec
#undef TILE
#undef NAME
#undef TARGET
#undef WIDTH
