/* Mounts. Each is made detached (fsmount or open_tree), given its attributes there, and attached to a
 * directory that is held by a descriptor: it is never visible with the wrong flags, nor at the wrong place. */
#include "init.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

/* attach flags; ocipy/plan/ops.py has the same */
enum {
    ATTACH_IN_PROC = 1,
    ATTACH_NO_SYMLINK = 2,
    ATTACH_OVER_ROOT = 4,
    ATTACH_NO_FOLLOW = 8,
    ATTACH_COPY_LINK = 16,
    ATTACH_DEVICE = 32,
    ATTACH_KEEP = 64
};

/* mount attributes asked of a kernel without mount_setattr (before 5.12): changed when the mount is attached */
static struct late {
    uint64_t set, clear, unnamed;
} late[MAX_SLOTS];

/* open_tree(slot, source, AT_* flags, whether it may be missing still: the slot has -errno then) */
int op_open_tree(struct ctx *c, struct rd *r) {
    int *s = slot(c, rd_u32(r));
    const char *source = rd_str(r);
    unsigned flags = rd_u32(r);
    bool wait = rd_u32(r);
    if (r->bad || !s) return failf(c, NULL, -EPROTO, "bad slot");
    *s = sys_open_tree(AT_FDCWD, source, flags);
    if (*s >= 0) return 0;
    int e = fail(c, "open_tree");
    *s = wait ? e : -1;
    return wait ? 0 : e;
}

/* Whether something is in the container's root, where our mounts are: by the kernel's word, whatever links led there. */
static bool in_own_root(struct ctx *c, int fd) {
    char link[40], root[PATH_MAX], path[PATH_MAX];
    int proc = proc_fd(c);
    snprintf(link, sizeof link, "self/fd/%d", c->root);
    ssize_t n = proc < 0 ? -1 : readlinkat(proc, link, root, sizeof root);
    snprintf(link, sizeof link, "self/fd/%d", fd);
    ssize_t m = n < 0 ? -1 : readlinkat(proc, link, path, sizeof path);
    return n > 0 && m >= n && memcmp(root, path, (size_t)n) == 0 && (m == n || path[n] == '/');
}

/* slots whose mount was taken anew */
static bool anew[MAX_SLOTS];

/* open_now(slot, source, AT_* flags): a source that was taken early, before the user namespace was entered, is taken again
 * if it is in the container's root: earlier mounts have made it, or covered what it was. So is one that was missing. */
int op_open_now(struct ctx *c, struct rd *r) {
    uint32_t index = rd_u32(r);
    int *s = slot(c, index);
    const char *source = rd_str(r);
    unsigned flags = rd_u32(r);
    if (r->bad || !s) return failf(c, NULL, -EPROTO, "bad slot");
    int at = open(source, O_PATH | O_CLOEXEC | (flags & AT_SYMLINK_NOFOLLOW ? O_NOFOLLOW : 0)), e = 0;
    if (at >= 0 && (*s < 0 || in_own_root(c, at))) {
        int tree = sys_open_tree(at, "", AT_EMPTY_PATH | (flags & AT_RECURSIVE));
        if (tree >= 0) {
            if (*s >= 0) close(*s);
            *s = tree;
            anew[index] = true;
        } else if (*s < 0) {
            e = fail(c, "open_tree");
        } /* else what is mounted below it is the host's, and may not be left out in here: the one that we have does */
    } else if (*s < 0) {
        e = *s;
        c->syscall = "open_tree";
    }
    if (at >= 0) close(at);
    if (e < 0) *s = -1;
    return e;
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

/* Options are "key" or "key=value". */
static int fs_options(struct ctx *c, int fs, char **options, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        char *value = strchr(options[i], '=');
        char key[64];
        size_t n = value ? (size_t)(value - options[i]) : strlen(options[i]);
        if (n >= sizeof key) return failf(c, "fsconfig", -EINVAL, "%s", options[i]);
        memcpy(key, options[i], n);
        key[n] = 0;
        long x = value ? syscall(SYS_fsconfig, fs, 1u, key, value + 1, 0) : syscall(SYS_fsconfig, fs, 0u, key, NULL, 0);
        if (x < 0) return fs_fail(c, "fsconfig", fs, options[i]);
    }
    return 0;
}

