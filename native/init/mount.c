/* Mounts. Each is made detached (fsmount or open_tree), given its attributes there, and attached to a
 * directory that is held by a descriptor: it is never visible with the wrong flags, nor at the wrong place. */
#include "init.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

/* attach flags; ocipy/plan/ops.py has the same */
enum { ATTACH_IN_PROC = 1, ATTACH_NO_SYMLINK = 2, ATTACH_OVER_ROOT = 4 };

/* mount attributes asked of a kernel without mount_setattr (before 5.12): set when the mount is attached */
static uint64_t late_set[MAX_SLOTS];

/* open_tree(slot, source, recursive) */
int op_open_tree(struct ctx *c, struct rd *r) {
    int *s = slot(c, rd_u32(r));
    const char *source = rd_str(r);
    unsigned flags = rd_u32(r);
    if (r->bad || !s) return failf(c, NULL, -EPROTO, "bad slot");
    *s = sys_open_tree(AT_FDCWD, source, flags);
    return *s < 0 ? fail(c, "open_tree") : 0;
}

/* The kernel says what it did not like ("e tmpfs: Bad value for 'size'"): the text goes up with the errno. */
static int fs_fail(struct ctx *c, const char *syscall, int fs, const char *key) {
    int e = errno;
    char line[256];
    ssize_t n = read(fs, line, sizeof line - 1);
    if (n > 2) {
        line[n] = 0;
        line[strcspn(line, "\n")] = 0;
        return failf(c, syscall, -e, "%s", line + 2);
    }
    return failf(c, syscall, -e, "%s", key);
}

/* new_fs(slot, type, source, options, attributes): options are "key" or "key=value". */
int op_new_fs(struct ctx *c, struct rd *r) {
    int *s = slot(c, rd_u32(r));
    const char *type = rd_str(r), *source = rd_str(r);
    uint32_t count;
    char **options = rd_strs(r, &count);
    unsigned attributes = rd_u32(r);
    if (r->bad || !s) return failf(c, NULL, -EPROTO, "bad slot");
    int fs = (int)syscall(SYS_fsopen, type, 1u /* FSOPEN_CLOEXEC */);
    if (fs < 0) return fail(c, "fsopen");
    int e = 0;
    if (*source && syscall(SYS_fsconfig, fs, 1u /* SET_STRING */, "source", source, 0) < 0)
        e = fs_fail(c, "fsconfig", fs, "source");
    for (uint32_t i = 0; i < count && e == 0; i++) {
        char *value = strchr(options[i], '=');
        char key[64];
        size_t n = value ? (size_t)(value - options[i]) : strlen(options[i]);
        if (n >= sizeof key) {
            e = failf(c, "fsconfig", -EINVAL, "%s", options[i]);
            break;
        }
        memcpy(key, options[i], n);
        key[n] = 0;
        long x = value ? syscall(SYS_fsconfig, fs, 1u, key, value + 1, 0) : syscall(SYS_fsconfig, fs, 0u, key, NULL, 0);
        if (x < 0) e = fs_fail(c, "fsconfig", fs, options[i]);
    }
    if (e == 0 && syscall(SYS_fsconfig, fs, 6u /* CMD_CREATE */, NULL, NULL, 0) < 0)
        e = fs_fail(c, "fsconfig", fs, "");
    if (e == 0 && (*s = (int)syscall(SYS_fsmount, fs, 1u, attributes)) < 0) e = fs_fail(c, "fsmount", fs, "");
    close(fs);
    return e;
}

/* mount_attr(slot, set, clear, propagation, recursive, user namespace slot or ~0) */
int op_mount_attr(struct ctx *c, struct rd *r) {
    uint32_t index = rd_u32(r);
    int *s = slot(c, index);
    uint64_t set = rd_u64(r), clear = rd_u64(r), propagation = rd_u64(r);
    unsigned flags = rd_u32(r) ? AT_RECURSIVE : 0;
    uint32_t userns = rd_u32(r);
    int *u = userns == ~0u ? NULL : slot(c, userns);
    if (r->bad || !s || (userns != ~0u && !u)) return failf(c, NULL, -EPROTO, "bad slot");
    int n = sys_mount_setattr(*s, flags, set, clear, propagation, u ? *u : -1);
    if (n < 0 && errno == ENOSYS && !flags && !propagation && !u) {
        late_set[index] = set;
        n = 0;
    }
    return n < 0 ? fail(c, "mount_setattr") : 0;
}

