/* The container's root file system: bound, entered, covered where asked. */
#include "init.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>


int proc_fd(struct ctx *c) {
    if (c->proc >= 0) return c->proc;
    int fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return fail(c, "open");
    struct stat st;
    /* inode 1 is the root of a procfs: not a bind of something below it */
    if (!is_procfs(fd) || fstat(fd, &st) < 0 || st.st_ino != 1) {
        close(fd);
        return failf(c, NULL, -EINVAL, "/proc of the host is not a procfs");
    }
    return c->proc = fd;
}

/* propagation(path, flags): of a mount of the host's copy, before the root is bound. */
int op_propagation(struct ctx *c, struct rd *r) {
    const char *path = rd_str(r);
    unsigned long flags = rd_u64(r);
    return mount(NULL, path, NULL, flags, NULL) < 0 ? fail(c, "mount") : 0;
}

/* pivot_root refuses a new root whose parent mount is shared; find that mount by walking up, since only a
 * mount point takes a propagation change (anything else answers EINVAL). Slave, not private: bind mounts have
 * their source there as well, and go on receiving what the host mounts. */
static int parent_slave(struct ctx *c, const char *root) {
    char path[PATH_MAX];
    size_t n = strlen(root);
    if (n >= sizeof path) return failf(c, "mount", -ENAMETOOLONG, "%s", root);
    memcpy(path, root, n + 1);
    for (;;) {
        if (mount(NULL, path, NULL, MS_SLAVE, NULL) == 0) return 0;
        if (errno != EINVAL) return fail(c, "mount(MS_SLAVE)");
        char *slash = strrchr(path, '/');
        if (!slash || path[1] == 0) return fail(c, "mount(MS_SLAVE)");
        slash[slash == path] = 0;
    }
}

/* bind_root(path): the root file system becomes a mount of its own and is opened once; every later path is
 * resolved below that descriptor. A link in its place is not followed: it was none when it was checked. */
int op_bind_root(struct ctx *c, struct rd *r) {
    const char *path = rd_str(r);
    int at = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (at < 0) return fail(c, "open");
    int tree = sys_open_tree(at, "", AT_EMPTY_PATH | AT_RECURSIVE);
    if (tree < 0) return fail(c, "open_tree");
    int e = parent_slave(c, path);
    if (e < 0) return e;
    if (sys_move_mount(tree, at) < 0) return fail(c, "move_mount");
    close(at);
    /* nor may the new root be shared while it is pivoted to; rootfsPropagation comes after (op_root_attr). And
     * what is mounted in it would carry to the host, were it left shared with the host's. */
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", tree);
    if (mount(NULL, link, NULL, MS_SLAVE | MS_REC, NULL) < 0) return fail(c, "mount(MS_SLAVE)");
    c->root = tree;
    return 0;
}

/* open_root(): an exec is inside already. */
int op_open_root(struct ctx *c, struct rd *r) {
    (void)r;
    if (chdir("/") < 0) return fail(c, "chdir");
    c->root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return c->root < 0 ? fail(c, "open") : 0;
}

/* to_root(): there createContainer hooks are run, as runc and crun have it, while / is still the host's. */
int op_to_root(struct ctx *c, struct rd *r) {
    (void)r;
    return fchdir(c->root) < 0 ? fail(c, "fchdir") : 0;
}

/* pivot_root onto itself: the old root ends up stacked on the new one and is detached, so no directory for
 * it is needed in the image. */
int op_pivot_root(struct ctx *c, struct rd *r) {
    (void)r;
    int old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (old < 0) return fail(c, "open");
    if (fchdir(c->root) < 0) return fail(c, "fchdir");
    if (syscall(SYS_pivot_root, ".", ".") < 0) return fail(c, "pivot_root");
    if (fchdir(old) < 0) return fail(c, "fchdir");
    /* not to the host: the unmount below must not propagate */
    if (mount(NULL, ".", NULL, MS_SLAVE | MS_REC, NULL) < 0) return fail(c, "mount(MS_SLAVE)");
    if (umount2(".", MNT_DETACH) < 0) return fail(c, "umount2");
    close(old);
    return chdir("/") < 0 ? fail(c, "chdir") : 0;
}

