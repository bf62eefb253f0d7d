/* The process's own attributes: limits, identity, privileges. */
#include "init.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int op_rlimit(struct ctx *c, struct rd *r) {
    unsigned resource = rd_u32(r);
    struct rlimit limit;
    limit.rlim_cur = rd_u64(r);
    limit.rlim_max = rd_u64(r);
    return setrlimit((__rlimit_resource_t)resource, &limit) < 0 ? fail(c, "setrlimit") : 0;
}

int op_umask(struct ctx *c, struct rd *r) {
    (void)c;
    umask(rd_u32(r));
    return 0;
}

/* bounding(capabilities to keep): the first number above the kernel's last answers EINVAL. */
int op_bounding(struct ctx *c, struct rd *r) {
    uint64_t keep = rd_u64(r);
    for (int cap = 0; cap < 64; cap++) {
        int have = prctl(PR_CAPBSET_READ, cap, 0, 0, 0);
        if (have < 0) break;
        if (have && !(keep >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
            return failf(c, "prctl(PR_CAPBSET_DROP)", -errno, "capability %d", cap);
    }
    return 0;
}

/* Bytes of a plan, copied to where the kernel may take them for a structure; NULL if there is no room. */
static void *aligned(const uint8_t *raw, size_t size) {
    void *copy = arena(size);
    if (copy && size) memcpy(copy, raw, size);
    return copy;
}

/* user(uid, gid, groups, whether setgroups may be called): capabilities outlive the change of uid, to be set
 * by `caps`. stdio that is ours (a pipe of the engine) is given to the user, so that /dev/stdout can be
 * reopened by path, as runc does it. */
int op_user(struct ctx *c, struct rd *r) {
    uid_t uid = rd_u32(r);
    gid_t gid = rd_u32(r);
    uint32_t size, may_set_groups;
    const uint8_t *raw = rd_bytes(r, &size);
    may_set_groups = rd_u32(r);
    if (r->bad || size % sizeof(gid_t)) return failf(c, NULL, -EPROTO, "bad groups");
    const gid_t *groups = aligned(raw, size);
    if (!groups) return failf(c, NULL, -ENOMEM, "plan arena");
    for (int fd = 0; fd < 3; fd++) {
        struct stat st;
        if (fstat(fd, &st) < 0 || st.st_uid == uid) continue;
        /* a device but for a terminal stays whose it is */
        if (S_ISBLK(st.st_mode) || (S_ISCHR(st.st_mode) && !isatty(fd))) continue;
        /* refused for an fd of another user namespace or a read-only file: it then stays as it is */
        if (fchown(fd, uid, (gid_t)-1) < 0) continue;
    }
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0) return fail(c, "prctl(PR_SET_KEEPCAPS)");
    int e = may_set_groups ? set_groups(c, size / sizeof(gid_t), groups) : 0;
    if (e < 0) return e;
    if (setresgid(gid, gid, gid) < 0) return fail(c, "setresgid");
    if (setresuid(uid, uid, uid) < 0) return fail(c, "setresuid");
    return 0;
}

/* caps(effective, permitted, inheritable, ambient, held): `held` stay in the permitted and effective sets
 * until the exec, which computes them anew: loading a seccomp filter last needs CAP_SYS_ADMIN. */
int op_caps(struct ctx *c, struct rd *r) {
    uint64_t effective = rd_u64(r), permitted = rd_u64(r), inheritable = rd_u64(r), ambient = rd_u64(r), held = rd_u64(r);
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2], now[2];
    if (syscall(SYS_capget, &header, now) < 0) return fail(c, "capget");
    for (int i = 0; i < 2; i++) {
        uint32_t hold = (uint32_t)(held >> 32 * i) & now[i].permitted;
        data[i].permitted = (uint32_t)(permitted >> 32 * i) | hold;
        data[i].effective = (uint32_t)(effective >> 32 * i) | hold;
        data[i].inheritable = (uint32_t)(inheritable >> 32 * i);
    }
    if (syscall(SYS_capset, &header, data) < 0) {
        uint64_t missing = permitted & ~((uint64_t)now[1].permitted << 32 | now[0].permitted);
        if (missing) return failf(c, "capset", -errno, "capability %d is not ours to give", __builtin_ctzll(missing));
        return fail(c, "capset");
    }
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0) return fail(c, "prctl(PR_CAP_AMBIENT)");
    for (int cap = 0; cap < 64; cap++)
        if (ambient >> cap & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0)
            return failf(c, "prctl(PR_CAP_AMBIENT_RAISE)", -errno, "capability %d", cap);
    return 0;
}

/* cwd(path, tentative): tried as root first, and where that is refused (a home directory on NFS) as the user.
 * And it must be inside: a working directory left on a descriptor of the host shows as
 * "(unreachable)" (CVE-2024-21626). */
