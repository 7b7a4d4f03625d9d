/* The arithmetic of the tile products, after the operation sections of the Intel 64 and IA-32 Architectures Software
 * Developer's Manual (volume 2: TDPBF16PS, TDPBSSD and its kin) and of the Intel Architecture Instruction Set Extensions
 * Programming Reference (TDPFP16PS). Both float products keep an even and an odd sum per element, both start from zero
 * and grow by FMAs in the order of k; then C += even + odd, two roundings. All of it is FP32, rounds to nearest even,
 * takes FP32 denormals as zero and gives zero for them (DAZ = FTZ = 1), and neither reads nor writes MXCSR. FP16
 * denormals are no FP32 denormals: they count in full. What a tile holds beyond its rows and columns nobody can ever
 * see, for a new shape comes with zeroed tiles: all columns are computed, and none of those is cleared. */

#include "amx.h"

#include <immintrin.h>
#include <string.h>

#define BOTH static inline __attribute__((always_inline))

/* Exceptions masked, flush to zero, denormals are zeros, round to nearest. */
enum { MXCSR_OF_TILES = 0x9fc0 };

BOTH float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

BOTH float widened(uint16_t x, int half)
{
    if (!half)
        return from_bits((uint32_t)x << 16);
    uint32_t sign = (uint32_t)(x & 0x8000) << 16, exponent = x >> 10 & 31, fraction = x & 0x3ff;
    if (exponent == 31)
        return from_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent)
        return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float magnitude = (float)fraction * 0x1p-24f;
    return sign ? -magnitude : magnitude;
}

BOTH void multiply_floats(struct tiles *t, int c, int a, int b, int half)
{
    int depth = t->colsb[a] / 4;
    float right[2][ROWS][LANES]; /* even and odd elements of B */
    for (int k = 0; k < depth; k++)
        for (int n = 0; n < LANES; n++)
            for (int odd = 0; odd < 2; odd++) {
                uint16_t x;
                memcpy(&x, &t->data[b][k][4 * n + 2 * odd], sizeof x);
                right[odd][k][n] = widened(x, half);
            }
    for (int m = 0; m < t->rows[c]; m++) {
        float even[LANES] = {0}, odd[LANES] = {0}, row[LANES];
        for (int k = 0; k < depth; k++) {
            uint16_t pair[2];
            memcpy(pair, &t->data[a][m][4 * k], sizeof pair);
            float first = widened(pair[0], half), second = widened(pair[1], half);
            for (int n = 0; n < LANES; n++)
                even[n] = __builtin_fmaf(first, right[0][k][n], even[n]);
            for (int n = 0; n < LANES; n++)
                odd[n] = __builtin_fmaf(second, right[1][k][n], odd[n]);
        }
        memcpy(row, t->data[c][m], sizeof row);
        for (int n = 0; n < LANES; n++)
            row[n] += even[n] + odd[n];
        memcpy(t->data[c][m], row, sizeof row);
    }
}

BOTH void multiply_bytes(struct tiles *t, int c, int a, int b, int signed_a, int signed_b)
{
    int depth = t->colsb[a] / 4;
    int32_t right[ROWS][4][LANES];
    for (int k = 0; k < depth; k++)
        for (int i = 0; i < 4; i++)
            for (int n = 0; n < LANES; n++) {
                uint32_t word;
                memcpy(&word, &t->data[b][k][4 * n], sizeof word);
                right[k][i][n] = signed_b ? (int8_t)(word >> 8 * i) : (uint8_t)(word >> 8 * i);
            }
    for (int m = 0; m < t->rows[c]; m++) {
        uint32_t row[LANES];
        memcpy(row, t->data[c][m], sizeof row);
        for (int k = 0; k < depth; k++)
            for (int i = 0; i < 4; i++) {
                uint8_t x = t->data[a][m][4 * k + i];
                int32_t left = signed_a ? (int8_t)x : x;
                for (int n = 0; n < LANES; n++)
                    row[n] += (uint32_t)(left * right[k][i][n]);
            }
        memcpy(t->data[c][m], row, sizeof row);
    }
}

/* Each twice: for machines with FMA in hardware and, through the C library's fmaf, for those without. Not inlined, so
 * that no float operation moves over the change of MXCSR. */
__attribute__((noinline, target("avx2,fma"))) static void floats_fast(struct tiles *t, int c, int a, int b, int half)
{
    if (half)
        multiply_floats(t, c, a, b, 1);
    else
        multiply_floats(t, c, a, b, 0);
}

__attribute__((noinline)) static void floats_anywhere(struct tiles *t, int c, int a, int b, int half)
{
    multiply_floats(t, c, a, b, half);
}

__attribute__((target("avx2,fma"))) static void bytes_fast(struct tiles *t, int c, int a, int b, int sa, int sb)
{
    multiply_bytes(t, c, a, b, sa, sb);
}

static int portable;

void amx_portable(int on)
{
    portable = on;
}

static int fast(void)
{
    return !portable && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

void amx_multiply_floats(struct tiles *t, int c, int a, int b, int half)
{
    unsigned before = _mm_getcsr();
    _mm_setcsr(MXCSR_OF_TILES);
    (fast() ? floats_fast : floats_anywhere)(t, c, a, b, half);
    _mm_setcsr(before);
}

void amx_multiply_bytes(struct tiles *t, int c, int a, int b, int signed_a, int signed_b)
{
    if (fast())
        bytes_fast(t, c, a, b, signed_a, signed_b);
    else
        multiply_bytes(t, c, a, b, signed_a, signed_b);
}