/* Reads a line; one that has no room is cut. Returns 0 at the end, and -errno. */
static int read_line(struct ctx *c, int fd, char *line, size_t size) {
    static char buffer[4096];
    static size_t at, end; /* a file is read to its end */
    for (size_t n = 0;;) {
        if (at == end) {
            ssize_t got = read(fd, buffer, sizeof buffer);
            if (got < 0) return fail(c, "read");
            at = 0;
            end = (size_t)got;
            if (!end) return 0;
        }
        char byte = buffer[at++];
        line[n < size - 1 ? n++ : n] = byte == '\n' ? 0 : byte;
        line[n] = 0;
        if (byte == '\n') return 1;
    }
}

/* Undoes the escapes (\040) of a path in mountinfo. */
static void unescape(char *path) {
    char *to = path;
    for (const char *from = path; *from; from++)
        if (from[0] == '\\' && from[1] && from[2] && from[3]) {
            *to++ = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
            from += 3;
        } else
            *to++ = *from;
    *to = 0;
}

/* Finds the mounts of a whole procfs or sysfs outside of the container's root, and among the first `limit` of them the
 * last one's path. Returns how many there are, or -errno. */
static int full_views(struct ctx *c, int limit, char *found, size_t size) {
    static char line[5 * PATH_MAX], root[PATH_MAX];
    char link[40];
    int proc = proc_fd(c), count = 0, e;
    if (proc < 0) return proc;
    snprintf(link, sizeof link, "self/fd/%d", c->root);
    ssize_t n = readlinkat(proc, link, root, sizeof root - 1);
    if (n < 0) return fail(c, "readlink");
    root[n] = 0;
    int fd = openat(proc, "self/mountinfo", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail(c, "open(mountinfo)");
    while ((e = read_line(c, fd, line, sizeof line)) > 0) {
        char *rest = line, *what = "", *path = "", *type = strstr(line, " - ");
        for (int i = 0; i < 5 && rest; i++) {
            what = path;
            path = strsep(&rest, " ");
        }
        if (!rest || !type || strcmp(what, "/") || (strncmp(type, " - proc ", 8) && strncmp(type, " - sysfs ", 9))) continue;
        unescape(path);
        if (n > 1 && !strncmp(path, root, (size_t)n) && (path[n] == 0 || path[n] == '/')) continue;
        if (++count <= limit) snprintf(found, size, "%s", path);
    }
    close(fd);
    return e < 0 ? e : count;
}

/* --no-pivot: a root on an initramfs can't be pivoted. The full views of procfs and sysfs that stay mounted
 * below, hidden or not, would let the container see them through a mount of its own: they go first, the upper ones
 * of a stack before the lower ones. */
int op_move_root(struct ctx *c, struct rd *r) {
    (void)r;
    static char path[PATH_MAX];
    int left = full_views(c, INT_MAX, path, sizeof path);
    for (; left > 0; left--) {
        int e = full_views(c, left, path, sizeof path);
        if (e < 0) return e;
        if (e < left) left = e; /* more went with the last one */
        if (!left) break;
        struct statfs st;
        if (statfs(path, &st) == 0 && st.f_type == TMPFS_MAGIC) continue; /* a stack that is covered already */
        if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0) continue;
        /* locked in a user namespace, or below another mount: covered then */
        if (errno != EPERM && errno != EINVAL) return failf(c, "umount2", -errno, "%s", path);
        int at = sys_openat2(AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0, RESOLVE_NO_SYMLINKS);
        if (at < 0 || fchdir(at) < 0 || mount("tmpfs", ".", "tmpfs", 0, NULL) < 0)
            return failf(c, "mount", -errno, "%s", path);
        close(at);
    }
    if (left < 0) return left;
    if (fchdir(c->root) < 0) return fail(c, "fchdir");
    if (mount(".", "/", NULL, MS_MOVE, NULL) < 0) return fail(c, "mount(MS_MOVE)");
    if (chroot(".") < 0) return fail(c, "chroot");
    return chdir("/") < 0 ? fail(c, "chdir") : 0;
}

/* root_attr(set, propagation): the last word on "/", once everything below it is in place. */
int op_root_attr(struct ctx *c, struct rd *r) {
    uint64_t set = rd_u64(r), propagation = rd_u64(r);
    if (propagation && mount(NULL, "/", NULL, propagation, NULL) < 0) return fail(c, "mount");
    if (set && sys_mount_setattr(c->root, 0, set, 0, 0, -1) < 0) {
        if (errno != ENOSYS) return fail(c, "mount_setattr");
        return late_attr(c, c->root, set, 0);
    }
    return 0;
}

