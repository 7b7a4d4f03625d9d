/* Decodes AMX instructions: three-byte VEX, map 2, W = 0, L = 0. */

#define _GNU_SOURCE
#include "amx.h"

#include <string.h>

/* Rows: memory form of 49, register form of 49, 4B, 5C, 5E; columns: no prefix, 66, F3, F2. */
static const enum opcode by_prefix[5][4] = {
    {LDTILECFG, STTILECFG, NONE, NONE},
    {TILERELEASE, NONE, NONE, TILEZERO},
    {NONE, TILELOADDT1, TILESTORED, TILELOADD},
    {NONE, NONE, TDPBF16PS, TDPFP16PS},
    {TDPBUUD, TDPBUSD, TDPBSUD, TDPBSSD},
};

static const int register_slots[16] = {
    REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
    REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15
};

static void decode_memory(const uint8_t *code, const greg_t *registers, int x, int b, struct instruction *out)
{
    int mode = code[4] >> 6, rm = code[4] & 7, at = 5;
    uint64_t address = 0;
    out->has_sib = rm == 4;
    if (out->has_sib) {
        int scale = code[at] >> 6, index = (code[at] >> 3 & 7) | x << 3, base = code[at] & 7;
        at++;
        if (index != 4)
            out->stride = (uint64_t)registers[register_slots[index]] << scale;
        if (base != 5 || mode)
            address = registers[register_slots[base | b << 3]];
        else
            mode = 4; /* a displacement and no base */
    } else if (rm == 5 && !mode)
        mode = 5; /* relative to the next instruction */
    else
        address = registers[register_slots[rm | b << 3]];
    if (mode == 1)
        address += (int8_t)code[at++];
    else if (mode) {
        int32_t displacement;
        memcpy(&displacement, code + at, sizeof displacement);
        at += 4;
        address += displacement;
    }
    out->length = at;
    out->address = mode == 5 ? address + (uint64_t)(code + at) : address;
    if (out->opcode == LDTILECFG || out->opcode == STTILECFG)
        out->address += out->stride; /* an index like any other */
}

/* Bytes are read only as far as the ones before say that they exist. */
int amx_decode(const uint8_t *code, const greg_t *registers, struct instruction *out)
{
    if (code[0] != 0xc4 || (code[1] & 31) != 2 || code[2] & 0x84)
        return 0;
    int r = !(code[1] & 0x80), x = !(code[1] & 0x40), b = !(code[1] & 0x20), in_register = code[4] >= 0xc0, row;
    switch (code[3]) {
    case 0x49: row = in_register; break;
    case 0x4b: row = 2; break;
    case 0x5c: row = 3; break;
    case 0x5e: row = 4; break;
    default: return 0;
    }
    if (row && (row == 2) == in_register)
        return 0;
    memset(out, 0, sizeof *out);
    out->opcode = by_prefix[row][code[2] & 3];
    out->tile = (code[4] >> 3 & 7) | r << 3;
    out->second = ~code[2] >> 3 & 15;
    if (out->opcode == NONE || (row < 3 && out->second))
        return 0;
    if (!in_register)
        decode_memory(code, registers, x, b, out);
    else {
        out->length = 5;
        out->first = (code[4] & 7) | b << 3;
    }
    int names_no_tile = out->opcode == LDTILECFG || out->opcode == STTILECFG || out->opcode == TILERELEASE;
    return !(names_no_tile && out->tile) && !(row == 1 && out->first);
}
