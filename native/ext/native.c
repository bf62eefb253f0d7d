/* The cffi extension: the launch of the init helper, its message channel, and system calls CPython has no
 * wrapper for. Every function releases the GIL while it runs (cffi does), and keeps no state. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "native.h"

#define CHILD_STACK (64 * 1024)
#define MAX_FDS 4096 /* that the helper is given, most of them for the program; their numbers have room on that stack */

static int result(long r) { return r < 0 ? -errno : (int)r; }

/* --- launch --- */

struct child {
    struct ocipy_launch *l;
    int error; /* written by the child: the memory is shared until it execs */
};

/* Runs in the child, in the caller's memory but on a stack and a descriptor table of its own: only system
 * calls, no malloc, no locks. Returns only on failure. */
static void child_main(void *arg) {
    struct child *ch = arg;
    struct ocipy_launch *l = ch->l;
    int count = (int)l->count, moved[MAX_FDS + 1];
    char *argv[] = {(char *)"ocipy-init", (char *)l->base, NULL}, *envp[] = {NULL};
    /* first out of the way of the targets, then into place; the helper's own fd last, closed by its exec */
    for (int i = 0; i <= count; i++) {
        moved[i] = fcntl(i < count ? l->fds[i] : l->helper, F_DUPFD_CLOEXEC, count + 1);
        if (moved[i] < 0 && errno == EINVAL) errno = EMFILE; /* no number above the targets is below the limit */
        if (moved[i] < 0) goto failed;
    }
    for (int i = 0; i < count; i++)
        if (dup3(moved[i], i, 0) < 0) goto failed;
    if (dup3(moved[count], count, O_CLOEXEC) < 0) goto failed;
    if (syscall(SYS_close_range, (unsigned)count + 1, ~0u, 0) < 0) goto failed;
    syscall(SYS_execveat, count, "", argv, envp, AT_EMPTY_PATH);
failed:
    ch->error = errno;
    _exit(127);
}

/* clone3 with CLONE_VM needs a stack for the child, and a child that does not return into this frame: glibc
 * 2.36 wraps only clone(2), which can't put the child into a cgroup. */
#if defined(__x86_64__)
static long clone_vm(struct clone_args *a, void (*fn)(void *), void *arg) {
    register long rax __asm__("rax") = SYS_clone3;
    register void *rdi __asm__("rdi") = a;
    register long rsi __asm__("rsi") = sizeof *a;
    register void (*r12)(void *) __asm__("r12") = fn;
    register void *r13 __asm__("r13") = arg;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "mov %%r13, %%rdi\n\t"
                     "call *%%r12\n\t"
                     "hlt\n"
                     "1:"
                     : "+r"(rax)
                     : "r"(rdi), "r"(rsi), "r"(r12), "r"(r13)
                     : "rcx", "r11", "memory", "cc");
    return rax;
}
#elif defined(__aarch64__)
static long clone_vm(struct clone_args *a, void (*fn)(void *), void *arg) {
    register long x8 __asm__("x8") = SYS_clone3;
    register long x0 __asm__("x0") = (long)a;
    register long x1 __asm__("x1") = sizeof *a;
    register void (*x19)(void *) __asm__("x19") = fn;
    register void *x20 __asm__("x20") = arg;
    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, xzr\n\t"
                     "mov x0, x20\n\t"
                     "blr x19\n\t"
                     "brk #0\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x19), "r"(x20)
                     : "memory", "cc", "x30");
    return x0;
}
#else
/* Elsewhere: an ordinary fork, with the page-table copy that it costs. */
static long clone_vm(struct clone_args *a, void (*fn)(void *), void *arg) {
    a->flags &= ~(uint64_t)(CLONE_VM | CLONE_VFORK);
    a->stack = a->stack_size = 0;
    long pid = syscall(SYS_clone3, a, sizeof *a);
    if (pid == 0) fn(arg);
    return pid < 0 ? -errno : pid;
}
#endif

int ocipy_launch(struct ocipy_launch *l) {
    int pidfd = -1;
    struct child ch = {l, 0};
    struct clone_args a = {
        .flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | l->flags,
        .pidfd = (uint64_t)(uintptr_t)&pidfd,
        .exit_signal = SIGCHLD,
        .stack_size = CHILD_STACK,
    };
    if (l->count > MAX_FDS) return -EMFILE;
    if (l->cgroup >= 0) {
        a.flags |= CLONE_INTO_CGROUP;
        a.cgroup = (uint64_t)l->cgroup;
    }
    void *stack = mmap(NULL, CHILD_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED) return -errno;
    a.stack = (uint64_t)(uintptr_t)stack;
    /* no handler of the caller may run in the child, on its stack and in the caller's memory */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    long pid = clone_vm(&a, child_main, &ch);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    munmap(stack, CHILD_STACK);
    if (pid < 0) return (int)pid;
    if (ch.error) {
        waitpid((pid_t)pid, NULL, 0);
        close(pidfd);
        return -ch.error;
    }
    l->pid = (int)pid;
    l->pidfd = pidfd;
    return 0;
}