/* A mount of the empty read-only tmpfs that serves every masked directory. The first one is kept in c->empty
 * and attached as it is; a further one is cloned from it, which before Linux 6.15 takes an attached mount. */
static int empty_mount(struct ctx *c, const char *label) {
    if (c->empty >= 0) {
        int tree = sys_open_tree(c->empty, "", AT_EMPTY_PATH);
        return tree < 0 ? fail(c, "open_tree") : tree;
    }
    int fs = (int)syscall(SYS_fsopen, "tmpfs", 1u /* FSOPEN_CLOEXEC */);
    if (fs < 0) return fail(c, "fsopen");
    if (syscall(SYS_fsconfig, fs, 1u /* SET_STRING */, "nr_blocks", "1", 0) < 0) return fail(c, "fsconfig");
    if (syscall(SYS_fsconfig, fs, 1u, "mode", "0555", 0) < 0) return fail(c, "fsconfig");
    if (*label && syscall(SYS_fsconfig, fs, 1u, "context", label, 0) < 0) return fail(c, "fsconfig");
    if (syscall(SYS_fsconfig, fs, 6u /* CMD_CREATE */, NULL, NULL, 0) < 0) return fail(c, "fsconfig");
    c->empty = (int)syscall(SYS_fsmount, fs, 1u, (unsigned)(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
    if (c->empty < 0) return fail(c, "fsmount");
    close(fs);
    return c->empty;
}

/* A path of the container's root; or, if a slot holds a mount that was attached on the way to it, the rest of the path
 * below that: who may rename in the root file system could have it lead elsewhere, or nowhere. */
int in_mount(struct ctx *c, struct rd *r, const char **path) {
    uint32_t index = rd_u32(r), skip = rd_u32(r);
    *path = rd_str(r);
    int *s = slot(c, index);
    /* a slot is empty again if a symbolic link was made in place of the mount */
    if (index == NO_SLOT || (s && *s < 0)) return in_root(c, *path, O_PATH);
    if (r->bad || !s || skip > strlen(*path)) return failf(c, NULL, -EPROTO, "bad slot");
    const char *rest = *path + skip;
    rest += strspn(rest, "/");
    int fd = sys_openat2(*s, *rest ? rest : ".", O_PATH, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
    return fd < 0 ? fail(c, "openat2") : fd;
}

static bool absent(int fd) { return fd == -ENOENT || fd == -ENOTDIR; } /* is no error (config-linux.md) */

/* mask(slot, bytes of the path to what it holds, path, SELinux label of what covers a directory, or "") */
int op_mask(struct ctx *c, struct rd *r) {
    const char *path;
    int at = in_mount(c, r, &path);
    const char *label = rd_str(r);
    if (at < 0) return absent(at) ? 0 : at;
    struct stat st;
    if (fstat(at, &st) < 0) return fail(c, "fstat");
    bool dir = S_ISDIR(st.st_mode);
    int tree = dir ? empty_mount(c, label) : null_mount(c);
    if (tree < 0) return tree;
    int e = sys_move_mount(tree, at) < 0 ? fail(c, "move_mount") : 0;
    if (!dir) c->null_attached = true;
    if (tree != c->empty && tree != c->null) close(tree);
    close(at);
    return e;
}

/* readonly(slot, bytes of the path to what it holds, path) */
int op_readonly(struct ctx *c, struct rd *r) {
    const char *path;
    int at = in_mount(c, r, &path);
    if (at < 0) return absent(at) ? 0 : at;
    int e = 0, tree = sys_open_tree(at, "", AT_EMPTY_PATH | AT_RECURSIVE);
    if (tree < 0) return fail(c, "open_tree");
    bool late = sys_mount_setattr(tree, 0, MOUNT_ATTR_RDONLY, 0, 0, -1) < 0;
    if (late && errno != ENOSYS)
        e = fail(c, "mount_setattr");
    else if (sys_move_mount(tree, at) < 0)
        e = fail(c, "move_mount");
    else if (late)
        e = late_attr(c, tree, MOUNT_ATTR_RDONLY, 0);
    close(tree);
    close(at);
    return e;
}
