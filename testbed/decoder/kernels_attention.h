// Attention of one KV group for one width of vectors; kernels_body.h includes this file.
//
// Keys are taken in blocks of 32 positions, 0 to 31, 32 to 63, ...: position p is lane p % 32 of the softmax's sum. The
// largest score so far is carried along, and what was added before is rescaled when it grows (online softmax: Milakov
// and Gimelshein 2018). Values are added in the order of positions.

// RMS norm if there is a weight, then RoPE if there are tables; the halves of the head rotate (the form of Hugging Face).
INLINE void NAME(prepare)(const Attention *a, const any_float *x, const any_float *norm, int64_t position, float *to) {
    int64_t d = a->head_dim, half = d / 2;
    float scale = norm ? NAME(rms_scale)(x, d, a->epsilon) : 1.0f;
    for (int64_t i = 0; i < d; i++) to[i] = norm ? x[i] * scale * norm[i] : x[i];
    if (!a->cosines) return;
    const any_float *cosine = a->cosines + position * half, *sine = a->sines + position * half;
    for (int64_t i = 0; i < half; i++) {
        float first = to[i], second = to[i + half];
        to[i] = first * cosine[i] - second * sine[i];
        to[i + half] = second * cosine[i] + first * sine[i];
    }
}

// Widens rows `first` to `last` of a cache to rows of `stride` floats; what is past d stays as it is.
INLINE const any_float *NAME(cached)(const Attention *a, const uint8_t *cache, int64_t first, int64_t last,
                                     int64_t stride, float *room) {
    int64_t size = row_bytes((int)a->format, a->head_dim);
    if (a->format == FLOAT32 && stride == a->head_dim) return (const any_float *)(cache + first * size);
    for (int64_t t = first; t < last; t++) {
        NAME(widen_any)((int)a->format, cache + t * size, a->head_dim, room + (t - first) * stride);
    }
    return room;
}

// One row: q (r, stride) against positions `least` to `position`.
INLINE void NAME(attend_row)(const Attention *a, const float *q, int64_t least, int64_t position, int64_t stride,
                             float *keys, float *values, float *state, any_float *out) {
    int64_t d = a->head_dim, step = LANES + 1 + stride; // of a query: the sum's lanes, the largest score, the output
    for (int64_t h = 0; h < a->queries; h++) {
        memset(state + h * step, 0, 4 * step);
        state[h * step + LANES] = -__builtin_inff();
    }
    for (int64_t base = least / LANES * LANES; base <= position; base += LANES) {
        int64_t from = base < least ? least : base, to = position + 1 < base + LANES ? position + 1 : base + LANES;
        const any_float *k = NAME(cached)(a, a->keys, from, to, stride, keys);
        const any_float *v = NAME(cached)(a, a->values, from, to, stride, values);
        for (int64_t h = 0; h < a->queries; h++) {
            float *lanes = state + h * step, *largest = lanes + LANES, *sum = largest + 1;
            float score[LANES], most = *largest;
            for (int i = 0; i < LANES; i++) score[i] = -__builtin_inff();
            for (int64_t t = from; t < to; t++) {
                float dot;
                NAME(dots)(FLOAT32, 1, (const uint8_t *)(k + (t - from) * stride), stride, q + h * stride, &dot);
                score[t - base] = dot * a->scale;
                most = score[t - base] > most ? score[t - base] : most;
            }
            float shrink[WIDTH];
            NAME(store)(shrink, NAME(exp)(NAME(all)(*largest - most)));
            for (int n = 0; n < PARTS; n++) {
                vec e = NAME(exp)(NAME(load)(score + n * WIDTH) - most);
                NAME(store)(score + n * WIDTH, e);
                NAME(store)(lanes + n * WIDTH, NAME(load)(lanes + n * WIDTH) * shrink[0] + e);
            }
            *largest = most;
            for (int64_t i = 0; i < stride; i += LANES) {
                vec add[PARTS];
                for (int n = 0; n < PARTS; n++) add[n] = NAME(load)(sum + i + n * WIDTH) * shrink[0];
                for (int64_t t = from; t < to; t++) {
                    for (int n = 0; n < PARTS; n++) {
                        add[n] += score[t - base] * NAME(load)(v + (t - from) * stride + i + n * WIDTH);
                    }
                }
                for (int n = 0; n < PARTS; n++) NAME(store)(sum + i + n * WIDTH, add[n]);
            }
        }
    }
    for (int64_t h = 0; h < a->queries; h++) {
        vec lanes[PARTS];
        for (int n = 0; n < PARTS; n++) lanes[n] = NAME(load)(state + h * step + n * WIDTH);
        float total = NAME(add_lanes)(lanes);
        for (int64_t i = 0; i < d; i++) out[h * d + i] = state[h * step + LANES + 1 + i] / total;
    }
}

// Writes the rows' keys and values, then attends row by row; returns how many of them became infinite in the cache.
static TARGET int64_t NAME(attend)(const Attention *a, const any_float *qkv, int64_t rows, int64_t position,
                                   any_float *out) {
    int64_t d = a->head_dim, r = a->queries, stride = (d + LANES - 1) / LANES * LANES, lost = 0;
    int64_t size = row_bytes((int)a->format, d), width = (r + 2) * d;
    float keys[LANES * stride], values[LANES * stride], q[r * stride], state[r * (LANES + 1 + stride)];
    memset(keys, 0, sizeof keys);
    memset(values, 0, sizeof values);
    memset(q, 0, sizeof q);
    for (int64_t i = 0; i < rows; i++) {
        const any_float *key = qkv + i * width + r * d;
        NAME(prepare)(a, key, a->k_norm, position + i, q);
        lost += narrow((int)a->format, q, d, a->keys + (position + i) * size);
        lost += narrow((int)a->format, key + d, d, a->values + (position + i) * size);
    }
    for (int64_t i = 0; i < rows; i++) {
        int64_t now = position + i, least = a->window && now >= a->window ? now - a->window + 1 : 0;
        for (int64_t h = 0; h < r; h++) {
            NAME(prepare)(a, qkv + i * width + h * d, a->q_norm, now, q + h * stride);
        }
        NAME(attend_row)(a, q, least, now, stride, keys, values, state, out + i * r * d);
    }
    return lost;
}
