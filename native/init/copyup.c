/* What a new tmpfs takes from its mount point in the image: the mode, and with tmpcopyup all that is there. */
#include "init.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

/* Opens for reading what an O_PATH descriptor is of: nothing that could have been put in its place since. */
static int reopen(struct ctx *c, int at, int flags) {
    char link[32];
    int dir = proc_fd(c);
    if (dir < 0) return dir;
    snprintf(link, sizeof link, "self/fd/%d", at);
    int fd = openat(dir, link, flags | O_RDONLY | O_CLOEXEC);
    return fd < 0 ? fail(c, "openat") : fd;
}

/* As many bytes as there were when it was looked at: who shares the image could go on writing for ever. */
static int copy_file(struct ctx *c, int at, int to, const char *name, const struct stat *st) {
    int in = reopen(c, at, O_NONBLOCK);
    if (in < 0) return in;
    int e = 0, out = openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (out < 0) {
        e = failf(c, "openat", -errno, "%s", name);
    } else {
        off_t left = st->st_size;
        ssize_t n = 0;
        while (left > 0 && (n = sendfile(out, in, NULL, left < 1 << 20 ? (size_t)left : 1 << 20)) > 0) left -= n;
        if (n < 0)
            e = failf(c, "sendfile", -errno, "%s", name);
        else if (fchown(out, st->st_uid, st->st_gid) < 0 || fchmod(out, st->st_mode & 07777) < 0)
            e = failf(c, "fchown", -errno, "%s", name);
        close(out);
    }
    close(in);
    return e;
}

static int copy_link(struct ctx *c, int at, int to, const char *name, const struct stat *st) {
    char target[PATH_MAX];
    ssize_t n = readlinkat(at, "", target, sizeof target - 1);
    if (n < 0) return failf(c, "readlinkat", -errno, "%s", name);
    target[n] = 0;
    if (symlinkat(target, to, name) < 0 || fchownat(to, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0)
        return failf(c, "symlinkat", -errno, "%s", name);
    return 0;
}

static int copy_contents(struct ctx *c, int from, int to, int depth);

static int copy_dir(struct ctx *c, int at, int to, const char *name, const struct stat *st, int depth) {
    if (mkdirat(to, name, 0700) < 0) return failf(c, "mkdirat", -errno, "%s", name);
    int a = reopen(c, at, O_DIRECTORY), b = openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int e = a < 0 ? a : b < 0 ? failf(c, "openat", -errno, "%s", name) : copy_contents(c, a, b, depth + 1);
    if (e == 0 && (fchown(b, st->st_uid, st->st_gid) < 0 || fchmod(b, st->st_mode & 07777) < 0))
        e = failf(c, "fchown", -errno, "%s", name);
    if (a >= 0) close(a);
    if (b >= 0) close(b);
    return e;
}

/* Devices, sockets and fifos of an image have no place in a tmpfs. */
static int copy_entry(struct ctx *c, int from, int to, const char *name, int depth) {
    struct stat st;
    int at = openat(from, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (at < 0) return failf(c, "openat", -errno, "%s", name);
    int e = fstat(at, &st) < 0       ? failf(c, "fstat", -errno, "%s", name)
            : S_ISREG(st.st_mode)    ? copy_file(c, at, to, name, &st)
            : S_ISLNK(st.st_mode)    ? copy_link(c, at, to, name, &st)
            : S_ISDIR(st.st_mode)    ? copy_dir(c, at, to, name, &st, depth)
                                     : 0;
    close(at);
    return e;
}

static int copy_contents(struct ctx *c, int from, int to, int depth) {
    if (depth > 64) return failf(c, NULL, -ELOOP, "nested too deeply");
    DIR *d = fdopendir(fcntl(from, F_DUPFD_CLOEXEC, c->base));
    if (!d) return fail(c, "fdopendir");
    int e = 0;
    struct dirent *entry;
    while (e == 0 && (entry = readdir(d)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            e = copy_entry(c, from, to, entry->d_name, depth);
    closedir(d);
    return e;
}

/* copyup flags; ocipy/plan/ops.py has the same */
enum { KEEP_MODE = 1, KEEP_UID = 2, KEEP_GID = 4 };

/* copy_up(slot, path, what of the tmpfs is kept): into the detached tmpfs, from the root as it is beneath. */
int op_copy_up(struct ctx *c, struct rd *r) {
    int *s = slot(c, rd_u32(r));
    const char *path = rd_str(r);
    uint32_t keep = rd_u32(r);
    if (r->bad || !s) return failf(c, NULL, -EPROTO, "bad slot");
    int from = in_root(c, path, O_RDONLY | O_DIRECTORY);
    if (from == -ENOENT) return 0;
    if (from < 0) return from;
    struct stat st, own;
    int to = openat(*s, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int e = to < 0 ? fail(c, "openat") : copy_contents(c, from, to, 0);
    /* the directory's own mode and owner as well, unless options say otherwise */
    if (e == 0 && (fstat(from, &st) < 0 || fstat(to, &own) < 0)) e = fail(c, "fstat");
    if (e == 0 && (fchown(to, (keep & KEEP_UID ? own : st).st_uid, (keep & KEEP_GID ? own : st).st_gid) < 0 ||
                   fchmod(to, (keep & KEEP_MODE ? own : st).st_mode & 07777) < 0))
        e = fail(c, "fchown");
    close(from);
    if (to >= 0) close(to);
    return e;
}
