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

// Adds the values of positions `from` to `end` for queries that attend to all of them; `room` numbers of the head at once.
INLINE void NAME(add_values)(const int queries, const int room, const Queries *s, int64_t query, const any_float *v,
                             int64_t base, int64_t from, int64_t end) {
    for (int64_t at = 0; at + room <= s->stride; at += room) {
        vec sum[WIDTH / 4][2 * PARTS];
#pragma GCC unroll 4
        for (int i = 0; i < queries; i++) {
#pragma GCC unroll 16
            for (int n = 0; n < room / WIDTH; n++) {
                sum[i][n] = NAME(load)(s->out + (query + i) * s->stride + at + n * WIDTH) * s->shrink[query + i];
            }
        }
        const float *weight = s->score + query * LANES - base;
        for (int64_t t = from; t < end; t++) {
#pragma GCC unroll 16
            for (int n = 0; n < room / WIDTH; n++) {
                vec value = NAME(load)(v + t * s->stride + at + n * WIDTH);
#pragma GCC unroll 4
                for (int i = 0; i < queries; i++) sum[i][n] += weight[i * LANES + t] * value;
            }
        }
#pragma GCC unroll 4
        for (int i = 0; i < queries; i++) {
#pragma GCC unroll 16
            for (int n = 0; n < room / WIDTH; n++) {
                NAME(store)(s->out + (query + i) * s->stride + at + n * WIDTH, sum[i][n]);
            }
        }
    }
}

// The weights of positions `from` to `end` of a block in the softmax, not yet divided by their sum.
INLINE void NAME(weigh)(const Queries *s, const any_float *k, float scale, int64_t base, int64_t from, int64_t end) {
    for (int64_t t = from; t < end; t++) {
        NAME(dots_of)((const uint8_t *)(k + t * s->stride), s->stride, s->q, s->count, 0, s->score + t - base, LANES);
    }
    for (int64_t i = 0; i < s->count; i++) {
        float *score = s->score + i * LANES, most = s->largest[i];
        for (int64_t t = base; t < base + LANES; t++) {
            int seen = t >= from && t < end && t >= s->first[i] && t < s->end[i];
            score[t - base] = seen ? score[t - base] * scale : -__builtin_inff();
            most = score[t - base] > most ? score[t - base] : most;
        }
        float centre = most == -__builtin_inff() ? 0 : most; // nothing has been seen yet
        s->shrink[i] = s->largest[i] - centre;
        s->largest[i] = most;
        for (int n = 0; n < PARTS; n++) {
            NAME(store)(score + n * WIDTH, NAME(exp)(NAME(load)(score + n * WIDTH) - centre));
        }
    }
    for (int64_t i = 0; i < s->count; i += WIDTH) NAME(store)(s->shrink + i, NAME(exp)(NAME(load)(s->shrink + i)));
    for (int64_t i = 0; i < s->count; i++) {
        for (int n = 0; n < PARTS; n++) {
            float *lanes = s->lanes + i * LANES + n * WIDTH;
            NAME(store)(lanes, NAME(load)(lanes) * s->shrink[i] + NAME(load)(s->score + i * LANES + n * WIDTH));
        }
    }
}

#define AT_ONCE (WIDTH / 4) // queries that share a value in registers

// One block of positions for all queries.
INLINE void NAME(attend_block)(const Queries *s, const any_float *k, const any_float *v, float scale, int64_t base,
                               int64_t from, int64_t end) {
    NAME(weigh)(s, k, scale, base, from, end);
    for (int64_t i = 0; i < s->count;) {
        int64_t first = s->first[i] > from ? s->first[i] : from, last = s->end[i] < end ? s->end[i] : end;
        int64_t other = i + AT_ONCE - 1; // first and end grow from query to query
        if (other < s->count && s->first[other] <= first && last == (s->end[other] < end ? s->end[other] : end)) {
            NAME(add_values)(AT_ONCE, LANES, s, i, v, base, first, last);
            i += AT_ONCE;
        } else {
            if (s->stride % (2 * LANES)) NAME(add_values)(1, LANES, s, i, v, base, first, last);
            else NAME(add_values)(1, 2 * LANES, s, i, v, base, first, last);
            i++;
        }
    }
}

