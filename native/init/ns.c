/* Namespaces, and what is set once inside them. */
#include "init.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

/* open_ns(slot, path, type, file of the namespace that it must not be, or ""): opened before anything is joined,
 * while the host's paths can be reached. */
int op_open_ns(struct ctx *c, struct rd *r) {
    uint32_t index = rd_u32(r);
    const char *path = rd_str(r);
    int type = (int)rd_u32(r);
    const char *other = rd_str(r);
    int *s = slot(c, index);
    if (r->bad || !s) return failf(c, NULL, -EPROTO, "bad slot");
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) return fail(c, "open");
    struct statfs st;
    if (fstatfs(fd, &st) < 0) return fail(c, "fstatfs");
    if (st.f_type != NSFS_MAGIC) return failf(c, NULL, -EINVAL, "not a namespace file");
    int found = ioctl(fd, NS_GET_NSTYPE);
    if (found >= 0 && found != type) return failf(c, NULL, -EINVAL, "a namespace of another type");
    struct stat ours, theirs;
    if (*other && stat(other, &ours) == 0 && fstat(fd, &theirs) == 0 && ours.st_ino == theirs.st_ino)
        return failf(c, NULL, -EINVAL, "the runtime's own namespace, which the container would change");
    *s = fd;
    return 0;
}

/* The caller's groups are not the container's; once in its user namespace we may not be allowed to say so. */
static void drop_groups(void) {
    if (setgroups(0, NULL) < 0) return; /* no privilege, and so no group of the host's root */
}

int set_groups(struct ctx *c, size_t count, const gid_t *groups) {
    if (setgroups(count, groups) == 0) return 0;
    int error = errno;
    /* denied for good in this user namespace, but there is nothing to change */
    if (error == EPERM && count == 0 && getgroups(0, NULL) == 0) return 0;
    errno = error;
    return fail(c, "setgroups");
}

/* setns([slot, type] ...): who may join a namespace depends on the user namespace that owns it. One owned by
 * the host's must be joined before a user namespace is, one owned by that user namespace only after it: so
 * what is refused at first is tried again inside. */
int op_setns(struct ctx *c, struct rd *r) {
    uint32_t count = rd_u32(r), later[16], n = 0;
    int user = -1;
    const uint8_t *start = r->p;
    for (int pass = 0; pass < 2; pass++) {
        r->p = start;
        for (uint32_t i = 0; i < count; i++) {
            int *s = slot(c, rd_u32(r));
            int type = (int)rd_u32(r);
            if (r->bad || !s || i >= 16) return failf(c, NULL, -EPROTO, "bad slot");
            if (type == CLONE_NEWUSER) {
                user = *s;
                continue;
            }
            if (pass == 0) {
                later[i] = setns(*s, type) < 0;
                if (later[i] && errno != EPERM) return fail(c, "setns");
                if (later[i]) n++;
            } else if (later[i] && setns(*s, type) < 0) {
                return fail(c, "setns");
            }
        }
        if (pass == 0 && user >= 0) {
            drop_groups();
            if (setns(user, CLONE_NEWUSER) < 0) return fail(c, "setns");
        }
        if (pass == 0 && n && user < 0) {
            errno = EPERM;
            return fail(c, "setns");
        }
    }
    return 0;
}

/* setns_pidfd(slot, flags): every namespace of a running container at once (Linux 5.8). */
int op_setns_pidfd(struct ctx *c, struct rd *r) {
    int *s = slot(c, rd_u32(r));
    int flags = (int)rd_u32(r);
    if (r->bad || !s) return failf(c, NULL, -EPROTO, "bad slot");
    if (flags & CLONE_NEWUSER) drop_groups();
    return setns(*s, flags) < 0 ? fail(c, "setns") : 0;
}

int op_unshare(struct ctx *c, struct rd *r) {
    int flags = (int)rd_u32(r);
    return unshare(flags) < 0 ? fail(c, "unshare") : 0;
}

/* The rest of the plan runs in a child: a pid namespace, joined or unshared, and a time namespace have
 * effect for children only. CLONE_PARENT makes it a child of whoever launched us. The pid in the message is
 * as our own pid namespace has it, which is still the launcher's. */
int op_fork(struct ctx *c, struct rd *r) {
    (void)r;
    int pidfd = -1;
    struct clone_args a = {.flags = CLONE_PARENT | CLONE_PIDFD, .pidfd = (uint64_t)(uintptr_t)&pidfd};
    /* exit_signal must be 0 with CLONE_PARENT: the child takes ours, SIGCHLD */
    long pid = syscall(SYS_clone3, &a, sizeof a);
    if (pid < 0) return fail(c, "clone3");
    if (pid == 0) return msg_await(c, MSG_ACK, NULL, NULL);
    int e = msg_send(c, MSG_FORKED, (int32_t)pid, NULL, 0, pidfd);
    if (e < 0) syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
    _exit(e < 0 ? 125 : 0);
}