/* --- the init helper's copy --- */

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U /* Linux 6.3 */
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020 /* Linux 6.3 */
#endif

static int copy_into(int fd, int in) {
    struct stat st;
    if (fstat(in, &st) < 0) return -errno;
    for (off_t left = st.st_size; left > 0;) {
        ssize_t n = sendfile(fd, in, NULL, (size_t)left);
        if (n <= 0) return n < 0 ? -errno : -EIO;
        left -= n;
    }
    return fchmod(fd, 0555) < 0 ? -errno : 0; /* whoever it is given to: everybody may execute it */
}

static int memfd_copy(int in) {
    int fd = memfd_create("ocipy-init", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
    if (fd < 0 && errno == EINVAL) fd = memfd_create("ocipy-init", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) return -errno;
    int e = copy_into(fd, in), seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
    /* a container must not take our right to execute it: where there is no such seal, see ocipy.launch.protocol */
    if (!e && fcntl(fd, F_ADD_SEALS, seals | F_SEAL_EXEC) < 0 && fcntl(fd, F_ADD_SEALS, seals) < 0) e = -errno;
    if (e) close(fd);
    return e ? e : fd;
}

/* In a file system that nobody else has, on a mount that is read-only for good: it is detached. */
static int tmpfs_copy(int in) {
    int fs = (int)syscall(SYS_fsopen, "tmpfs", 1u /* FSOPEN_CLOEXEC */), mnt = -1, fd = -1, e = 0;
    if (fs < 0) return -errno;
    if (syscall(SYS_fsconfig, fs, 6u /* CMD_CREATE */, NULL, NULL, 0) < 0 ||
        (mnt = (int)syscall(SYS_fsmount, fs, 1u, 2u | 4u /* NOSUID, NODEV */)) < 0 ||
        (fd = openat(mnt, "ocipy-init", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0500)) < 0)
        e = -errno;
    if (!e) e = copy_into(fd, in);
    if (fd >= 0) close(fd);
    struct {
        uint64_t set, clear, propagation, userns;
    } readonly = {.set = 1};
    if (!e && syscall(SYS_mount_setattr, mnt, "", AT_EMPTY_PATH, &readonly, sizeof readonly) < 0) e = -errno;
    if (!e && (fd = openat(mnt, "ocipy-init", O_RDONLY | O_CLOEXEC)) < 0) e = -errno;
    close(fs);
    if (mnt >= 0) close(mnt);
    return e ? e : fd;
}

/* Starts a program in a process group of its own, with no signal blocked or ignored: its pid. posix_spawn(3) as Python
 * has it can't change the directory. */
int ocipy_spawn(struct ocipy_spawn *s) {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    pid_t pid = 0;
    int e = posix_spawn_file_actions_init(&actions);
    if (e) return -e;
    if ((e = posix_spawnattr_init(&attributes))) {
        posix_spawn_file_actions_destroy(&actions);
        return -e;
    }
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    e = posix_spawn_file_actions_adddup2(&actions, s->input, 0);
    if (!e) e = posix_spawn_file_actions_adddup2(&actions, s->output, 1);
    if (!e) e = posix_spawn_file_actions_adddup2(&actions, s->output, 2);
    if (!e && s->directory >= 0) e = posix_spawn_file_actions_addfchdir_np(&actions, s->directory);
    for (unsigned int i = 0; !e && i < s->count; i++) e = posix_spawn_file_actions_addclose(&actions, s->closed[i]);
    if (!e) e = posix_spawn(&pid, s->path, &actions, &attributes, s->args, s->env);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return e ? -e : pid;
}

/* An unwritable copy of a program: what the container can reach as /proc/self/exe while it starts is
 * neither the file nor open to change (CVE-2019-5736). With vm.memfd_noexec=2 nothing in a memfd can be executed
 * (-EACCES): then a copy of another kind; or for a user, who can make none, the file itself, if it is another's and
 * not the user's to change. */
int ocipy_sealed_copy(const char *path) {
    int in = open(path, O_RDONLY | O_CLOEXEC);
    if (in < 0) return -errno;
    int fd = memfd_copy(in);
    if (fd == -EACCES) {
        struct stat st;
        fd = lseek(in, 0, SEEK_SET) < 0 ? -errno : tmpfs_copy(in);
        if (fd == -EPERM && fstat(in, &st) == 0 && st.st_uid != geteuid() && access(path, W_OK) < 0) return in;
    }
    close(in);
    return fd;
}

/* Nobody changes any more what was written: a process that can look into the helper's descriptors could. */
int ocipy_seal(int fd) {
    return result(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE));
}

/* --- the message channel --- */

int ocipy_channel(int fds[2]) { return result(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds)); }