// Some rows, starting at `position`; room for their queries and for a block of widened keys and values.
INLINE void NAME(attend_rows)(const Attention *a, const Queries *s, const any_float *qkv, int64_t rows,
                              int64_t position, float *keys, float *values, any_float *out) {
    int64_t d = a->head_dim, r = a->queries, width = (r + 2) * d;
    memset(s->lanes, 0, 4 * s->count * LANES);
    memset(s->out, 0, 4 * s->count * s->stride);
    for (int64_t i = 0; i < s->count; i++) {
        int64_t now = position + i / r;
        NAME(prepare)(a, qkv + i / r * width + i % r * d, a->q_norm, now, s->q + i * s->stride);
        s->largest[i] = -__builtin_inff();
        s->first[i] = a->window && now >= a->window ? now - a->window + 1 : 0;
        s->end[i] = now + 1;
    }
    int64_t least = s->first[0];
    for (int64_t base = least / LANES * LANES; base < position + rows; base += LANES) {
        int64_t from = base < least ? least : base, end = position + rows < base + LANES ? position + rows : base + LANES;
        const any_float *k = NAME(cached)(a, a->keys, from, end, s->stride, keys);
        const any_float *v = NAME(cached)(a, a->values, from, end, s->stride, values);
        NAME(attend_block)(s, k - from * s->stride, v - from * s->stride, a->scale, base, from, end);
    }
    for (int64_t i = 0; i < s->count; i++) {
        vec lanes[PARTS];
        for (int n = 0; n < PARTS; n++) lanes[n] = NAME(load)(s->lanes + i * LANES + n * WIDTH);
        float total = NAME(add_lanes)(lanes);
        for (int64_t j = 0; j < d; j++) out[i * d + j] = s->out[i * s->stride + j] / total;
    }
}

// Writes the rows' keys and values, then attends; returns how many numbers became infinite in the cache.
static TARGET int64_t NAME(attend)(const Attention *a, const any_float *qkv, int64_t rows, int64_t position,
                                   any_float *out) {
    int64_t d = a->head_dim, r = a->queries, stride = (d + LANES - 1) / LANES * LANES, lost = 0;
    int64_t size = row_bytes((int)a->format, d), width = (r + 2) * d, most = r < QUERIES ? QUERIES / r : 1;
    if (most > rows) most = rows;
    if (rows == 0) return 0;
    int64_t count = most * r, padded = (count + WIDTH - 1) / WIDTH * WIDTH;
    float q[count * stride], sums[count * stride], lanes[count * LANES], score[count * LANES];
    float largest[count], shrink[padded], keys[LANES * stride], values[LANES * stride];
    int64_t first[count], end[count];
    Queries s = {count, stride, q, lanes, largest, sums, score, shrink, first, end};
    if (stride != d) {
        memset(q, 0, sizeof q);
        memset(keys, 0, sizeof keys);
        memset(values, 0, sizeof values);
    }
    memset(shrink, 0, sizeof shrink);
    memset(score, 0, sizeof score);
    for (int64_t i = 0; i < rows; i++) {
        const any_float *key = qkv + i * width + r * d;
        NAME(prepare)(a, key, a->k_norm, position + i, q);
        lost += narrow((int)a->format, (const any_float *)q, d, a->keys + (position + i) * size);
        lost += narrow((int)a->format, key + d, d, a->values + (position + i) * size);
    }
    for (int64_t i = 0; i < rows; i += most) {
        int64_t now = rows - i < most ? rows - i : most;
        s.count = now * r;
        NAME(attend_rows)(a, &s, qkv + i * width, now, position + i, keys, values, out + i * r * d);
    }
    return lost;
}

#undef AT_ONCE
