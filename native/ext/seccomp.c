/* Compiles seccomp profiles to classic BPF.
 *
 * libseccomp says which number a system call has on which architecture, and is asked for nothing else.
 * Its own generator takes 9 ms for a profile like Docker's (three architectures, 380 names) and makes a
 * program of 1000 to 1250 instructions; what is below takes a tenth of a millisecond and makes 400.
 * That program is also cheaper afterwards: on attach the kernel runs a filter once per system call number
 * to find those that are always allowed, and each denied call runs it again, here in about ten steps.
 *
 * What a profile means is kept as libseccomp has it: a rule without conditions beats those with; an
 * architecture of 32 bits compares the low words; socketcall(2) and ipc(2) follow the calls they carry;
 * an architecture that isn't in the filter is killed. Where rules with conditions overlap, the first in
 * the profile wins (libseccomp promises no order).
 *
 * For each AUDIT_ARCH_* the system call numbers are cut into spans of equal outcome, and a binary search
 * finds the span. Code is emitted backwards, so that each jump's target is known when it is written. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "seccomp.h"

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#ifndef __AUDIT_ARCH_CONVENTION_MIPS64_N32
#define __AUDIT_ARCH_CONVENTION_MIPS64_N32 0x20000000
#endif

#define MAX_ARCHS 32
#define X32_BIT 0x40000000u
#define ARM_PRIVATE 0x000f0000u /* __ARM_NR_BASE: cacheflush, set_tls ... */
#define NOBODY SCMP_ACT_KILL_THREAD /* what libseccomp does to an architecture that isn't listed */
#define ENOSYS_ACTION SCMP_ACT_ERRNO(ENOSYS)
#define WANT_ENOSYS 1u
#define LOW_WORD (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? 4 : 0)

struct arg {
    uint32_t index, op;
    uint64_t value, value_two;
};

struct rule {
    uint32_t action, n_args, n_names;
    const uint8_t *args; /* struct arg[n_args], not aligned */
    const char *names;   /* n_names strings */
};

/* One way into a rule: a number, and for a multiplexed call the value its first argument has there. */
struct entry {
    uint32_t nr, rule;
    int32_t call; /* -1: the number is the call's own */
    uint32_t call_mask;
};

/* Numbers from `start` up to the next span: one action, or the conditional rules of a single number. */
struct span {
    uint32_t start, action;
    const struct entry *rules;
    size_t n_rules;
};

struct profile {
    uint32_t default_action, flags, n_archs, n_rules;
    uint32_t archs[MAX_ARCHS];
    struct rule *rules;
    struct entry *entries;
    struct span *spans;
    size_t n_entries, n_spans;
    size_t named; /* how many names all rules have together */
};

/* ---- the request ---- */

struct cursor {
    const uint8_t *at;
    size_t left;
};

static const uint8_t *take(struct cursor *c, size_t size) {
    if (size > c->left)
        return NULL;
    c->left -= size;
    c->at += size;
    return c->at - size;
}

static int take_words(struct cursor *c, uint32_t *words, size_t n) {
    const uint8_t *at = take(c, n * sizeof *words);
    return at ? (memcpy(words, at, n * sizeof *words), 0) : -EINVAL;
}

static int parse(struct profile *p, const void *request, uint32_t size) {
    struct cursor c = {request, size};
    if (take_words(&c, &p->default_action, 1) || take_words(&c, &p->flags, 1) ||
        take_words(&c, &p->n_archs, 1) || take_words(&c, &p->n_rules, 1))
        return -EINVAL;
    if (p->n_archs == 0 || p->n_archs > MAX_ARCHS || p->n_rules > size ||
        take_words(&c, p->archs, p->n_archs))
        return -EINVAL;
    for (uint32_t i = 1; i < p->n_archs; i++) /* each one once: the tables are sized for that */
        for (uint32_t j = 0; j < i; j++)
            if (p->archs[i] == p->archs[j])
                return -EINVAL;
    p->rules = calloc((size_t)p->n_rules + 1, sizeof *p->rules);
    if (!p->rules)
        return -ENOMEM;
    for (struct rule *r = p->rules; r < p->rules + p->n_rules; r++) {
        uint32_t words[4]; /* action, number of arguments, number of names, bytes of names */
        if (take_words(&c, words, 4) || words[1] > 6)
            return -EINVAL;
        r->action = words[0];
        r->n_args = words[1];
        r->n_names = words[2];
        r->args = take(&c, r->n_args * sizeof(struct arg));
        r->names = (const char *)take(&c, words[3]);
        if (!r->args || !r->names)
            return -EINVAL;
        for (uint32_t i = 0; i < r->n_args; i++) {
            struct arg a;
            memcpy(&a, r->args + i * sizeof a, sizeof a);
            if (a.index > 5 || a.op < SCMP_CMP_NE || a.op > SCMP_CMP_MASKED_EQ)
                return -EINVAL;
        }
        uint32_t strings = 0; /* exactly n_names of them, and the last one ends inside */
        for (uint32_t i = 0; i < words[3]; i++)
            strings += r->names[i] == 0;
        if (strings != r->n_names || (words[3] && r->names[words[3] - 1]))
            return -EINVAL;
        p->named += r->n_names;
    }
    return c.left ? -EINVAL : 0;
}