/* The mode of what a file system will cover, as an option: it can then be seen in /proc/mounts. 0 if nothing is there: the
 * attachment makes it, or says what is wrong with it. */
static int mode_option(struct ctx *c, const char *path, char *into, size_t size) {
    int at = *path ? in_root(c, path, O_PATH | O_DIRECTORY) : -ENOENT;
    if (at == -ENOENT || at == -ENOTDIR) return 0;
    if (at < 0) return at;
    struct stat st;
    int e = fstat(at, &st) < 0 ? fail(c, "fstat") : snprintf(into, size, "mode=%04o", st.st_mode & 07777u);
    close(at);
    return e;
}

/* new_fs(slot, type, source, options, attributes, path whose mode it gets, or "") */
int op_new_fs(struct ctx *c, struct rd *r) {
    int *s = slot(c, rd_u32(r));
    const char *type = rd_str(r), *source = rd_str(r);
    uint32_t count;
    char **options = rd_strs(r, &count);
    unsigned attributes = rd_u32(r);
    const char *like = rd_str(r);
    if (r->bad || !s) return failf(c, NULL, -EPROTO, "bad slot");
    char mode[16], *more = mode;
    int has = mode_option(c, like, mode, sizeof mode);
    if (has < 0) return has;
    int fs = (int)syscall(SYS_fsopen, type, 1u /* FSOPEN_CLOEXEC */);
    if (fs < 0) return fail(c, "fsopen");
    int e = 0;
    if (*source && syscall(SYS_fsconfig, fs, 1u /* SET_STRING */, "source", source, 0) < 0)
        e = fs_fail(c, "fsconfig", fs, "source");
    if (e == 0 && has) e = fs_options(c, fs, &more, 1);
    if (e == 0) e = fs_options(c, fs, options, count);
    if (e == 0 && syscall(SYS_fsconfig, fs, 6u /* CMD_CREATE */, NULL, NULL, 0) < 0)
        e = fs_fail(c, "fsconfig", fs, "");
    if (e == 0 && (*s = (int)syscall(SYS_fsmount, fs, 1u, attributes)) < 0) e = fs_fail(c, "fsmount", fs, "");
    close(fs);
    return e;
}

/* mount_attr(slot, set, clear, propagation, recursive) */
int op_mount_attr(struct ctx *c, struct rd *r) {
    uint32_t index = rd_u32(r);
    int *s = slot(c, index);
    uint64_t set = rd_u64(r), clear = rd_u64(r), propagation = rd_u64(r);
    unsigned flags = rd_u32(r) ? AT_RECURSIVE : 0;
    if (r->bad || !s) return failf(c, NULL, -EPROTO, "bad slot");
    if (!flags && !propagation) return slot_attr(c, index, set, clear);
    return sys_mount_setattr(*s, flags, set, clear, propagation, -1) < 0 ? fail(c, "mount_setattr") : 0;
}

/* Attributes of the mount in a slot, at once or, before Linux 5.12, when it is attached. */
int slot_attr(struct ctx *c, uint32_t index, uint64_t set, uint64_t clear) {
    if (sys_mount_setattr(c->slots[index], 0, set, clear, 0, -1) == 0) return 0;
    if (errno != ENOSYS) return fail(c, "mount_setattr");
    late[index].set |= set;
    late[index].clear |= clear;
    return 0;
}

/* bind_attr(slot, set, clear, unnamed, source, which is for words): as mount_attr, of a bind mount. The unnamed
 * attributes are cleared as well, but for where the kernel keeps them: those that a mount has brought along into a
 * user namespace. */
int op_bind_attr(struct ctx *c, struct rd *r) {
    uint32_t index = rd_u32(r);
    int *s = slot(c, index);
    uint64_t set = rd_u64(r), clear = rd_u64(r), unnamed = rd_u64(r);
    rd_str(r);
    if (r->bad || !s) return failf(c, NULL, -EPROTO, "bad slot");
    if (unnamed && sys_mount_setattr(*s, 0, set, clear | unnamed, 0, -1) == 0) return 0;
    if (unnamed && errno == ENOSYS) late[index].unnamed = unnamed;
    return slot_attr(c, index, set, clear);
}

