/* Paths inside the container's root: always resolved by the kernel with RESOLVE_IN_ROOT, to a descriptor
 * through which everything else is done (CVE-2021-30465, CVE-2024-45310, CVE-2025-52565). */
#include "init.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

int sys_openat2(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve) {
    struct open_how how = {.flags = flags | O_CLOEXEC, .mode = mode, .resolve = resolve};
    long fd;
    int tries = 0;
    /* EAGAIN: a rename or mount raced with `..` or a symlink; the kernel asks to try again */
    do fd = syscall(SYS_openat2, dir, path, &how, sizeof how);
    while (fd < 0 && (errno == EAGAIN || errno == EINTR) && ++tries < 128);
    return (int)fd;
}

int sys_open_tree(int dir, const char *path, unsigned flags) {
    return (int)syscall(SYS_open_tree, dir, path, flags | 1u /* OPEN_TREE_CLONE */ | O_CLOEXEC);
}

int sys_move_mount(int from, int to) {
    return (int)syscall(SYS_move_mount, from, "", to, "", 0x4u | 0x40u /* F_EMPTY_PATH, T_EMPTY_PATH */);
}

int sys_mount_setattr(int fd, unsigned flags, uint64_t set, uint64_t clear, uint64_t propagation, int userns) {
    struct {
        uint64_t set, clear, propagation, userns;
    } a = {set, clear, propagation, userns < 0 ? 0 : (uint64_t)userns};
    return (int)syscall(SYS_mount_setattr, fd, "", flags | AT_EMPTY_PATH, &a, sizeof a);
}

int write_all(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t n = write(fd, data, size);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -errno;
        data += n;
        size -= (size_t)n;
    }
    return 0;
}

