/* What each instruction does to the thread's tiles, and the checks before it, after the Intel 64 and IA-32 Architectures
 * Software Developer's Manual, volume 2: the instructions, and the AMX exception classes E1 to E6. */

#define _GNU_SOURCE
#include "amx.h"

#include <pthread.h>
#include <string.h>

struct log amx_faults, amx_violations;
struct range amx_ranges[RANGES];
atomic_uint amx_range_count;
atomic_int amx_configured;
atomic_uint amx_generation;

static __thread struct tiles tiles;
static __thread unsigned tiles_generation;
static __thread uint64_t stack_end;

void amx_note(struct log *log, const struct event *event)
{
    unsigned at = atomic_fetch_add(&log->count, 1);
    if (at < EVENTS)
        log->events[at] = *event;
}

/* A thread's own stack may always be used: frames hold configurations and the copies of tails. */
static void check_range(uint64_t code, const struct instruction *in, uint64_t low, uint64_t length, uint64_t stack)
{
    unsigned count = atomic_load(&amx_range_count);
    int writes = in->opcode == TILESTORED || in->opcode == STTILECFG;
    if (!count)
        return;
    for (unsigned i = 0; i < count; i++)
        if (low >= amx_ranges[i].low && low + length <= amx_ranges[i].high && amx_ranges[i].writable >= writes)
            return;
    if (!stack_end) {
        pthread_attr_t attributes;
        void *bottom;
        size_t size;
        pthread_getattr_np(pthread_self(), &attributes);
        pthread_attr_getstack(&attributes, &bottom, &size);
        pthread_attr_destroy(&attributes);
        stack_end = (uint64_t)bottom + size;
    }
    if (low >= stack - 128 && low + length <= stack_end)
        return;
    struct event event = {code, low, length, in->opcode, writes, "outside the registered ranges"};
    amx_note(&amx_violations, &event);
}

static void release(void)
{
    if (tiles.palette)
        atomic_fetch_sub(&amx_configured, 1);
    memset(&tiles, 0, sizeof tiles);
}

/* What is wrong with an instruction, or null; #GP rather than #UD only for LDTILECFG. */
static const char *load_configuration(const uint8_t *memory)
{
    uint8_t bytes[64];
    struct tiles next = {0};
    int reserved = 0;
    memcpy(bytes, memory, sizeof bytes);
    if (bytes[0] > 1)
        return "palette is neither 0 nor 1";
    if (!bytes[0]) {
        release();
        return 0;
    }
    next.palette = bytes[0];
    next.start_row = bytes[1];
    for (int i = 2; i < 16; i++)
        reserved |= bytes[i];
    for (int i = 32; i < 48; i++)
        reserved |= bytes[i];
    for (int i = 56; i < 64; i++)
        reserved |= bytes[i];
    if (reserved)
        return "reserved bytes of the configuration are not zero";
    for (int i = 0; i < TILES; i++) {
        next.colsb[i] = bytes[16 + 2 * i] | bytes[17 + 2 * i] << 8;
        next.rows[i] = bytes[48 + i];
        if (next.colsb[i] > ROW_BYTES)
            return "a tile has more than 64 bytes per row";
        if (next.rows[i] > ROWS)
            return "a tile has more than 16 rows";
        if (!next.rows[i] != !next.colsb[i])
            return "a tile has rows without columns, or columns without rows";
    }
    release();
    tiles = next;
    atomic_fetch_add(&amx_configured, 1);
    return 0;
}

static void store_configuration(uint8_t *memory)
{
    uint8_t bytes[64] = {tiles.palette, tiles.start_row};
    for (int i = 0; i < TILES; i++) {
        bytes[16 + 2 * i] = tiles.colsb[i];
        bytes[48 + i] = tiles.rows[i];
    }
    memcpy(memory, bytes, sizeof bytes);
}

static const char *unusable(int tile)
{
    if (!tiles.palette)
        return "tiles are not configured";
    if (tile >= TILES)
        return "the palette has 8 tiles only";
    if (!tiles.rows[tile])
        return "a tile is configured without rows";
    return 0;
}

static const char *no_words(int tile)
{
    const char *wrong = unusable(tile);
    return wrong || tiles.colsb[tile] % 4 == 0 ? wrong : "bytes per row are no multiple of 4";
}

static const char *clear_tile(int tile)
{
    const char *wrong = unusable(tile);
    if (wrong)
        return wrong;
    memset(tiles.data[tile], 0, sizeof tiles.data[tile]);
    tiles.start_row = 0;
    return 0;
}

static const char *move_tile(uint64_t code, const struct instruction *in, uint64_t stack)
{
    int tile = in->tile;
    const char *wrong = no_words(tile);
    if (wrong)
        return wrong;
    if (!in->has_sib)
        return "the address has no SIB byte";
    if (tiles.start_row >= tiles.rows[tile])
        return "start_row is not below the tile's rows";
    for (int row = tiles.start_row; row < tiles.rows[tile]; row++) {
        uint64_t address = in->address + row * in->stride;
        check_range(code, in, address, tiles.colsb[tile], stack);
        if (in->opcode == TILESTORED)
            memcpy((void *)address, tiles.data[tile][row], tiles.colsb[tile]);
        else
            memcpy(tiles.data[tile][row], (void *)address, tiles.colsb[tile]);
    }
    tiles.start_row = 0;
    return 0;
}

static const char *multiply(const struct instruction *in)
{
    int c = in->tile, a = in->first, b = in->second;
    const char *wrong = no_words(c);
    wrong = wrong ? wrong : no_words(a);
    wrong = wrong ? wrong : no_words(b);
    if (wrong)
        return wrong;
    if (c == a || c == b || a == b)
        return "the three tiles are not distinct";
    if (tiles.rows[c] != tiles.rows[a])
        return "rows of the sum differ from those of the first factor";
    if (tiles.colsb[c] != tiles.colsb[b])
        return "bytes per row of the sum differ from those of the second factor";
    if (tiles.colsb[a] != 4 * tiles.rows[b])
        return "rows of the second factor are not the first's bytes per row / 4";
    if (tiles.start_row)
        return "start_row is not 0";
    if (in->opcode == TDPBF16PS || in->opcode == TDPFP16PS)
        amx_multiply_floats(&tiles, c, a, b, in->opcode == TDPFP16PS);
    else
        amx_multiply_bytes(&tiles, c, a, b, in->opcode >= TDPBSUD, in->opcode == TDPBSSD || in->opcode == TDPBUSD);
    return 0;
}

const char *amx_execute(uint64_t code, const struct instruction *in, uint64_t stack)
{
    if (tiles_generation != atomic_load(&amx_generation)) {
        memset(&tiles, 0, sizeof tiles);
        tiles_generation = atomic_load(&amx_generation);
    }
    switch (in->opcode) {
    case LDTILECFG: /* its constant may stand next to the code, where nobody registers anything */
        return load_configuration((const uint8_t *)in->address);
    case STTILECFG:
        check_range(code, in, in->address, 64, stack);
        store_configuration((uint8_t *)in->address);
        return 0;
    case TILERELEASE:
        release();
        return 0;
    case TILEZERO:
        return clear_tile(in->tile);
    case TILELOADD:
    case TILELOADDT1:
    case TILESTORED:
        return move_tile(code, in, stack);
    default:
        return multiply(in);
    }
}