/* sun_path holds 107 bytes and a state directory may be deeper: so by its descriptor. */
static int address(struct sockaddr_un *a, int dirfd, const char *name) {
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    int n = snprintf(a->sun_path, sizeof a->sun_path, "/proc/self/fd/%d/%s", dirfd, name);
    return n < 0 || n >= (int)sizeof a->sun_path ? -ENAMETOOLONG : 0;
}

int ocipy_listen(int dirfd, const char *name) {
    struct sockaddr_un a;
    int e = address(&a, dirfd, name);
    if (e < 0) return e;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    if (bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(fd, 16) < 0) {
        e = -errno;
        close(fd);
        return e;
    }
    return fd;
}

/* -EAGAIN: somebody listens, but does not accept and the backlog is full. To wait for room could last for ever,
 * for a process that is stopped. The descriptor that is returned blocks. */
int ocipy_connect(int dirfd, const char *name) {
    struct sockaddr_un a;
    int e = address(&a, dirfd, name);
    if (e < 0) return e;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -errno;
    if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0 || fcntl(fd, F_SETFL, 0) < 0) {
        e = -errno;
        close(fd);
        return e;
    }
    return fd;
}

/* -EPIPE where the other side is gone, also if it left something unread, of which ECONNRESET tells. */
int ocipy_send(int fd, const void *data, unsigned int size) {
    int n = result(send(fd, data, size, MSG_NOSIGNAL));
    return n == -ECONNRESET ? -EPIPE : n;
}

/* Have a detached mount show ids as a user namespace maps them (mount_setattr(2)); flags: AT_RECURSIVE or none. */
int ocipy_idmap(int mount, int userns, unsigned int flags) {
    struct { uint64_t set, clear, propagation, userns; } mapped = {1u << 20 /* MOUNT_ATTR_IDMAP */, 0, 0, (unsigned)userns};
    return result(syscall(SYS_mount_setattr, mount, "", AT_EMPTY_PATH | flags, &mapped, sizeof mapped));
}

/* Some of the data, with a descriptor beside its first byte; how much. */
int ocipy_send_fd(int fd, const void *data, unsigned int size, int passed) {
    struct iovec v = {(void *)data, size};
    union {
        struct cmsghdr h;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.h = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))}};
    memcpy(CMSG_DATA(&control.h), &passed, sizeof passed);
    struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.room};
    return result(sendmsg(fd, &h, MSG_NOSIGNAL));
}

/* One message into data; 0 at the end of the channel; -ETIMEDOUT (timeout_ms < 0: never). A descriptor that
 * came with it goes to *passed, else -1; -EMFILE if there was no room for it. */
int ocipy_recv(int fd, void *data, unsigned int size, int *passed, int timeout_ms) {
    struct pollfd p = {fd, POLLIN, 0};
    *passed = -1;
    int n = poll(&p, 1, timeout_ms);
    if (n < 0) return -errno;
    if (n == 0) return -ETIMEDOUT;
    struct iovec v = {data, size};
    union {
        struct cmsghdr h;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.room};
    ssize_t got = recvmsg(fd, &h, MSG_CMSG_CLOEXEC);
    /* the other side left something unread: said once, before what it has sent itself */
    if (got < 0 && errno == ECONNRESET) got = recvmsg(fd, &h, MSG_CMSG_CLOEXEC);
    if (got < 0) return errno == ECONNRESET ? 0 : -errno;
    if (h.msg_flags & MSG_TRUNC) return -EMSGSIZE;
    struct cmsghdr *m = CMSG_FIRSTHDR(&h);
    if (m && m->cmsg_level == SOL_SOCKET && m->cmsg_type == SCM_RIGHTS)
        memcpy(passed, CMSG_DATA(m), sizeof *passed);
    else if (h.msg_flags & MSG_CTRUNC)
        *passed = -EMFILE;
    return (int)got;
}

/* A stream socket of the caller's (--console-socket). */
int ocipy_unix_connect(const char *path) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof a.sun_path) return -ENAMETOOLONG;
    strcpy(a.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0) {
        int e = -errno;
        close(fd);
        return e;
    }
    return fd;
}

int ocipy_set_subreaper(int on) { return result(prctl(PR_SET_CHILD_SUBREAPER, on, 0, 0, 0)); }

/* The bounding set: what a program of root's has after an exec, as the init helper is one. */
unsigned long long ocipy_capabilities(void) {
    unsigned long long held = 0;
    for (int cap = 0, have; cap < 64 && (have = prctl(PR_CAPBSET_READ, cap, 0, 0, 0)) >= 0; cap++)
        held |= (unsigned long long)have << cap;
    return held;
}

/* The structure begins with its size. */
int ocipy_sched_setattr(int pid, void *attr) { return result(syscall(SYS_sched_setattr, pid, attr, 0)); }

int ocipy_ioprio_set(int pid, int value) { return result(syscall(SYS_ioprio_set, 1 /* IOPRIO_WHO_PROCESS */, pid, value)); }

int ocipy_bpf(int cmd, void *attr, unsigned int size) { return result(syscall(SYS_bpf, cmd, attr, size)); }
