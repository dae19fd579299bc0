// Norms and activations for one width of vectors; kernels_body.h includes this file.

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
    ivec vanishes = x < -104.0f; // left out of the arithmetic, where results that underflow are slow
    x = NAME(pick)(x > 89.0f, NAME(all)(89.0f), NAME(pick)(vanishes, (vec){0}, x));
    vec n = x * 1.44269504088896341f + 12582912.0f - 12582912.0f; // 1.5 * 2^23: rounds to a whole number
    vec r = x - n * 0.693359375f + n * 2.12194440054690583e-4f;  // ln 2 in two parts, the product with the first exact
    vec p = r * 0.0013820661697536707f + 0.008368674665689468f;
    p = p * r + 0.04166826605796814f;
    p = p * r + 0.1666652113199234f;
    p = p * r + 0.4999999403953552f;
    p = (p * (r * r) + r) + 1.0f;
    ivec whole = __builtin_convertvector(n, ivec), half = whole >> 1;
    return NAME(pick)(vanishes, (vec){0}, p * (vec)((half + 127) << 23) * (vec)((whole - half + 127) << 23));
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