int op_setsid(struct ctx *c, struct rd *r) {
    (void)r;
    /* fails only for a process group leader, which a fresh child is not */
    return setsid() < 0 ? fail(c, "setsid") : 0;
}

int op_loopback(struct ctx *c, struct rd *r) {
    (void)r;
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (s < 0 && errno == EAFNOSUPPORT) s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (s < 0) return fail(c, "socket");
    struct ifreq q = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int e = ioctl(s, SIOCSIFFLAGS, &q) < 0 ? fail(c, "ioctl(SIOCSIFFLAGS)") : 0;
    close(s);
    return e;
}

int op_hostname(struct ctx *c, struct rd *r) {
    const char *name = rd_str(r);
    return sethostname(name, strlen(name)) < 0 ? fail(c, "sethostname") : 0;
}

int op_domainname(struct ctx *c, struct rd *r) {
    const char *name = rd_str(r);
    return setdomainname(name, strlen(name)) < 0 ? fail(c, "setdomainname") : 0;
}

/* A session keyring of its own: the container must not see the keys of who started it. The kernel counts keyrings
 * of ended processes against the user's quota until it has collected them, some 100 ms: worth a wait of 2 s. */
int op_keyring(struct ctx *c, struct rd *r) {
    const char *name = rd_str(r);
    for (int tries = 0; syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, name, 0, 0, 0) < 0; tries++) {
        if (errno == ENOSYS) return 0;
        if (errno != EDQUOT || tries == 200) return fail(c, "keyctl");
        nanosleep(&(struct timespec){.tv_nsec = 10 * 1000 * 1000}, NULL);
    }
    return 0;
}

/* root_ids(whether setgroups may be called, uid, gid): become root of the user namespace just made or joined, or,
 * where root isn't mapped, who is. All capabilities are there, and a change from an unmapped uid keeps them. */
int op_root_ids(struct ctx *c, struct rd *r) {
    uint32_t groups = rd_u32(r); /* not with "deny" */
    uid_t uid = rd_u32(r);
    gid_t gid = rd_u32(r);
    if (setresgid(gid, gid, gid) < 0) return fail(c, "setresgid");
    int e = groups ? set_groups(c, 0, NULL) : 0;
    if (e < 0) return e;
    if (setresuid(uid, uid, uid) < 0) return fail(c, "setresuid");
    return 0;
}

/* Not dumpable: a process of a namespace that we join may neither ptrace us nor open our /proc files
 * (CVE-2016-9962). The exec of the user's program makes it dumpable again. */
int op_dumpable(struct ctx *c, struct rd *r) {
    return prctl(PR_SET_DUMPABLE, rd_u32(r), 0, 0, 0) < 0 ? fail(c, "prctl(PR_SET_DUMPABLE)") : 0;
}

bool is_procfs(int fd) {
    struct statfs st;
    return fstatfs(fd, &st) == 0 && st.f_type == PROC_SUPER_MAGIC;
}

static int put(struct ctx *c, int fd, const char *value) {
    size_t size = strlen(value);
    ssize_t n = write(fd, value, size);
    int e = n < 0 ? fail(c, "write") : 0;
    if (n >= 0 && (size_t)n < size) /* of a list that is too long a sysctl takes the beginning */
        e = failf(c, NULL, -EINVAL, "only the first %zd bytes were taken: a value too many", n);
    return e;
}

/* proc_write(path below /proc, value): sysctls, oom_score_adj, timens_offsets. Through a verified procfs that
 * was opened on the host's side, and never across a mount inside it (CVE-2019-16884, CVE-2025-52881). */
int op_proc_write(struct ctx *c, struct rd *r) {
    const char *path = rd_str(r), *value = rd_str(r);
    int dir = proc_fd(c);
    if (dir < 0) return dir;
    int fd = sys_openat2(dir, path, O_WRONLY, 0, 0x01 | 0x02 | 0x08 /* NO_XDEV, NO_MAGICLINKS, BENEATH */);
    if (fd < 0) return fail(c, "openat2");
    int e = put(c, fd, value);
    close(fd);
    return e;
}

/* proc_open(slot, path below /proc): to be written later, with the rights that we have now. */
int op_proc_open(struct ctx *c, struct rd *r) {
    int *s = slot(c, rd_u32(r));
    const char *path = rd_str(r);
    if (r->bad || !s) return failf(c, NULL, -EPROTO, "bad slot");
    int dir = proc_fd(c);
    if (dir < 0) return dir;
    *s = sys_openat2(dir, path, O_WRONLY, 0, 0x01 | 0x02 | 0x08);
    return *s < 0 ? fail(c, "openat2") : 0;
}

/* put(slot, value) */
int op_put(struct ctx *c, struct rd *r) {
    int *s = slot(c, rd_u32(r));
    const char *value = rd_str(r);
    if (r->bad || !s) return failf(c, NULL, -EPROTO, "bad slot");
    int e = put(c, *s, value);
    close(*s);
    *s = -1;
    return e;
}
