/* The init helper: reads the plan and executes its operations in order. */
#include "init.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const struct {
    const char *name;
    int (*run)(struct ctx *, struct rd *);
} handlers[] = {
#define OCIPY_ENTRY(number, name, handler) [number] = {#name, handler},
    OCIPY_OPS(OCIPY_ENTRY)
};

/* --- plan reader (CVE-2021-43784: a length is never trusted) --- */

static const uint8_t *take(struct rd *r, size_t size) {
    if (r->bad || size > (size_t)(r->end - r->p)) {
        r->bad = true;
        return NULL;
    }
    const uint8_t *p = r->p;
    r->p += size;
    return p;
}

uint32_t rd_u32(struct rd *r) {
    uint32_t v = 0;
    const uint8_t *p = take(r, sizeof v);
    if (p) memcpy(&v, p, sizeof v);
    return v;
}

uint64_t rd_u64(struct rd *r) {
    uint64_t v = 0;
    const uint8_t *p = take(r, sizeof v);
    if (p) memcpy(&v, p, sizeof v);
    return v;
}

const uint8_t *rd_bytes(struct rd *r, uint32_t *size) {
    *size = rd_u32(r);
    const uint8_t *p = take(r, *size);
    if (!p) *size = 0;
    return p;
}

const char *rd_str(struct rd *r) {
    uint32_t size;
    const uint8_t *p = rd_bytes(r, &size);
    if (!p || size == 0 || p[size - 1] != 0 || memchr(p, 0, size) != p + size - 1) {
        r->bad = true;
        return "";
    }
    return (const char *)p;
}

void *arena(size_t size) {
    /* .bss: costs a page only when touched */
    static _Alignas(16) char memory[4 << 20];
    static size_t used;
    size = (size + 15) & ~(size_t)15;
    if (size > sizeof memory - used) return NULL;
    used += size;
    return memory + used - size;
}

char **rd_strs(struct rd *r, uint32_t *count) {
    *count = rd_u32(r);
    if (r->bad || *count > (size_t)(r->end - r->p) / 5) {
        r->bad = true;
        return NULL;
    }
    char **v = arena((*count + 1) * sizeof *v);
    if (!v) {
        r->bad = true;
        return NULL;
    }
    for (uint32_t i = 0; i < *count; i++) v[i] = (char *)rd_str(r);
    v[*count] = NULL;
    return r->bad ? NULL : v;
}

int *slot(struct ctx *c, uint32_t index) { return index < MAX_SLOTS ? &c->slots[index] : NULL; }

/* --- failures --- */

int fail(struct ctx *c, const char *syscall) {
    c->syscall = syscall;
    return -errno;
}

int failf(struct ctx *c, const char *syscall, int e, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(c->text, sizeof c->text, format, args);
    va_end(args);
    c->syscall = syscall;
    return e;
}

/* As error messages of Go and of Python's side have it, and as engines look for it: without a capital. */
const char *words(int error) {
    static char text[128];
    const char *known = strerrordesc_np(error);
    snprintf(text, sizeof text, "%s", known ? known : "unknown error");
    if (text[0] >= 'A' && text[0] <= 'Z') text[0] += 'a' - 'A';
    return text;
}

static void report(struct ctx *c, int e) {
    char text[TEXT_MAX + 64];
    int n = snprintf(text, sizeof text, "%s%c%s", c->syscall ? c->syscall : "", 0, c->text);
    if (n > (int)sizeof text - 1) n = (int)sizeof text - 1;
    msg_send(c, MSG_ERROR, -e, text, (size_t)n, -1);
}

static uint32_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint32_t)((uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u);
}

static int run(struct ctx *c, const uint8_t *plan, size_t size) {
    struct rd r = {plan, plan + size, false};
    uint32_t magic = rd_u32(&r), version = rd_u32(&r), count = rd_u32(&r), given = rd_u32(&r);
    c->fault = rd_u32(&r);
    c->timed = rd_u32(&r) != 0;
    if (r.bad || magic != OCIPY_PLAN_MAGIC || version != OCIPY_PLAN_VERSION || count > MAX_OPS || given > MAX_SLOTS)
        return failf(c, NULL, -EPROTO, "bad plan header");
    c->given = given;
    for (uint32_t i = 0; i < MAX_SLOTS; i++) c->slots[i] = i < given ? c->base + 2 + (int)i : -1;
    for (c->op = 0; c->op < count; c->op++) {
        uint32_t code = rd_u32(&r);
        struct rd payload;
        uint32_t length;
        payload.p = rd_bytes(&r, &length);
        payload.end = payload.p + length;
        payload.bad = r.bad;
        if (r.bad || code >= sizeof handlers / sizeof handlers[0] || !handlers[code].run)
            return failf(c, NULL, -EPROTO, "bad plan: operation code %u", code);
        c->syscall = NULL;
        c->text[0] = 0;
        if (c->op == c->fault) return failf(c, "injected", -EIO, "injected fault");
        uint32_t start = c->timed ? now_us() : 0;
        int e = handlers[code].run(c, &payload);
        if (e < 0) return e;
        if (payload.bad) return failf(c, NULL, -EPROTO, "bad plan: payload of %s", handlers[code].name);
        if (c->timed) c->times[c->op] = now_us() - start;
    }
    return failf(c, NULL, -EPROTO, "the plan does not end in exec");
}

int main(int argc, char **argv) {
    static struct ctx c;
    c.base = argc > 1 ? atoi(argv[1]) : -1;
    if (c.base < 3) return 125;
    c.sock = c.base;
    c.op = NO_OP;
    c.proc = c.root = c.null = c.private = c.empty = c.tty = -1;
    prctl(PR_SET_NAME, "ocipy-init");
    /* Nothing of ours may reach the user's program: closed on exec from the first moment on
     * (and once more just before it, op_exec). CVE-2024-21626. */
    syscall(SYS_close_range, (unsigned)c.base, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */);
    /* exec resets handlers but neither the mask nor what is ignored: Python ignores SIGPIPE and SIGXFSZ,
     * and the extension blocked every signal around the clone. */
    static const char by_default[64]; /* the kernel's struct sigaction, all zero: SIG_DFL */
    /* by the system call: glibc keeps signals 32 and 33 to itself, and they may be inherited as ignored */
    for (int s = 1; s <= 64; s++) syscall(SYS_rt_sigaction, s, by_default, NULL, 8);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);

    struct stat st;
    int e;
    if (fstat(c.base + 1, &st) < 0) {
        e = fail(&c, "fstat");
    } else {
        void *plan = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, c.base + 1, 0);
        e = plan == MAP_FAILED ? fail(&c, "mmap") : run(&c, plan, (size_t)st.st_size);
    }
    report(&c, e);
    return 125;
}