/* ---- names to numbers ---- */

/* Where an architecture with socketcall(2) has the calls of their own, by the number that <linux/net.h>
 * gives them; 0: nowhere. libseccomp resolves these names to a pseudo number and keeps the rest inside. */
static const uint16_t SOCKET_X86[] = {
    0, 359, 361, 362, 363, 0, 367, 368, 360, 0, 0, 369, 371, 373, 366, 365, 370, 372, 364, 337, 345};
static const uint16_t SOCKET_S390[] = {
    0, 359, 361, 362, 363, 0, 367, 368, 360, 0, 0, 369, 371, 373, 366, 365, 370, 372, 364, 357, 358};
static const uint16_t SOCKET_PPC[] = {
    0, 326, 327, 328, 329, 330, 331, 332, 333, 334, 336, 335, 337, 338, 339, 340, 341, 342, 344, 343, 349};
static const uint16_t SOCKET_M68K[] = {
    0, 356, 358, 359, 360, 0, 364, 365, 357, 0, 0, 366, 368, 370, 363, 362, 367, 369, 361, 371, 372};
static const uint16_t SOCKET_SH[] = {
    0, 340, 341, 342, 343, 344, 345, 346, 347, 348, 350, 349, 351, 352, 353, 354, 355, 356, 358, 357, 363};
/* The same for ipc(2) and <linux/ipc.h>; these numbers are one for all architectures (Linux 5.1). */
static const uint16_t IPC[] = {0, 0, 393, 394, 392, 0, 0, 0, 0, 0, 0, 400, 401,
                               399, 402, 0, 0, 0, 0, 0, 0, 397, 398, 395, 396};
enum { SOCKET_CALLS = 21, IPC_CALLS = 25 };

static int is_64bit(uint32_t arch) {
    return (arch & __AUDIT_ARCH_64BIT) && !(arch & __AUDIT_ARCH_CONVENTION_MIPS64_N32);
}

static uint32_t audit_arch(uint32_t arch) { return arch == SCMP_ARCH_X32 ? AUDIT_ARCH_X86_64 : arch; }

static uint32_t direct_number(uint32_t arch, int ipc, uint32_t call) {
    if (ipc) /* a semtimedop of its own is only there where time_t always had 64 bits */
        return call == 4 && !is_64bit(arch) ? 0 : IPC[call];
    switch (arch & 0xffff) {
    case EM_386: return SOCKET_X86[call];
    case EM_S390: return SOCKET_S390[call];
    case EM_PPC: case EM_PPC64: return SOCKET_PPC[call];
    case EM_68K: return SOCKET_M68K[call];
    case EM_SH: return SOCKET_SH[call];
    default: return 0;
    }
}

static void add_entry(struct profile *p, uint32_t nr, uint32_t rule, int32_t call, uint32_t mask) {
    p->entries[p->n_entries++] = (struct entry){nr, rule, call, mask};
}

/* All entries of one architecture: at most two per name. */
static void resolve(struct profile *p, uint32_t arch) {
    int socketcall = seccomp_syscall_resolve_name_arch(arch, "socketcall");
    int ipc = seccomp_syscall_resolve_name_arch(arch, "ipc");
    for (uint32_t i = 0; i < p->n_rules; i++) {
        const char *name = p->rules[i].names;
        for (uint32_t n = p->rules[i].n_names; n; n--, name += strlen(name) + 1) {
            int nr = seccomp_syscall_resolve_name_arch(arch, name);
            uint32_t direct = 0;
            if (nr >= 0) {
                add_entry(p, (uint32_t)nr, i, -1, 0);
            } else if (socketcall >= 0 && nr < -100 && nr > -100 - SOCKET_CALLS) { /* __PNR_socket ... */
                add_entry(p, (uint32_t)socketcall, i, -100 - nr, 0xffffffff); /* an int to the kernel */
                direct = direct_number(arch, 0, (uint32_t)(-100 - nr));
            } else if (ipc >= 0 && nr < -200 && nr > -200 - IPC_CALLS) { /* __PNR_semop ... */
                add_entry(p, (uint32_t)ipc, i, -200 - nr, 0xffff); /* a version is above */
                direct = direct_number(arch, 1, (uint32_t)(-200 - nr));
            }
            if (direct)
                add_entry(p, direct, i, -1, 0);
        }
    }
}

