/* Executes AMX instructions on an x86-64 machine that lacks them. Such an instruction raises SIGILL; the handler below
 * has it decoded and executed, goes on with the AMX instructions that follow directly, and resumes behind them. Signals
 * of other instructions go to the handler that was there before. */

#define _GNU_SOURCE
#include "amx.h"

#include <cpuid.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static const char *const mnemonics[OPCODES] = {
    "LDTILECFG", "STTILECFG", "TILERELEASE", "TILEZERO", "TILELOADD", "TILELOADDT1", "TILESTORED",
    "TDPBF16PS", "TDPFP16PS", "TDPBUUD", "TDPBUSD", "TDPBSUD", "TDPBSSD"
};

static atomic_ullong counters[OPCODES];
static atomic_ullong traps;
static struct sigaction previous;
static int installed;
static __thread sigjmp_buf *escape;

/* What this signal would have done without us. */
static void forward(int number, siginfo_t *info, void *context)
{
    if (previous.sa_flags & SA_SIGINFO)
        previous.sa_sigaction(number, info, context);
    else if (previous.sa_handler == SIG_IGN && info->si_code <= 0)
        return;
    else if (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN) {
        signal(number, SIG_DFL);
        raise(number); /* comes when the handler returns */
    } else
        previous.sa_handler(number);
}

static void fail(uint64_t code, const struct instruction *in, const char *reason, siginfo_t *info, void *context)
{
    struct event event = {code, 0, 0, in->opcode, 0, ""};
    strncpy(event.reason, reason, sizeof event.reason - 1);
    amx_note(&amx_faults, &event);
    if (escape)
        siglongjmp(*escape, 1);
    dprintf(2, "%s at %#llx: %s\n", mnemonics[in->opcode], (unsigned long long)code, reason);
    if (in->opcode == LDTILECFG)
        raise(SIGSEGV); /* what Linux makes of #GP */
    else
        forward(SIGILL, info, context);
}

static void on_illegal_instruction(int number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    uint64_t stack = registers[REG_RSP];
    struct instruction in;
    int before = errno;
    if (info->si_code <= 0 || !amx_decode((const uint8_t *)registers[REG_RIP], registers, &in)) {
        forward(number, info, context);
        return;
    }
    atomic_fetch_add(&traps, 1);
    do {
        const char *wrong = amx_execute(registers[REG_RIP], &in, stack);
        if (wrong) {
            fail(registers[REG_RIP], &in, wrong, info, context);
            break;
        }
        atomic_fetch_add(&counters[in.opcode], 1);
        registers[REG_RIP] += in.length;
    } while (amx_decode((const uint8_t *)registers[REG_RIP], registers, &in));
    errno = before;
}

/* 0, or -1 when the trap is in place already. */
int amx_install(void)
{
    struct sigaction action = {.sa_sigaction = on_illegal_instruction, .sa_flags = SA_SIGINFO};
    if (installed)
        return -1;
    atomic_store(&amx_configured, 0);
    atomic_fetch_add(&amx_generation, 1);
    installed = 1;
    return sigaction(SIGILL, &action, &previous);
}

/* 0, or -1 when the trap is not in place, because of somebody who took the signal over and did not give it back. */
int amx_uninstall(void)
{
    struct sigaction now;
    sigaction(SIGILL, 0, &now);
    if (!installed || !(now.sa_flags & SA_SIGINFO) || now.sa_sigaction != on_illegal_instruction)
        return -1;
    installed = 0;
    return sigaction(SIGILL, &previous, 0);
}

const char *amx_mnemonic(int opcode)
{
    return opcode >= 0 && opcode < OPCODES ? mnemonics[opcode] : 0;
}

/* Instructions executed, by opcode, and behind them the signals that took. */
void amx_counters(uint64_t *out)
{
    for (int i = 0; i < OPCODES; i++)
        out[i] = atomic_load(&counters[i]);
    out[OPCODES] = atomic_load(&traps);
}

/* Threads that hold a configuration now: those that did not release their tiles. */
int amx_configured_threads(void)
{
    return atomic_load(&amx_configured);
}

void amx_reset(void)
{
    for (int i = 0; i < OPCODES; i++)
        atomic_store(&counters[i], 0);
    atomic_store(&traps, 0);
    atomic_store(&amx_faults.count, 0);
    atomic_store(&amx_violations.count, 0);
}

/* 0, or -1 when there is no room for another range. Call it while no emulated code runs. */
int amx_register_range(uint64_t low, uint64_t high, int writable)
{
    unsigned count = atomic_load(&amx_range_count);
    if (count == RANGES)
        return -1;
    amx_ranges[count] = (struct range){low, high, writable};
    atomic_store(&amx_range_count, count + 1);
    return 0;
}

void amx_clear_ranges(void)
{
    atomic_store(&amx_range_count, 0);
}

/* Copies the first EVENTS faults (which = 0) or violations (1) to `out`, forgets them, and answers how many there were. */
unsigned amx_take_events(int which, struct event *out)
{
    struct log *log = which ? &amx_violations : &amx_faults;
    unsigned count = atomic_exchange(&log->count, 0);
    memcpy(out, log->events, sizeof *out * (count < EVENTS ? count : EVENTS));
    return count;
}

/* Calls function(argument); 1 if an instruction faulted, whose signal then is not raised and whose fault is recorded. */
int amx_guarded(void (*function)(void *), void *argument)
{
    sigjmp_buf here, *before = escape;
    int faulted = sigsetjmp(here, 1);
    if (!faulted) {
        escape = &here;
        function(argument);
    }
    escape = before;
    return faulted;
}

/* Whether processor and operating system execute AMX themselves: then nothing traps. */
int amx_native(void)
{
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & 1u << 24))
        return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low >> 17 & 3) == 3;
}