/* idmap(slot, slot of a user namespace, recursive, source, which is for words): the mount shows ids as that namespace
 * maps them. Only a mount that was never attached can be changed so, and only by who is root where its file system
 * belongs to. */
int op_idmap(struct ctx *c, struct rd *r) {
    int *s = slot(c, rd_u32(r)), *userns = slot(c, rd_u32(r));
    unsigned flags = rd_u32(r) ? AT_RECURSIVE : 0;
    rd_str(r);
    if (r->bad || !s || !userns) return failf(c, NULL, -EPROTO, "bad slot");
    if (*s < 0) return 0; /* it may be missing still */
    return sys_mount_setattr(*s, flags, MOUNT_ATTR_IDMAP, 0, 0, *userns) < 0 ? fail(c, "mount_setattr") : 0;
}

/* idmap_now(slot, slot of a user namespace, recursive, source, which is for words): the same for a source that was taken
 * anew, in the container's user namespace, where we may not do it any more. */
int op_idmap_now(struct ctx *c, struct rd *r) {
    uint32_t index = rd_u32(r);
    int *s = slot(c, index), *userns = slot(c, rd_u32(r));
    bool recursive = rd_u32(r);
    rd_str(r);
    if (r->bad || !s || !userns) return failf(c, NULL, -EPROTO, "bad slot");
    return anew[index] ? ask_idmap(c, *s, *userns, recursive) : 0;
}

/* The attributes of a mount as they are. */
static uint64_t attributes(const struct statfs *st) {
    static const struct {
        long st;
        uint64_t attr;
    } table[] = {{ST_RDONLY, MOUNT_ATTR_RDONLY},   {ST_NOSUID, MOUNT_ATTR_NOSUID},
                 {ST_NODEV, MOUNT_ATTR_NODEV},     {ST_NOEXEC, MOUNT_ATTR_NOEXEC},
                 {ST_NOATIME, MOUNT_ATTR_NOATIME}, {ST_NODIRATIME, MOUNT_ATTR_NODIRATIME},
                 {0x2000 /* ST_NOSYMFOLLOW */, MOUNT_ATTR_NOSYMFOLLOW}};
    uint64_t found = st->f_flags & (ST_NOATIME | ST_RELATIME) ? 0 : MOUNT_ATTR_STRICTATIME;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (st->f_flags & table[i].st) found |= table[i].attr;
    return found;
}

/* mount_setattr by the old system call, on an attached mount. That one sets exactly the flags that it is given, so what is
 * to stay is read before. */
int late_attr(struct ctx *c, int fd, uint64_t set, uint64_t clear) {
    static const struct {
        uint64_t attr;
        unsigned long flag;
    } table[] = {{MOUNT_ATTR_RDONLY, MS_RDONLY},   {MOUNT_ATTR_NOSUID, MS_NOSUID},   {MOUNT_ATTR_NODEV, MS_NODEV},
                 {MOUNT_ATTR_NOEXEC, MS_NOEXEC},   {MOUNT_ATTR_NOATIME, MS_NOATIME}, {MOUNT_ATTR_STRICTATIME, MS_STRICTATIME},
                 {MOUNT_ATTR_NODIRATIME, MS_NODIRATIME}, {MOUNT_ATTR_NOSYMFOLLOW, 256 /* MS_NOSYMFOLLOW */}};
    struct statfs st;
    if (fstatfs(fd, &st) < 0) return fail(c, "fstatfs");
    uint64_t wanted = (attributes(&st) & ~clear) | set;
    unsigned long flags = MS_BIND | MS_REMOUNT | (wanted & MOUNT_ATTR__ATIME ? 0 : MS_RELATIME);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (wanted & table[i].attr) flags |= table[i].flag;
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return mount(NULL, path, NULL, flags, NULL) < 0 ? fail(c, "mount(MS_REMOUNT)") : 0;
}

/* What was asked of a mount that is attached by now. */
static int late_attrs(struct ctx *c, int fd, const struct late *of) {
    int e = late_attr(c, fd, of->set, of->clear | of->unnamed);
    return e == -EPERM && of->unnamed ? late_attr(c, fd, of->set, of->clear) : e;
}