static int by_number(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    if (x->nr != y->nr)
        return x->nr < y->nr ? -1 : 1;
    return (x->rule > y->rule) - (x->rule < y->rule);
}

/* ---- spans ---- */

static struct span *span_at(struct profile *p, uint32_t start) {
    if (p->n_spans && p->spans[p->n_spans - 1].start == start)
        return &p->spans[p->n_spans - 1]; /* nothing was left of it */
    return &p->spans[p->n_spans++];
}

static void add_span(struct profile *p, uint32_t start, uint32_t action) {
    struct span *s = span_at(p, start);
    *s = (struct span){start, action, NULL, 0};
    if (s > p->spans && s[-1].n_rules == 0 && s[-1].action == action)
        p->n_spans--;
}

/* The outcome of one number that the profile names. */
static void add_number(struct profile *p, struct entry *first, size_t n) {
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        const struct rule *r = &p->rules[first[i].rule];
        if (r->action == p->default_action)
            continue; /* says nothing; libseccomp and runc skip it too */
        if (r->n_args == 0 && first[i].call < 0) {
            add_span(p, first[i].nr, r->action);
            return;
        }
        first[kept++] = first[i];
    }
    if (kept)
        *span_at(p, first->nr) = (struct span){first->nr, p->default_action, first, kept};
    else
        add_span(p, first->nr, p->default_action);
}

/* The spans of the numbers first..last, which share one numbering; *e moves over their entries.
 * Beyond the greatest number that the profile names, its author can't have known the calls: they answer
 * ENOSYS rather than the default action's EPERM, so that programs (glibc first) use their fallbacks. */
static void add_window(struct profile *p, struct entry **e, const struct entry *end, uint32_t first,
                       uint32_t last, int listed) {
    uint32_t rest = listed ? p->default_action : NOBODY;
    add_span(p, first, rest);
    while (*e < end && (*e)->nr <= last) {
        struct entry *number = *e;
        while (*e < end && (*e)->nr == number->nr)
            ++*e;
        if (p->flags & WANT_ENOSYS)
            rest = ENOSYS_ACTION;
        uint32_t next = number->nr;
        add_number(p, number, (size_t)(*e - number));
        if (next == last)
            return;
        add_span(p, next + 1, *e < end && (*e)->nr <= last ? p->default_action : rest);
    }
}

static void find_spans(struct profile *p, uint32_t audit) {
    int x86_64 = 0, x32 = 0;
    p->n_entries = p->n_spans = 0;
    for (uint32_t i = 0; i < p->n_archs; i++) {
        if (audit_arch(p->archs[i]) != audit)
            continue;
        x32 |= p->archs[i] == SCMP_ARCH_X32;
        x86_64 |= p->archs[i] == SCMP_ARCH_X86_64;
        resolve(p, p->archs[i]);
    }
    qsort(p->entries, p->n_entries, sizeof *p->entries, by_number);
    struct entry *e = p->entries, *end = p->entries + p->n_entries;
    if (audit == AUDIT_ARCH_X86_64) {
        add_window(p, &e, end, 0, X32_BIT - 1, x86_64);
        add_window(p, &e, end, X32_BIT, UINT32_MAX, x32);
        /* -1 is no x32 call: a tracer puts it there to have the call skipped, and a program may too. */
        add_span(p, UINT32_MAX, p->flags & WANT_ENOSYS ? ENOSYS_ACTION : p->default_action);
    } else if (audit == AUDIT_ARCH_ARM) { /* one of ARM's private calls must not hide all that is between */
        add_window(p, &e, end, 0, ARM_PRIVATE - 1, 1);
        add_window(p, &e, end, ARM_PRIVATE, UINT32_MAX, 1);
    } else {
        uint32_t first = 0;
        /* s390 passes a number above 255 in a register, and leaves 0 (setup(2), which nothing else uses
         * any more) for one that it doesn't know. */
        if ((audit & 0xffff) == EM_S390 && p->flags & WANT_ENOSYS && e < end && e->nr > 0)
            add_span(p, first++, ENOSYS_ACTION);
        add_window(p, &e, end, first, UINT32_MAX, 1);
    }
}

/* ---- code, backwards: a label is the distance from the program's end ---- */

