/* What the parts of the init helper share.
 *
 * The helper is a small static program that the extension runs from a sealed memfd as the first process of a
 * container (or of an exec). It reads a plan - operations encoded by ocipy/plan - executes them in order,
 * and becomes the user's program. It decides nothing and allocates nothing: Python decides.
 *
 * Handlers return 0 or -errno. `fail(c, "openat2")` notes which system call it was and returns -errno. */
#ifndef OCIPY_INIT_H
#define OCIPY_INIT_H

#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "../protocol.h"
#include "ops.h"

#define MAX_SLOTS 512
#define MAX_OPS 4096
#define TEXT_MAX 4096
#define STATE_MAX (1 << 20) /* bytes of a container's state: of .bss, so unused ones cost nothing */
#define NO_OP 0xffffffffu
#define NO_SLOT 0xffffffffu

struct ctx {
    int sock;   /* to whom we report: create's socket, later start's connection; -1 between */
    int base;   /* the first descriptor that is ours; those below go to the user's program */
    int proc;   /* O_PATH of a verified procfs */
    int root;   /* O_PATH of the container's root, once bound or entered */
    int null;   /* a mount of a null device, once one is needed */
    bool null_attached;
    int private; /* root of the helper's own file system (private.c) */
    int empty;  /* a read-only tmpfs, once it covers a masked directory */
    int tty;    /* pty slave, once made */
    uint32_t op;
    uint32_t fault; /* operation that must fail (fault injection), or NO_OP */
    bool timed;
    bool pinned; /* to CPUs that the config names */
    uint32_t times[MAX_OPS]; /* microseconds per operation */
    uint32_t given; /* slots that were filled at launch: the first ones */
    int slots[MAX_SLOTS];
    const char *syscall; /* what failed */
    char text[TEXT_MAX]; /* more about it */
    const char *state;   /* container state JSON, for hooks */
    size_t state_size;
    const uint8_t *hook_filter; /* seccomp program for the hooks from now on, if there is one */
    uint32_t hook_filter_size, hook_filter_flags;
    const char *path; /* the executable, once looked up */
    char *home;       /* HOME=... for it, unless its environment has one */
};

/* --- reading a plan: every length is checked; a bad one makes all later reads fail (r->bad) --- */
struct rd {
    const uint8_t *p, *end;
    bool bad;
};
uint32_t rd_u32(struct rd *r);
uint64_t rd_u64(struct rd *r);
const char *rd_str(struct rd *r);                          /* never NULL */
const uint8_t *rd_bytes(struct rd *r, uint32_t *size);     /* raw */
char **rd_strs(struct rd *r, uint32_t *count);             /* NULL-terminated vector from the arena; NULL if bad */
int *slot(struct ctx *c, uint32_t index);                  /* NULL if out of range */
void *arena(size_t size);                                  /* bump allocation from a fixed mapping; NULL if full */

/* --- reporting --- */
const char *words(int error); /* "no such file or directory"; valid until the next call */
int fail(struct ctx *c, const char *syscall); /* -errno */
int failf(struct ctx *c, const char *syscall, int e, const char *format, ...) /* e, a negative errno */
    __attribute__((format(printf, 4, 5)));
int msg_send(struct ctx *c, uint32_t type, int32_t value, const void *text, size_t size, int fd);
int msg_recv(struct ctx *c, struct msg *m, char *text, size_t size);
int ask_idmap(struct ctx *c, int mount, int userns, bool recursive);
int keep_only(struct ctx *c, int *fd); /* closes all of ours but one */
void close_paths(struct ctx *c);       /* closes what leads to files */
int msg_await(struct ctx *c, uint32_t type, const char **text, size_t *size); /* ACK, most often */

/* --- system calls glibc 2.36 has no wrapper for, or an unsuitable one --- */
int sys_openat2(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);
int sys_open_tree(int dir, const char *path, unsigned flags);
int sys_move_mount(int from, int to);
int sys_mount_setattr(int fd, unsigned flags, uint64_t set, uint64_t clear, uint64_t propagation, int userns);

/* --- paths inside the container's root --- */
int in_root(struct ctx *c, const char *path, uint64_t flags);              /* fd or -errno; never outside */
int in_root_dir(struct ctx *c, const char *path, unsigned mode);           /* the same, made if missing */
int in_root_parent(struct ctx *c, const char *path, const char **last);    /* its directory, made if missing */
int in_root_file(struct ctx *c, const char *path);                         /* a file or anything, made if missing */
int in_root_entry(struct ctx *c, const char *path, bool dir);              /* the same, but a link itself */
int proc_fd(struct ctx *c);                                                /* verified procfs */
int in_mount(struct ctx *c, struct rd *r, const char **path);              /* below a mount that a slot holds */
bool same_place(int a, int b);
bool is_procfs(int fd);
int chmod_fd(struct ctx *c, int fd, mode_t mode);

/* --- the helper's own file system --- */
int null_mount(struct ctx *c); /* to be attached once */
bool is_null(const struct stat *st);
int mount_aside(struct ctx *c, const char *type, const char *source, unsigned long flags, const char *data);

int slot_attr(struct ctx *c, uint32_t index, uint64_t set, uint64_t clear);
int late_attr(struct ctx *c, int fd, uint64_t set, uint64_t clear); /* of an attached mount, before 5.12 */
int write_all(int fd, const char *data, size_t size);
int load_filter(struct ctx *c, unsigned flags, const uint8_t *program, uint32_t size);
int set_groups(struct ctx *c, size_t count, const gid_t *groups);
void deadly(bool on);
char **env_and(char *const *env, uint32_t count, char *entry); /* NULL if there is no room */
int diagnose_exec(struct ctx *c, const char *path, int error);

#define OCIPY_DECLARE(number, name, handler) int handler(struct ctx *c, struct rd *r);
OCIPY_OPS(OCIPY_DECLARE)

#endif