/* Where a mount goes: found or made, and neither in a procfs nor behind a symlink that would take it to one
 * (CVE-2019-19921, CVE-2023-27561). */
static int mountpoint(struct ctx *c, const char *path, bool dir, unsigned flags) {
    int at = flags & ATTACH_NO_FOLLOW ? in_root_entry(c, path, dir)
             : dir                    ? in_root_dir(c, path, 0755)
                                      : in_root_file(c, path);
    if (at < 0) return at;
    if (flags & ATTACH_NO_SYMLINK) {
        /* /proc, /sys and /dev themselves: the last component, and those before it, must be real. What is found now is
         * what gets the mount: who can rename in the root could have had a link there before, or have one later. */
        close(at);
        at = sys_openat2(c->root, path, O_PATH, 0, 0x10 | 0x04 /* IN_ROOT, NO_SYMLINKS */);
        if (at < 0) return failf(c, "openat2", -errno, "%s must not be a symbolic link", path);
    }
    if (!(flags & ATTACH_IN_PROC) && is_procfs(at)) {
        close(at);
        return failf(c, NULL, -EPERM, "%s is inside of a procfs", path);
    }
    /* an image has /data -> /, and the config a volume on /data */
    if (!(flags & ATTACH_OVER_ROOT) && same_place(at, c->root)) {
        close(at);
        return failf(c, NULL, -EINVAL, "%s leads to the root itself", path);
    }
    return at;
}

static mode_t type_of(int fd) {
    struct stat st;
    return fstat(fd, &st) == 0 ? st.st_mode & S_IFMT : 0;
}

static int is_dir(int fd) { return type_of(fd) == S_IFDIR; }

/* copy-symlink: a link is made that says what the one taken says; it may be there already. */
static int copy_link(struct ctx *c, int link, const char *path, unsigned flags) {
    char target[PATH_MAX], there[PATH_MAX];
    const char *last;
    if (flags & ATTACH_NO_SYMLINK) return failf(c, NULL, -ELOOP, "%s must not be a symbolic link", path);
    ssize_t n = readlinkat(link, "", target, sizeof target - 1);
    if (n < 0) return fail(c, "readlinkat");
    target[n] = 0;
    int e = 0, up = in_root_parent(c, path, &last);
    if (up < 0) return up;
    if (symlinkat(target, up, last) < 0) {
        e = failf(c, "symlinkat", -errno, "%s", path);
        if (e == -EEXIST && readlinkat(up, last, there, sizeof there) == n && memcmp(target, there, (size_t)n) == 0) e = 0;
    }
    close(up);
    return e;
}

/* Whether a device may cover what is there: the same device, or the empty file that is a mount point's. */
static bool covers(int device, int at) {
    struct stat ours, theirs;
    if (fstat(device, &ours) < 0 || fstat(at, &theirs) < 0) return false;
    if (S_ISREG(theirs.st_mode)) return theirs.st_size == 0;
    return (ours.st_mode & S_IFMT) == (theirs.st_mode & S_IFMT) && ours.st_rdev == theirs.st_rdev;
}

/* attach(slot, path, flags) */
int op_attach(struct ctx *c, struct rd *r) {
    uint32_t index = rd_u32(r);
    int *s = slot(c, index);
    const char *path = rd_str(r);
    unsigned flags = rd_u32(r);
    if (r->bad || !s) return failf(c, NULL, -EPROTO, "bad slot");
    int e = 0;
    if ((flags & ATTACH_COPY_LINK) && type_of(*s) == S_IFLNK) {
        e = copy_link(c, *s, path, flags);
        close(*s);
        *s = -1;
        late[index] = (struct late){0};
        return e;
    }
    int dir = is_dir(*s), at = mountpoint(c, path, dir, flags);
    if (at < 0) return at;
    if ((flags & ATTACH_DEVICE) && !covers(*s, at)) {
        close(at);
        return failf(c, NULL, -EEXIST, "something else is there");
    }
    if (sys_move_mount(*s, at) < 0) {
        e = fail(c, "move_mount");
        if (dir != is_dir(at)) /* EINVAL, as for much else */
            e = failf(c, NULL, -ENOTDIR, "one of source and %s is a directory, the other is not", path);
    }
    close(at);
    if (e == 0 && (late[index].set || late[index].clear || late[index].unnamed)) e = late_attrs(c, *s, &late[index]);
    late[index] = (struct late){0};
    if (e == 0 && (flags & ATTACH_OVER_ROOT)) {
        /* a mount on "/" is the root from now on */
        close(c->root);
        c->root = *s;
    } else if (e == 0 && (flags & ATTACH_KEEP)) {
        return 0;
    } else {
        close(*s);
    }
    *s = -1;
    return e;
}