enum { RETS = 8, NEAR = 250 };

struct code {
    struct sock_filter *insns; /* filled from insns[BPF_MAXINSNS - 1] down */
    uint32_t n, n_rets;
    int overflow;
    struct { uint32_t action, label; } rets[RETS];
};

static uint32_t emit(struct code *c, uint32_t op, uint32_t k, uint32_t jt, uint32_t jf) {
    if (c->n == BPF_MAXINSNS) {
        c->overflow = 1;
        return 0;
    }
    c->insns[BPF_MAXINSNS - 1 - c->n] = (struct sock_filter){(uint16_t)op, (uint8_t)jt, (uint8_t)jf, k};
    return c->n++;
}

static uint32_t load(struct code *c, uint32_t offset) { return emit(c, BPF_LD | BPF_W | BPF_ABS, offset, 0, 0); }

/* The label of a `return action`: one that is in reach of a conditional jump, or a new one. */
static uint32_t ret(struct code *c, uint32_t action) {
    uint32_t i = 0;
    while (i < c->n_rets && c->rets[i].action != action)
        i++;
    if (i < c->n_rets && c->n - c->rets[i].label < NEAR)
        return c->rets[i].label;
    if (i == RETS)
        i = action % RETS;
    else if (i == c->n_rets)
        c->n_rets++;
    c->rets[i].action = action;
    return c->rets[i].label = emit(c, BPF_RET | BPF_K, action, 0, 0);
}

static uint32_t near_label(struct code *c, uint32_t label) {
    return c->n - label < NEAR ? label : emit(c, BPF_JMP | BPF_JA, c->n - 1 - label, 0, 0);
}

/* A conditional jump; its offsets have 8 bits, so that it may need to go by way of a long one. */
static uint32_t jump(struct code *c, uint32_t op, uint32_t k, uint32_t yes, uint32_t no) {
    if (yes == no)
        return yes;
    yes = near_label(c, yes);
    no = near_label(c, no);
    return emit(c, BPF_JMP | op | BPF_K, k, c->n - 1 - yes, c->n - 1 - no);
}

/* Makes what was emitted last lead to `label`, if it isn't that itself. */
static uint32_t here(struct code *c, uint32_t label) {
    return label + 1 == c->n ? label : emit(c, BPF_JMP | BPF_JA, c->n - 1 - label, 0, 0);
}

static uint32_t masked_equal(struct code *c, uint32_t offset, uint32_t mask, uint32_t value, uint32_t yes,
                             uint32_t no) {
    if (mask == 0)
        return yes;
    jump(c, BPF_JEQ, value & mask, yes, no);
    if (mask != UINT32_MAX)
        emit(c, BPF_ALU | BPF_AND | BPF_K, mask, 0, 0);
    return load(c, offset);
}

/* One comparison of an argument of 64 bits, by two words of 32: classic BPF has no wider ones. */
static uint32_t compare(struct code *c, int wide, const struct arg *a, uint32_t yes, uint32_t no) {
    if (yes == no)
        return yes;
    uint32_t op = a->op, low_value = (uint32_t)a->value, high_value = (uint32_t)(a->value >> 32);
    uint32_t low = offsetof(struct seccomp_data, args) + 8 * a->index + LOW_WORD, high = low ^ 4;
    if (op == SCMP_CMP_MASKED_EQ) { /* value is the mask here, value_two what to compare with */
        yes = masked_equal(c, low, low_value, (uint32_t)a->value_two, yes, no);
        return wide ? masked_equal(c, high, high_value, (uint32_t)(a->value_two >> 32), yes, no) : yes;
    }
    if (op <= SCMP_CMP_LE) { /* NE, LT, LE: the reverse of EQ, GE, GT, which the enum has 3 further on */
        struct arg reverse = {a->index, op + 3, a->value, 0};
        return compare(c, wide, &reverse, no, yes);
    }
    if (op == SCMP_CMP_EQ) {
        yes = masked_equal(c, low, UINT32_MAX, low_value, yes, no);
        return wide ? masked_equal(c, high, UINT32_MAX, high_value, yes, no) : yes;
    }
    jump(c, op == SCMP_CMP_GE ? BPF_JGE : BPF_JGT, low_value, yes, no);
    uint32_t label = load(c, low);
    if (wide) { /* the high words decide, unless they are equal */
        label = jump(c, BPF_JEQ, high_value, label, no);
        jump(c, BPF_JGT, high_value, yes, label);
        label = load(c, high);
    }
    return label;
}

