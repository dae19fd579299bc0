// Products with packed matrices and lookups of their rows, for one width of vectors; kernels_body.h includes this file.

#if WIDTH == 16
#define TILE 8
#elif WIDTH == 8 || defined(__aarch64__)
#define TILE 2
#else
#define TILE 1
#endif

#define AHEAD_BYTES 2048 // are fetched meanwhile: processors do not do so by themselves across pages

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
        if (format < Q8_0) __builtin_prefetch(w + AHEAD_BYTES);
        if (format == FLOAT32) __builtin_prefetch(w + AHEAD_BYTES + 64); // a block is two lines of a cache
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
INLINE void NAME(dots_of)(const uint8_t *w, int64_t columns, const any_float *x, int64_t rows, const any_float *bias,
                          any_float *y, int64_t apart) {
    int64_t r = 0;
    for (; r + TILE <= rows; r += TILE) {
        NAME(dots)(FLOAT32, TILE, w, columns, x + r * columns, bias, y + r * apart, apart);
    }
    for (; r < rows; r++) NAME(dots)(FLOAT32, 1, w, columns, x + r * columns, bias, y + r * apart, apart);
}

#define GROUP_BYTES 131072 // of packed rows that stay in a cache while all rows of x pass

#define MOST_COLUMNS 16384 // of a row that is widened once for all rows of x, where registers hold sums of one row only

INLINE void NAME(tile)(const int format, const int rows, const Matrix *w, int64_t first, int64_t last,
                       const any_float *x, const any_float *bias, any_float *y) {
    int64_t size = row_bytes(format, w->columns);
    for (int64_t i = first; i < last; i++) {
        NAME(dots)(format, rows, w->data + i * size, w->columns, x, bias ? bias + i : 0, y + i, w->rows);
    }
}

INLINE void NAME(product)(const int format, const Matrix *w, const any_float *x, int64_t rows, const any_float *bias,
                          any_float *y) {
#if WIDTH == 4
    if (format != FLOAT32 && rows > TILE && w->columns <= MOST_COLUMNS) {
        float wide[MOST_COLUMNS];
        for (int64_t i = 0; i < w->rows; i++) {
            NAME(widen_row)(format, w->data + i * row_bytes(format, w->columns), w->columns, wide);
            NAME(dots_of)((const uint8_t *)wide, w->columns, x, rows, bias ? bias + i : 0, y + i, w->rows);
        }
        return;
    }
#endif
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

static TARGET void NAME(rows_of)(const Matrix *w, const any_i64 *ids, int64_t n, any_float *y) {
    int64_t size = row_bytes((int)w->format, w->columns);
    for (int64_t i = 0; i < n; i++) NAME(widen_any)((int)w->format, w->data + ids[i] * size, w->columns, y + i * w->columns);
}