int in_root(struct ctx *c, const char *path, uint64_t flags) {
    int fd = sys_openat2(c->root, path, flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
    return fd < 0 ? fail(c, "openat2") : fd;
}

/* The directory of a path, made if missing; *last is the final component. A trailing slash is ignored. */
static int parent(struct ctx *c, const char *path, const char **last, int links);

/* Where a dangling symlink at path, the entry `last` of dir, leads: still to be resolved in the root. Not inlined: its
 * buffer would be one for each level of a deep path. */
__attribute__((noinline)) static const char *link_target(const char *path, int dir, const char *last) {
    char target[PATH_MAX];
    ssize_t n = readlinkat(dir, last, target, sizeof target - 1);
    if (n < 0) return NULL;
    target[n] = 0;
    const char *slash = target[0] == '/' ? NULL : strrchr(path, '/');
    size_t up = slash ? (size_t)(slash - path) + 1 : 0;
    char *whole = arena(up + (size_t)n + 1);
    if (!whole) return NULL;
    memcpy(whole, path, up);
    memcpy(whole + up, target, (size_t)n + 1);
    return whole;
}

/* The mode is meant as it is: the umask is the caller's, and for the user's program. */
static int make(int dir, const char *name, mode_t mode) {
    mode_t mask = umask(0);
    int n = S_ISDIR(mode) ? mkdirat(dir, name, mode & 07777) : mknodat(dir, name, mode, 0);
    int error = errno;
    umask(mask);
    errno = error;
    return n;
}

/* A directory or an empty file, made if missing, with what leads there; made is S_IFDIR or S_IFREG and the mode.
 * A dangling symlink has its target made, wherever in the root that is: an image's /etc/resolv.conf points to
 * a /run that is empty until it is booted. (links: how many were followed so far.) */
static int at_path(struct ctx *c, const char *path, mode_t made, int links) {
    uint64_t flags = O_PATH | (S_ISDIR(made) ? O_DIRECTORY : 0);
    int fd = sys_openat2(c->root, path, flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
    if (fd >= 0) return fd;
    if (errno != ENOENT) return failf(c, "openat2", -errno, "%s", path);
    if (links > 40) return failf(c, "openat2", -ELOOP, "%s", path);
    const char *last;
    int up = parent(c, path, &last, links);
    if (up < 0) return up;
    int e = make(up, last, made) < 0 ? -errno : 0;
    const char *target = e == -EEXIST ? link_target(path, up, last) : NULL;
    close(up);
    if (target) return at_path(c, target, made, links + 1);
    /* there, and no link: made by another since, or the next open says what is wrong with it */
    if (e < 0 && e != -EEXIST) return failf(c, S_ISDIR(made) ? "mkdirat" : "mknodat", e, "%s", path);
    fd = sys_openat2(c->root, path, flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
    return fd < 0 ? failf(c, "openat2", -errno, "%s", path) : fd;
}

static int parent(struct ctx *c, const char *path, const char **last, int links) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    char *copy = arena(n + 2);
    if (!copy) return failf(c, NULL, -ENOMEM, "plan arena");
    memcpy(copy, path, n);
    copy[n] = 0;
    char *slash = strrchr(copy, '/');
    *last = slash ? slash + 1 : copy;
    if (**last == 0 || strcmp(*last, "..") == 0 || strcmp(*last, ".") == 0)
        return failf(c, NULL, -EINVAL, "%s: not a path that can be made", path);
    if (!slash || slash == copy) return fcntl(c->root, F_DUPFD_CLOEXEC, c->base);
    *slash = 0;
    return at_path(c, copy, S_IFDIR | 0755, links);
}

int in_root_dir(struct ctx *c, const char *path, unsigned mode) { return at_path(c, path, S_IFDIR | mode, 0); }

int in_root_parent(struct ctx *c, const char *path, const char **last) { return parent(c, path, last, 0); }

int in_root_file(struct ctx *c, const char *path) { return at_path(c, path, S_IFREG | 0644, 0); }

/* Whether two descriptors are of the same directory in the same mount. */
bool same_place(int a, int b) {
    struct statx one = {0}, two = {0};
    return statx(a, "", AT_EMPTY_PATH, STATX_INO | STATX_MNT_ID, &one) == 0 &&
           statx(b, "", AT_EMPTY_PATH, STATX_INO | STATX_MNT_ID, &two) == 0 && one.stx_ino == two.stx_ino &&
           one.stx_dev_major == two.stx_dev_major && one.stx_dev_minor == two.stx_dev_minor &&
           one.stx_mnt_id == two.stx_mnt_id;
}

int in_root_entry(struct ctx *c, const char *path, bool dir) {
    int fd = sys_openat2(c->root, path, O_PATH | O_NOFOLLOW, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
    if (fd >= 0) return fd;
    if (errno != ENOENT) return failf(c, "openat2", -errno, "%s", path);
    return dir ? in_root_dir(c, path, 0755) : in_root_file(c, path);
}

/* mkdir(path, mode): a directory that must be there (the working directory, /dev/pts's parent). */
int op_mkdir(struct ctx *c, struct rd *r) {
    const char *path = rd_str(r);
    int fd = in_root_dir(c, path, rd_u32(r));
    if (fd < 0) return fd;
    close(fd);
    return 0;
}

/* symlink(target, path): kept if something is there already, as an image may bring its own. */
int op_symlink(struct ctx *c, struct rd *r) {
    const char *target = rd_str(r), *path = rd_str(r), *last;
    int up = in_root_parent(c, path, &last);
    if (up < 0) return up;
    int e = symlinkat(target, up, last) < 0 && errno != EEXIST ? fail(c, "symlinkat") : 0;
    close(up);
    return e;
}

/* chmod through an O_PATH descriptor: fchmodat2 is Linux 6.6, /proc/self/fd has always been there. */
int chmod_fd(struct ctx *c, int fd, mode_t mode) {
    char link[32];
    int dir = proc_fd(c);
    if (dir < 0) return dir;
    snprintf(link, sizeof link, "self/fd/%d", fd);
    return fchmodat(dir, link, mode, 0) < 0 ? fail(c, "fchmodat") : 0;
}

/* mknod(path, mode, major, minor, uid, gid): made with mode 0 and opened without following, then given its
 * mode through the descriptor, whatever the umask. One that is there and is the same device is kept. */
int op_mknod(struct ctx *c, struct rd *r) {
    const char *path = rd_str(r), *last;
    mode_t mode = rd_u32(r);
    unsigned major_ = rd_u32(r), minor_ = rd_u32(r);
    uid_t uid = rd_u32(r);
    gid_t gid = rd_u32(r);
    int up = in_root_parent(c, path, &last);
    if (up < 0) return up;
    dev_t dev = makedev(major_, minor_);
    int e = 0, fd = -1;
    struct stat st;
    bool made = mknodat(up, last, mode & S_IFMT, dev) == 0;
    if (!made && errno != EEXIST) {
        e = fail(c, "mknodat");
    } else if ((fd = openat(up, last, O_PATH | O_NOFOLLOW | O_CLOEXEC)) < 0) {
        e = fail(c, "openat");
    } else if (fstat(fd, &st) < 0) {
        e = fail(c, "fstat");
    } else if ((st.st_mode & S_IFMT) != (mode & S_IFMT) || (!S_ISFIFO(mode) && st.st_rdev != dev)) {
        e = failf(c, "mknodat", -EEXIST, "something else is there");
    } else if (fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0) {
        e = fail(c, "fchownat");
    } else {
        e = chmod_fd(c, fd, mode & 07777);
    }
    if (fd >= 0) close(fd);
    close(up);
    return e;
}
