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

// The 32 numbers of one block as float32.
INLINE void NAME(widen)(const int format, const uint8_t *block, vec w[PARTS]) {
    if (format == FLOAT32) {
        for (int n = 0; n < PARTS; n++) w[n] = NAME(load)((const any_float *)block + n * WIDTH);
    } else if (format == BFLOAT16) {
        for (int n = 0; n < PARTS; n++) w[n] = (vec)(NAME(load_u16)(block + 2 * n * WIDTH) << 16);
    } else if (format == FLOAT16) {
        for (int n = 0; n < PARTS; n++) w[n] = NAME(load_halves)(block + 2 * n * WIDTH);
    } else if (format == Q8_0) {
        vec d = NAME(all)(widen_half(*(const any_u16 *)block));
        for (int n = 0; n < PARTS; n++) w[n] = __builtin_convertvector(NAME(load_i8)(block + 2 + n * WIDTH), vec) * d;
    } else {
        vec d = NAME(all)(widen_half(*(const any_u16 *)block)), m = {0};
        const uint8_t *quants = block + (format == Q4_1 ? 4 : 2);
        if (format == Q4_1) m = NAME(all)(widen_half(*(const any_u16 *)(block + 2)));
        for (int n = 0; n < PARTS / 2; n++) { // a byte holds element i and, in its upper half, element i + 16
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

// --- products -----------------------------------------------------------------------------------------------------

#if WIDTH == 16
#define TILE 8
#elif WIDTH == 8
#define TILE 2
#else
#define TILE 1
#endif

// Products of one packed row with `rows` rows of x; they are put `apart` from each other.
INLINE void NAME(dots)(const int format, const int rows, const uint8_t *w, int64_t columns, const any_float *x,
                       const any_float *bias, any_float *y, int64_t apart) {
    vec sum[TILE][PARTS];
    for (int r = 0; r < rows; r++) {
        for (int n = 0; n < PARTS; n++) sum[r][n] = (vec){0};
    }
    int64_t whole = columns / LANES * LANES, size = block_bytes(format);
    for (int64_t at = 0; at < whole; at += LANES, w += size) {
        vec wide[PARTS];
        NAME(widen)(format, w, wide);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
#pragma GCC unroll 8
            for (int n = 0; n < PARTS; n++) sum[r][n] += wide[n] * NAME(load)(x + r * columns + at + n * WIDTH);
        }
    }
    if (format < Q8_0 && whole < columns) { // zeros add nothing: a sum that began at 0 is never -0
        uint8_t block[4 * LANES] = {0};
        vec wide[PARTS];
        memcpy(block, w, row_bytes(format, columns - whole));
        NAME(widen)(format, block, wide);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            float padded[LANES] = {0};
            memcpy(padded, x + r * columns + whole, 4 * (columns - whole));
#pragma GCC unroll 8
            for (int n = 0; n < PARTS; n++) sum[r][n] += wide[n] * NAME(load)(padded + n * WIDTH);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        float found = NAME(add_lanes)(sum[r]);
        y[r * apart] = bias ? found + *bias : found;
    }
}

// The same for any number of rows, in float32.
INLINE void NAME(dots_of)(const uint8_t *w, int64_t columns, const any_float *x, int64_t rows, any_float *y,
                          int64_t apart) {
    int64_t r = 0;
    for (; r + TILE <= rows; r += TILE) {
        NAME(dots)(FLOAT32, TILE, w, columns, x + r * columns, 0, y + r * apart, apart);
    }
    for (; r < rows; r++) NAME(dots)(FLOAT32, 1, w, columns, x + r * columns, 0, y + r * apart, apart);
}

#define GROUP_BYTES 131072 // of packed rows that stay in a cache while all rows of x pass

INLINE void NAME(tile)(const int format, const int rows, const Matrix *w, int64_t first, int64_t last,
                       const any_float *x, const any_float *bias, any_float *y) {
    int64_t size = row_bytes(format, w->columns);
    for (int64_t i = first; i < last; i++) {
        NAME(dots)(format, rows, w->data + i * size, w->columns, x, bias ? bias + i : 0, y + i, w->rows);
    }
}

INLINE void NAME(product)(const int format, const Matrix *w, const any_float *x, int64_t rows, const any_float *bias,
                          any_float *y) {
    int64_t group = GROUP_BYTES / (row_bytes(format, w->columns) + 1) + 1;
    for (int64_t first = 0; first < w->rows; first += group) {
        int64_t last = first + group < w->rows ? first + group : w->rows, r = 0;
        for (; r + TILE <= rows; r += TILE) {
            NAME(tile)(format, TILE, w, first, last, x + r * w->columns, bias, y + r * w->rows);
        }
#if TILE == 8
        if (rows - r >= 4) {
            NAME(tile)(format, 4, w, first, last, x + r * w->columns, bias, y + r * w->rows);
            r += 4;
        }
        if (rows - r >= 2) {
            NAME(tile)(format, 2, w, first, last, x + r * w->columns, bias, y + r * w->rows);
            r += 2;
        }
#endif
        if (r < rows) NAME(tile)(format, 1, w, first, last, x + r * w->columns, bias, y + r * w->rows);
    }
}

static TARGET void NAME(matmul)(const Matrix *w, const any_float *x, int64_t rows, const any_float *bias, any_float *y) {
    switch (w->format) {
    case FLOAT32: NAME(product)(FLOAT32, w, x, rows, bias, y); break;
    case BFLOAT16: NAME(product)(BFLOAT16, w, x, rows, bias, y); break;
    case FLOAT16: NAME(product)(FLOAT16, w, x, rows, bias, y); break;
    case Q8_0: NAME(product)(Q8_0, w, x, rows, bias, y); break;
    case Q4_0: NAME(product)(Q4_0, w, x, rows, bias, y); break;
    case Q4_1: NAME(product)(Q4_1, w, x, rows, bias, y); break;
    }
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

static TARGET void NAME(rows_of)(const Matrix *w, const any_i64 *ids, int64_t n, any_float *y) {
    int64_t size = row_bytes((int)w->format, w->columns);
    for (int64_t i = 0; i < n; i++) NAME(widen_any)((int)w->format, w->data + ids[i] * size, w->columns, y + i * w->columns);
}

// --- norms --------------------------------------------------------------------------------------------------------

// The next WIDTH of n numbers, or those that are left and then zeros.
INLINE vec NAME(load_some)(const any_float *x, int64_t n) {
    if (n >= WIDTH) return NAME(load)(x);
    float padded[WIDTH] = {0};
    if (n > 0) memcpy(padded, x, 4 * n);
    return NAME(load)(padded);
}

INLINE void NAME(store_some)(any_float *y, vec x, int64_t n) {
    if (n >= WIDTH) {
        NAME(store)(y, x);
    } else if (n > 0) {
        float padded[WIDTH];
        NAME(store)(padded, x);
        memcpy(y, padded, 4 * n);
    }
}

INLINE float NAME(sum)(const any_float *x, int64_t n) {
    vec sum[PARTS] = {{0}};
    for (int64_t at = 0; at < n; at += LANES) {
        for (int p = 0; p < PARTS; p++) sum[p] += NAME(load_some)(x + at + p * WIDTH, n - at - p * WIDTH);
    }
    return NAME(add_lanes)(sum);
}

// The sum of (x - centre)^2.
INLINE float NAME(squares)(const any_float *x, int64_t n, float centre) {
    vec sum[PARTS] = {{0}};
    for (int64_t at = 0; at < n; at += LANES) {
        for (int p = 0; p < PARTS; p++) {
            int64_t left = n - at - p * WIDTH;
            vec far = NAME(load_some)(x + at + p * WIDTH, left) - centre;
            if (left < WIDTH) {
                float padded[WIDTH] = {0};
                NAME(store_some)(padded, far, left);
                far = NAME(load)(padded);
            }
            sum[p] += far * far;
        }
    }
    return NAME(add_lanes)(sum);
}

static TARGET void NAME(layer_norm)(const any_float *x, int64_t rows, int64_t columns, const any_float *weight,
                                    const any_float *bias, float epsilon, any_float *y) {
    for (int64_t r = 0; r < rows; r++, x += columns, y += columns) {
        float mean = NAME(sum)(x, columns) / (float)columns;
        float variance = NAME(squares)(x, columns, mean) / (float)columns;
        float scale = 1.0f / __builtin_sqrtf(variance + epsilon);
        for (int64_t i = 0; i < columns; i++) {
            float normed = (x[i] - mean) * scale * weight[i];
            y[i] = bias ? normed + bias[i] : normed;
        }
    }
}

INLINE float NAME(rms_scale)(const any_float *x, int64_t n, float epsilon) {
    return 1.0f / __builtin_sqrtf(NAME(squares)(x, n, 0.0f) / (float)n + epsilon);
}

static TARGET void NAME(rms_norm)(const any_float *x, int64_t rows, int64_t columns, const any_float *weight,
                                  float epsilon, any_float *y) {
    for (int64_t r = 0; r < rows; r++, x += columns, y += columns) {
        float scale = NAME(rms_scale)(x, columns, epsilon);
        for (int64_t i = 0; i < columns; i++) y[i] = x[i] * scale * weight[i];
    }
}

// --- activations --------------------------------------------------------------------------------------------------

// e^x to 1 ulp: x = n ln 2 + r, 1 + r + r^2 p(r) with a minimax polynomial p for |r| <= ln(2)/2, and 2^n in two steps.
INLINE vec NAME(exp)(vec x) {
    x = NAME(pick)(x > 89.0f, NAME(all)(89.0f), x);
    x = NAME(pick)(x < -104.0f, NAME(all)(-104.0f), x);
    vec n = x * 1.44269504088896341f + 12582912.0f - 12582912.0f; // 1.5 * 2^23: rounds to a whole number
    vec r = x - n * 0.693359375f + n * 2.12194440054690583e-4f;  // ln 2 in two parts, the product with the first exact
    vec p = r * 0.0013820661697536707f + 0.008368674665689468f;
    p = p * r + 0.04166826605796814f;
    p = p * r + 0.1666652113199234f;
    p = p * r + 0.4999999403953552f;
    p = (p * (r * r) + r) + 1.0f;
    ivec whole = __builtin_convertvector(n, ivec), half = whole >> 1;
    return p * (vec)((half + 127) << 23) * (vec)((whole - half + 127) << 23);
}

INLINE vec NAME(one_gelu_new)(vec x) { // x/2 (1 + tanh u) is x / (1 + e^-2u)
    vec u = 0.7978845608028654f * (x + 0.044715f * (x * x * x));
    return x / (1.0f + NAME(exp)(-2.0f * u));
}

// x times the normal distribution's function; its tail by Abramowitz and Stegun, 7.1.26 (error 0.8e-7).
INLINE vec NAME(one_gelu)(vec x) {
    vec z = NAME(pick)(x < 0.0f, -x, x) * 0.7071067811865476f, t = 1.0f / (1.0f + 0.3275911f * z);
    vec p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vec tail = 0.5f * (p * t) * NAME(exp)(-z * z);
    return NAME(pick)(x < 0.0f, x * tail, x - x * tail);
}

static TARGET void NAME(exponentials)(const any_float *x, int64_t n, any_float *y) {
    for (int64_t i = 0; i < n; i += WIDTH) {
        NAME(store_some)(y + i, NAME(exp)(NAME(load_some)(x + i, n - i)), n - i);
    }
}

static TARGET void NAME(gelu_new)(const any_float *x, int64_t n, any_float *y) {
    for (int64_t i = 0; i < n; i += WIDTH) {
        NAME(store_some)(y + i, NAME(one_gelu_new)(NAME(load_some)(x + i, n - i)), n - i);
    }
}

static TARGET void NAME(gelu)(const any_float *x, int64_t n, any_float *y) {
    for (int64_t i = 0; i < n; i += WIDTH) {
        NAME(store_some)(y + i, NAME(one_gelu)(NAME(load_some)(x + i, n - i)), n - i);
    }
}

// A row of x is the gates and then the ups: columns of each.
static TARGET void NAME(silu_gate)(const any_float *x, int64_t rows, int64_t columns, any_float *y) {
    for (int64_t r = 0; r < rows; r++, x += 2 * columns, y += columns) {
        for (int64_t i = 0; i < columns; i += WIDTH) {
            vec gate = NAME(load_some)(x + i, columns - i), up = NAME(load_some)(x + columns + i, columns - i);
            NAME(store_some)(y + i, gate / (1.0f + NAME(exp)(-gate)) * up, columns - i);
        }
    }
}

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
