/* A file system of the helper's own, for what would else be an inode of the host's: the null device that masks files,
 * and the nodes of a container that may make none. What the container does to their mode, owner or times ends here. */
#include "init.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define HARMLESS (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)

bool is_null(const struct stat *st) { return S_ISCHR(st->st_mode) && st->st_rdev == makedev(1, 3); }

/* Its root, detached; made when it is first asked for. */
static int private_fs(struct ctx *c) {
    if (c->private >= 0) return c->private;
    int fs = (int)syscall(SYS_fsopen, "tmpfs", 1u /* FSOPEN_CLOEXEC */);
    if (fs < 0) return fail(c, "fsopen");
    int fd = -1;
    if (syscall(SYS_fsconfig, fs, 6u /* CMD_CREATE */, NULL, NULL, 0) < 0)
        fd = fail(c, "fsconfig");
    else if ((fd = (int)syscall(SYS_fsmount, fs, 1u, (unsigned)(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC))) < 0)
        fd = fail(c, "fsmount");
    close(fs);
    if (fd >= 0) c->private = fd;
    return fd;
}

/* Attached for as long as it takes, where nobody can see it: over the container's root, below which we work by
 * descriptors; before there is one, in a mount namespace that we then give up. Neither carries to the host. */
static int expose(struct ctx *c) {
    int at = c->root;
    if (at < 0) {
        if (unshare(CLONE_NEWNS) < 0) return fail(c, "unshare");
        if (mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0) return fail(c, "mount(MS_SLAVE)");
        if ((at = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0) return fail(c, "open");
    }
    int e = sys_move_mount(c->private, at) < 0 ? fail(c, "move_mount") : 0;
    if (at != c->root) close(at);
    return e;
}

static int hide(struct ctx *c) {
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", c->private);
    int e = umount2(link, MNT_DETACH) < 0 ? fail(c, "umount2") : 0;
    close(c->private); /* what is detached can't be attached again: the next one is a new one */
    c->private = -1;
    return e;
}

/* A mount of one of its files. Before Linux 6.15 only what is attached can be cloned. */
static int mount_of(struct ctx *c, const char *name) {
    int tree = sys_open_tree(c->private, name, AT_SYMLINK_NOFOLLOW);
    if (tree >= 0) return tree;
    if (errno != EINVAL) return fail(c, "open_tree");
    int e = expose(c);
    if (e < 0) return e;
    tree = sys_open_tree(c->private, name, AT_SYMLINK_NOFOLLOW);
    if (tree < 0) tree = fail(c, "open_tree");
    e = hide(c);
    return e < 0 ? e : tree;
}

/* A device node in it; -EPERM where the kernel lets us make none: we are in a user namespace. */
static int make_node(struct ctx *c, const char *name, const struct stat *st) {
    int dir = private_fs(c);
    if (dir < 0) return dir;
    if (mknodat(dir, name, st->st_mode & S_IFMT, st->st_rdev) < 0) return fail(c, "mknodat");
    int fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return fail(c, "openat");
    int e = fchownat(fd, "", st->st_uid, st->st_gid, AT_EMPTY_PATH) < 0 ? fail(c, "fchownat") : 0;
    if (e == 0) e = chmod_fd(c, fd, st->st_mode & 07777);
    close(fd);
    return e;
}

static const struct stat NULL_NODE = {.st_mode = S_IFCHR | 0666, .st_rdev = 1 << 8 | 3 /* makedev(1, 3) */};

/* The host's own, where we can make none: its owner is somebody else then, but for a caller who has mapped it. */
static int host_null(struct ctx *c) {
    int fd = open("/dev/null", O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return fail(c, "open");
    struct stat st;
    int tree;
    if (fstat(fd, &st) < 0 || !is_null(&st)) /* CVE-2025-31133 */
        tree = failf(c, NULL, -EINVAL, "/dev/null of the host is not the null device");
    else if ((tree = sys_open_tree(fd, "", AT_EMPTY_PATH)) < 0)
        tree = fail(c, "open_tree");
    else if (sys_mount_setattr(tree, 0, HARMLESS, 0, 0, -1) < 0 && errno != ENOSYS)
        tree = fail(c, "mount_setattr");
    close(fd);
    return tree;
}

/* A mount of a null device, to be attached once. The first one is kept, and further ones are its clones. */
int null_mount(struct ctx *c) {
    if (c->null >= 0 && c->null_attached) {
        int tree = sys_open_tree(c->null, "", AT_EMPTY_PATH);
        return tree < 0 ? fail(c, "open_tree") : tree;
    }
    if (c->null < 0) {
        int e = make_node(c, "null", &NULL_NODE);
        int tree = e == 0 ? mount_of(c, "null") : e == -EPERM || e == -EACCES ? host_null(c) : e;
        if (tree < 0) return tree;
        c->null = tree;
    }
    return c->null;
}

/* mask_device(): the null device for masks, made as long as nodes can be: before a user namespace is entered. */
int op_mask_device(struct ctx *c, struct rd *r) {
    (void)r;
    int fd = null_mount(c);
    return fd < 0 ? fd : 0;
}

/* own_device(slot, source, type, major, minor): the node that was taken from the host is replaced by one like it, if
 * we can make one; else nobody may change the host's through it. */
int op_own_device(struct ctx *c, struct rd *r) {
    uint32_t index = rd_u32(r);
    int *s = slot(c, index);
    const char *source = rd_str(r);
    mode_t type = rd_u32(r);
    unsigned major_ = rd_u32(r), minor_ = rd_u32(r);
    struct stat st;
    char name[16];
    if (r->bad || !s) return failf(c, NULL, -EPROTO, "bad slot");
    if (fstat(*s, &st) < 0) return fail(c, "fstat");
    if (!S_ISCHR(st.st_mode) && !S_ISBLK(st.st_mode)) return failf(c, NULL, -ENODEV, "the host's %s is no device", source);
    if ((st.st_mode & S_IFMT) != type || st.st_rdev != makedev(major_, minor_))
        return failf(c, NULL, -ENODEV, "the host's %s is the %s device %u:%u", source,
                     S_ISCHR(st.st_mode) ? "character" : "block", major(st.st_rdev), minor(st.st_rdev));
    snprintf(name, sizeof name, "%u", index);
    int e = make_node(c, name, &st);
    if (e == -EPERM || e == -EACCES) return slot_attr(c, index, HARMLESS, 0);
    int tree = e == 0 ? mount_of(c, name) : e;
    if (tree < 0) return tree;
    close(*s);
    *s = tree;
    return 0;
}

/* The container's own null device, open; or one that nobody else has. */
static int own_null(struct ctx *c, int access) {
    struct stat st;
    /* O_NONBLOCK: it may be a fifo by now. Verified after the open: what it could be, the container can open itself */
    int fd = sys_openat2(c->root, "/dev/null", (uint64_t)access | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0,
                         0x10 | 0x02 /* IN_ROOT, NO_MAGICLINKS */);
    if (fd >= 0 && fstat(fd, &st) == 0 && is_null(&st)) return fcntl(fd, F_SETFL, 0) < 0 ? fail(c, "fcntl") : fd;
    if (fd >= 0) close(fd);
    int e = make_node(c, "stdio", &NULL_NODE);
    if (e == -EEXIST) e = 0;
    if (e < 0) return failf(c, NULL, -EPERM, "the container has no null device at /dev/null to take the place of the host's");
    return (fd = openat(c->private, "stdio", access | O_CLOEXEC)) < 0 ? fail(c, "openat") : fd;
}

/* null_stdio(): standard input, output or error that are the host's /dev/null become the container's, whose mode and
 * owner it may change. */
int op_null_stdio(struct ctx *c, struct rd *r) {
    (void)r;
    for (int fd = 0; fd < 3; fd++) {
        struct stat st;
        if (fstat(fd, &st) < 0 || !is_null(&st)) continue;
        int flags = fcntl(fd, F_GETFL);
        if (flags < 0) return fail(c, "fcntl");
        int null = own_null(c, flags & O_ACCMODE);
        if (null < 0) return null;
        if (dup3(null, fd, 0) < 0) return fail(c, "dup3");
        close(null);
    }
    return 0;
}

/* By mount(2), out of sight; a descriptor of what was mounted. */
int mount_aside(struct ctx *c, const char *type, const char *source, unsigned long flags, const char *data) {
    int dir = private_fs(c), e;
    if (dir < 0) return dir;
    if (mkdirat(dir, "mount", 0700) < 0 && errno != EEXIST) return fail(c, "mkdirat");
    if ((e = expose(c)) < 0) return e;
    char link[48];
    int at = openat(dir, "mount", O_PATH | O_DIRECTORY | O_CLOEXEC), made = -1;
    snprintf(link, sizeof link, "/proc/self/fd/%d", at);
    if (at < 0)
        made = fail(c, "openat");
    else if (mount(source, link, type, flags, data) < 0)
        made = fail(c, "mount");
    else if ((made = sys_open_tree(dir, "mount", AT_SYMLINK_NOFOLLOW)) < 0)
        made = fail(c, "open_tree");
    if (at >= 0) close(at);
    e = hide(c);
    return made < 0 || e == 0 ? made : e;
}