int op_cwd(struct ctx *c, struct rd *r) {
    static bool done;
    const char *path = rd_str(r);
    uint32_t tentative = rd_u32(r);
    char now[4096];
    if (done) return 0;
    close_paths(c);
    if (chdir(path) < 0) return tentative && errno == EACCES ? 0 : fail(c, "chdir");
    done = true;
    if (syscall(SYS_getcwd, now, sizeof now) < 0) return fail(c, "getcwd");
    if (now[0] != '/') return failf(c, NULL, -EPERM, "the working directory is outside of the container");
    return 0;
}

int op_no_new_privs(struct ctx *c, struct rd *r) {
    (void)r;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? fail(c, "prctl(PR_SET_NO_NEW_PRIVS)") : 0;
}

/* With a listener, that goes to whoever waits for us, in the one system call that the filter
 * must let through besides the exec. It is closed by the exec. */
int load_filter(struct ctx *c, unsigned flags, const uint8_t *program, uint32_t size) {
    if (size % sizeof(struct sock_filter) || size / sizeof(struct sock_filter) > BPF_MAXINSNS)
        return failf(c, NULL, -EPROTO, "bad program");
    void *copy = aligned(program, size);
    if (!copy) return failf(c, NULL, -ENOMEM, "plan arena");
    struct sock_fprog p = {(unsigned short)(size / sizeof(struct sock_filter)), copy};
    long listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &p);
    if (listener < 0) return fail(c, "seccomp");
    return flags & SECCOMP_FILTER_FLAG_NEW_LISTENER ? msg_send(c, MSG_LISTENER, 0, NULL, 0, (int)listener) : 0;
}

/* seccomp(flags, program) */
int op_seccomp(struct ctx *c, struct rd *r) {
    unsigned flags = rd_u32(r);
    uint32_t size;
    const uint8_t *program = rd_bytes(r, &size);
    return r->bad ? 0 : load_filter(c, flags, program, size);
}

/* hook_filter(flags, program): the filter of the hooks that follow. They load it themselves, so that it need not allow
 * what we do between them. */
int op_hook_filter(struct ctx *c, struct rd *r) {
    c->hook_filter_flags = rd_u32(r);
    c->hook_filter = rd_bytes(r, &c->hook_filter_size);
    return 0;
}

int op_personality(struct ctx *c, struct rd *r) {
    return personality(rd_u32(r)) < 0 ? fail(c, "personality") : 0;
}

/* scheduler(policy, nice, priority, flags, runtime, deadline, period) */
int op_scheduler(struct ctx *c, struct rd *r) {
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
        uint32_t least, most; /* utilization, which the config has no values for; without room for them their flags
                               * are invalid, not unsupported */
    } a = {.size = sizeof a};
    a.policy = rd_u32(r);
    a.nice = (int32_t)rd_u32(r);
    a.priority = rd_u32(r);
    a.flags = rd_u64(r);
    a.runtime = rd_u64(r);
    a.deadline = rd_u64(r);
    a.period = rd_u64(r);
    return syscall(SYS_sched_setattr, 0, &a, 0) < 0 ? fail(c, "sched_setattr") : 0;
}

int op_ioprio(struct ctx *c, struct rd *r) {
    return syscall(SYS_ioprio_set, 1 /* IOPRIO_WHO_PROCESS */, 0, rd_u32(r)) < 0 ? fail(c, "ioprio_set") : 0;
}

/* mempolicy(mode and flags, nodes as bits): of this process, which the program and its children inherit. */
int op_mempolicy(struct ctx *c, struct rd *r) {
    uint32_t mode = rd_u32(r), size;
    const uint8_t *raw = rd_bytes(r, &size);
    const void *nodes = aligned(raw, size);
    if (!nodes) return failf(c, NULL, -ENOMEM, "plan arena");
    /* the kernel takes one off the number of bits */
    long e = syscall(SYS_set_mempolicy, mode, size ? nodes : NULL, size ? size * 8ul + 1 : 0);
    return e < 0 ? fail(c, "set_mempolicy") : 0;
}

/* affinity(CPUs as bits) */
int op_affinity(struct ctx *c, struct rd *r) {
    uint32_t size;
    const uint8_t *raw = rd_bytes(r, &size);
    const void *cpus = aligned(raw, size);
    if (!cpus) return failf(c, NULL, -ENOMEM, "plan arena");
    c->pinned = true;
    return syscall(SYS_sched_setaffinity, 0, size, cpus) < 0 ? fail(c, "sched_setaffinity") : 0;
}

/* death_signal(signal): comes when the thread that launched this process ends. It outlives the exec, and is not
 * inherited by children. */
int op_death_signal(struct ctx *c, struct rd *r) {
    return prctl(PR_SET_PDEATHSIG, rd_u32(r), 0, 0, 0) < 0 ? fail(c, "prctl(PR_SET_PDEATHSIG)") : 0;
}