static uint32_t conditions(struct code *c, const struct profile *p, int wide, const struct span *s) {
    uint32_t no = ret(c, s->action);
    for (size_t i = s->n_rules; i-- > 0;) {
        const struct entry *e = &s->rules[i];
        const struct rule *r = &p->rules[e->rule];
        uint32_t yes = ret(c, r->action);
        for (uint32_t n = r->n_args; n-- > 0;) {
            struct arg a;
            memcpy(&a, r->args + n * sizeof a, sizeof a);
            if (e->call < 0 || a.index != 0) /* there the first argument is which call it is */
                yes = compare(c, wide, &a, yes, no);
        }
        if (e->call >= 0) {
            struct arg call = {0, SCMP_CMP_MASKED_EQ, e->call_mask, (uint32_t)e->call};
            yes = compare(c, wide, &call, yes, no);
        }
        no = yes;
    }
    return no;
}

static uint32_t search(struct code *c, const struct profile *p, int wide, size_t from, size_t to) {
    if (to - from == 1) {
        const struct span *s = &p->spans[from];
        wide = wide && !(s->start & X32_BIT);
        return s->n_rules ? conditions(c, p, wide, s) : ret(c, s->action);
    }
    size_t middle = from + (to - from) / 2;
    uint32_t right = search(c, p, wide, middle, to);
    uint32_t left = search(c, p, wide, from, middle);
    return jump(c, BPF_JGE, p->spans[middle].start, right, left);
}

static int generate(struct profile *p, struct code *c) {
    uint32_t audits[MAX_ARCHS], labels[MAX_ARCHS], n = 0;
    for (uint32_t i = 0; i < p->n_archs; i++) {
        uint32_t seen = 0;
        while (seen < n && audits[seen] != audit_arch(p->archs[i]))
            seen++;
        if (seen == n)
            audits[n++] = audit_arch(p->archs[i]);
    }
    /* The first one is emitted last: it is the nearest to the dispatch, and asked for first. */
    for (uint32_t i = n; i-- > 0;) {
        find_spans(p, audits[i]);
        here(c, search(c, p, is_64bit(audits[i]), 0, p->n_spans));
        labels[i] = load(c, offsetof(struct seccomp_data, nr));
    }
    uint32_t label = ret(c, NOBODY);
    for (uint32_t i = n; i-- > 0;)
        label = jump(c, BPF_JEQ, audits[i], labels[i], label);
    load(c, offsetof(struct seccomp_data, arch));
    return c->overflow ? -E2BIG : (int)c->n;
}

int ocipy_seccomp_compile(const void *request, uint32_t size, void *program) {
    struct profile p = {0};
    struct code c = {.insns = program};
    int n = parse(&p, request, size);
    if (n == 0) {
        /* At most two entries for a name: a multiplexed call's two ways, or x86_64's and x32's, which share
         * a table. Each may start a span and end it; the windows (two at most) add less than 8. */
        p.entries = calloc(2 * p.named + 1, sizeof *p.entries);
        p.spans = calloc(4 * p.named + 8, sizeof *p.spans);
        n = p.entries && p.spans ? generate(&p, &c) : -ENOMEM;
    }
    if (n > 0)
        memmove(program, c.insns + BPF_MAXINSNS - n, (size_t)n * sizeof *c.insns);
    free(p.rules);
    free(p.entries);
    free(p.spans);
    return n;
}

/* ---- facts ---- */

int ocipy_seccomp_version(void) {
    const struct scmp_version *v = seccomp_version();
    return v ? (int)(v->major << 16 | v->minor << 8 | v->micro) : -ENOSYS;
}

uint32_t ocipy_seccomp_arch(const char *name) {
    return strcmp(name, "native") ? seccomp_arch_resolve_name(name) : seccomp_arch_native();
}

int ocipy_seccomp_flags(void) {
    static const unsigned int FLAGS[] = {
        SECCOMP_FILTER_FLAG_LOG, SECCOMP_FILTER_FLAG_SPEC_ALLOW, SECCOMP_FILTER_FLAG_NEW_LISTENER,
        SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV};
    int found = 0;
    /* With a null pointer for the program, EFAULT says that the flags were fine and EINVAL that not. */
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, NULL) != -1 || errno != EFAULT)
        return -ENOSYS;
    for (size_t i = 0; i < sizeof FLAGS / sizeof *FLAGS; i++) {
        unsigned int with = FLAGS[i];
        if (with == SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
            with |= SECCOMP_FILTER_FLAG_NEW_LISTENER; /* EINVAL without */
        if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, with, NULL) == -1 && errno == EFAULT)
            found |= (int)FLAGS[i];
    }
    return found;
}

int ocipy_seccomp_action(uint32_t action) {
    return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}