/* The same by the old system call: MOUNT_ATTR_* and MS_* agree in the low bits, but for atime. */
int late_attr(struct ctx *c, int fd, uint64_t set) {
    static const struct {
        uint64_t attr;
        unsigned long flag;
    } table[] = {{MOUNT_ATTR_RDONLY, MS_RDONLY},   {MOUNT_ATTR_NOSUID, MS_NOSUID},   {MOUNT_ATTR_NODEV, MS_NODEV},
                 {MOUNT_ATTR_NOEXEC, MS_NOEXEC},   {MOUNT_ATTR_NOATIME, MS_NOATIME}, {MOUNT_ATTR_STRICTATIME, MS_STRICTATIME},
                 {MOUNT_ATTR_NODIRATIME, MS_NODIRATIME}};
    unsigned long flags = MS_BIND | MS_REMOUNT;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (set & table[i].attr) flags |= table[i].flag;
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return mount(NULL, path, NULL, flags, NULL) < 0 ? fail(c, "mount(MS_REMOUNT)") : 0;
}

/* Where a mount goes: found or made, and neither in a procfs nor behind a symlink that would take it to one
 * (CVE-2019-19921, CVE-2023-27561). */
static int mountpoint(struct ctx *c, const char *path, bool dir, unsigned flags) {
    int at = dir ? in_root_dir(c, path, 0755) : in_root_file(c, path);
    if (at < 0) return at;
    if (flags & ATTACH_NO_SYMLINK) {
        /* /proc, /sys and /dev themselves: the last component, and those before it, must be real */
        int again = sys_openat2(c->root, path, O_PATH, 0, 0x10 | 0x04 /* IN_ROOT, NO_SYMLINKS */);
        if (again < 0) {
            int e = failf(c, "openat2", -errno, "%s must not be a symbolic link", path);
            close(at);
            return e;
        }
        close(again);
    }
    if (!(flags & ATTACH_IN_PROC) && is_procfs(at)) {
        close(at);
        return failf(c, NULL, -EPERM, "%s is inside of a procfs", path);
    }
    return at;
}

static int is_dir(int fd) {
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
}

/* attach(slot, path, flags) */
int op_attach(struct ctx *c, struct rd *r) {
    uint32_t index = rd_u32(r);
    int *s = slot(c, index);
    const char *path = rd_str(r);
    unsigned flags = rd_u32(r);
    if (r->bad || !s) return failf(c, NULL, -EPROTO, "bad slot");
    int dir = is_dir(*s), at = mountpoint(c, path, dir, flags);
    if (at < 0) return at;
    int e = 0;
    if (sys_move_mount(*s, at) < 0) {
        e = fail(c, "move_mount");
        if (dir != is_dir(at)) /* EINVAL, as for much else */
            e = failf(c, NULL, -ENOTDIR, "one of source and %s is a directory, the other is not", path);
    }
    close(at);
    if (e == 0 && late_set[index]) e = late_attr(c, *s, late_set[index]);
    late_set[index] = 0;
    if (e == 0 && (flags & ATTACH_OVER_ROOT)) {
        /* a mount on "/" is the root from now on */
        close(c->root);
        c->root = *s;
    } else {
        close(*s);
    }
    *s = -1;
    return e;
}

/* legacy_mount(type, source, path, flags, data, attach flags): what fsconfig can't carry (a value of over 255
 * bytes, as overlay's lowerdir). */
int op_legacy_mount(struct ctx *c, struct rd *r) {
    const char *type = rd_str(r), *source = rd_str(r), *path = rd_str(r);
    unsigned long flags = rd_u64(r);
    const char *data = rd_str(r);
    int at = mountpoint(c, path, true, rd_u32(r));
    if (at < 0) return at;
    int dir = proc_fd(c);
    if (dir < 0) return dir;
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", at);
    int e = mount(source, link, type, flags, *data ? data : NULL) < 0 ? fail(c, "mount") : 0;
    close(at);
    return e;
}

/* remount(path, set, clear, propagation, recursive): an existing mount of the container's root. */
int op_remount(struct ctx *c, struct rd *r) {
    const char *path = rd_str(r);
    uint64_t set = rd_u64(r), clear = rd_u64(r), propagation = rd_u64(r);
    unsigned flags = rd_u32(r) ? AT_RECURSIVE : 0;
    int fd = in_root(c, path, O_PATH);
    if (fd < 0) return fd;
    int e = 0;
    if (sys_mount_setattr(fd, flags, set, clear, propagation, -1) < 0)
        e = errno == ENOSYS && !propagation && !flags ? late_attr(c, fd, set) : fail(c, "mount_setattr");
    close(fd);
    return e;
}

/* file_label(path, SELinux label): of the root of a file system that has labels and takes no context= option. */
int op_file_label(struct ctx *c, struct rd *r) {
    const char *path = rd_str(r), *label = rd_str(r);
    int fd = in_root(c, path, O_PATH);
    if (fd < 0) return fd;
    int e = proc_fd(c);
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (e >= 0) e = setxattr(link, "security.selinux", label, strlen(label), 0) < 0 ? fail(c, "setxattr") : 0;
    close(fd);
    return e;
}
