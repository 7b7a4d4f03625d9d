/* What the parts of the emulator share: instructions, a thread's tiles, and what is recorded. Palette 1 throughout. */

#ifndef AMX_H
#define AMX_H

#include <stdatomic.h>
#include <stdint.h>
#include <ucontext.h>

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64, LANES = ROW_BYTES / 4 };

enum opcode {
    LDTILECFG, STTILECFG, TILERELEASE, TILEZERO, TILELOADD, TILELOADDT1, TILESTORED,
    TDPBF16PS, TDPFP16PS, TDPBUUD, TDPBUSD, TDPBSUD, TDPBSSD, OPCODES, NONE = -1
};

struct instruction {
    enum opcode opcode;
    int length;
    int has_sib;
    int tile;          /* modrm.reg */
    int first, second; /* modrm.rm, VEX.vvvv: the factors of a product */
    uint64_t address, stride;
};

struct tiles {
    uint8_t palette; /* 0: not configured */
    uint8_t start_row;
    uint8_t rows[TILES];
    uint16_t colsb[TILES];
    uint8_t data[TILES][ROWS][ROW_BYTES] __attribute__((aligned(64)));
};

/* Something that went wrong: an instruction that faults, or an access outside the registered ranges. */
struct event {
    uint64_t code;    /* address of the instruction */
    uint64_t address; /* of the access, 0 for faults */
    uint64_t length;
    int32_t opcode;
    int32_t writes;
    char reason[96];
};

enum { EVENTS = 64, RANGES = 64 };
struct log { atomic_uint count; struct event events[EVENTS]; };
struct range { uint64_t low, high; int writable; };

extern struct log amx_faults, amx_violations;
extern struct range amx_ranges[RANGES];
extern atomic_uint amx_range_count;
extern atomic_int amx_configured;   /* threads that hold a configuration */
extern atomic_uint amx_generation;  /* a thread's tiles of an older one are void */

/* Whether an AMX instruction stands at `code`, and which. */
int amx_decode(const uint8_t *code, const greg_t *registers, struct instruction *out);

/* Does to this thread's tiles and to memory what the instruction at `code` says; null, or why it faults instead. */
const char *amx_execute(uint64_t code, const struct instruction *in, uint64_t stack);

void amx_note(struct log *log, const struct event *event);

/* C (m x n) += A (m x k) times B, whose row i holds the elements 2i and 2i + 1 of every column next to each other. The
 * factors are BF16, or FP16 with `half`. Shapes were checked. */
void amx_multiply_floats(struct tiles *tiles, int c, int a, int b, int half);

/* The same for bytes, four to a 32-bit element; each factor is signed or not. Sums wrap. */
void amx_multiply_bytes(struct tiles *tiles, int c, int a, int b, int signed_a, int signed_b);

/* Have products take the way of machines without FMA, so that both ways can be tested on one machine. */
void amx_portable(int on);

#endif