/* legacy_mount(slot, type, source, flags, data, path whose mode it gets, or ""): what fsconfig can't carry (a value of over
 * 255 bytes, as overlay's lowerdir). */
int op_legacy_mount(struct ctx *c, struct rd *r) {
    int *s = slot(c, rd_u32(r));
    const char *type = rd_str(r), *source = rd_str(r);
    unsigned long flags = rd_u64(r);
    const char *data = rd_str(r), *like = rd_str(r);
    if (r->bad || !s) return failf(c, NULL, -EPROTO, "bad slot");
    size_t room = (size_t)sysconf(_SC_PAGESIZE) - 1; /* mount(2) takes the beginning of what is longer */
    char mode[16];
    int has = mode_option(c, like, mode, sizeof mode);
    if (has < 0) return has;
    size_t size = strlen(data) + (has ? (size_t)has + 1 : 0);
    if (size > room) return failf(c, NULL, -E2BIG, "%zu bytes of options, of which mount(2) takes %zu", size, room);
    if (has) {
        char *both = arena(size + 1);
        if (!both) return failf(c, NULL, -ENOMEM, "plan arena");
        snprintf(both, size + 1, "%s%s%s", mode, *data ? "," : "", data);
        data = both;
    }
    int fd = mount_aside(c, type, source, flags, *data ? data : NULL);
    if (fd < 0) return fd;
    *s = fd;
    return 0;
}

/* remount(slot, bytes of the path to what it holds, path, set, clear, propagation, recursive): a mount of ours. */
int op_remount(struct ctx *c, struct rd *r) {
    const char *path;
    int fd = in_mount(c, r, &path);
    uint64_t set = rd_u64(r), clear = rd_u64(r), propagation = rd_u64(r);
    unsigned flags = rd_u32(r) ? AT_RECURSIVE : 0;
    if (fd < 0) return fd;
    int e = 0;
    if (sys_mount_setattr(fd, flags, set, clear, propagation, -1) < 0)
        e = errno == ENOSYS && !propagation && !flags ? late_attr(c, fd, set, clear) : fail(c, "mount_setattr");
    close(fd);
    return e;
}

/* file_label(slot, bytes of the path to what it holds, path, SELinux label): of the root of a file system that has labels
 * and takes no context= option. */
int op_file_label(struct ctx *c, struct rd *r) {
    const char *path;
    int fd = in_mount(c, r, &path);
    const char *label = rd_str(r);
    if (fd < 0) return fd;
    int e = proc_fd(c);
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (e >= 0) e = setxattr(link, "security.selinux", label, strlen(label), 0) < 0 ? fail(c, "setxattr") : 0;
    close(fd);
    return e;
}

/* remount_fs(slot, bytes of the path to what it holds, path, options): options of a file system that is the container's
 * own. */
int op_remount_fs(struct ctx *c, struct rd *r) {
    const char *path;
    int at = in_mount(c, r, &path);
    uint32_t count;
    char **options = rd_strs(r, &count);
    if (at < 0) return at;
    int fs = (int)syscall(SYS_fspick, at, "", 1u | 8u /* FSPICK_CLOEXEC, EMPTY_PATH */);
    int e = fs < 0 ? fail(c, "fspick") : 0;
    close(at);
    if (fs < 0) return e;
    e = r->bad ? 0 : fs_options(c, fs, options, count);
    if (e == 0 && !r->bad && syscall(SYS_fsconfig, fs, 7u /* CMD_RECONFIGURE */, NULL, NULL, 0) < 0)
        e = fs_fail(c, "fsconfig", fs, "");
    close(fs);
    return e;
}
