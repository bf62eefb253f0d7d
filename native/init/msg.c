/* The channel to whoever waits for us: `create`, later `start`. */
#include "init.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

int msg_send(struct ctx *c, uint32_t type, int32_t value, const void *text, size_t size, int fd) {
    struct msg m = {type, c->op, value, (uint32_t)size};
    struct iovec v[2] = {{&m, sizeof m}, {(void *)text, size}};
    struct msghdr h = {.msg_iov = v, .msg_iovlen = size ? 2 : 1};
    union {
        struct cmsghdr h;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    if (fd >= 0) {
        memset(&control, 0, sizeof control);
        h.msg_control = &control;
        h.msg_controllen = sizeof control.room;
        control.h.cmsg_level = SOL_SOCKET;
        control.h.cmsg_type = SCM_RIGHTS;
        control.h.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.h), &fd, sizeof fd);
    }
    if (sendmsg(c->sock, &h, MSG_NOSIGNAL) < 0) return fail(c, "sendmsg");
    return 0;
}

/* One message; -EPIPE at the end of the channel. The text, which comes in parts if it is long (a datagram is limited
 * by the sender's buffer), is NUL-terminated. */
int msg_recv(struct ctx *c, struct msg *m, char *text, size_t size) {
    size_t used = 0;
    do {
        struct iovec v[2] = {{m, sizeof *m}, {text + used, size - 1 - used}};
        struct msghdr h = {.msg_iov = v, .msg_iovlen = 2};
        ssize_t n;
        do n = recvmsg(c->sock, &h, 0);
        while (n < 0 && errno == EINTR);
        if (n < 0) return fail(c, "recvmsg");
        if (n == 0) return -EPIPE;
        if (h.msg_flags & MSG_TRUNC) return failf(c, "recvmsg", -EMSGSIZE, "the state, with annotations, is over %zu bytes", size);
        if ((size_t)n < sizeof *m || (size_t)n != sizeof *m + m->size) return -EPROTO;
        used += m->size;
    } while (m->type == MSG_PART);
    m->size = (uint32_t)used;
    text[used] = 0;
    return 0;
}

/* Waits for a message of a type; its text stays in a buffer that the next one overwrites. */
int msg_await(struct ctx *c, uint32_t type, const char **text, size_t *size) {
    static char buffer[STATE_MAX];
    struct msg m;
    int e = msg_recv(c, &m, buffer, sizeof buffer);
    if (e == -EPIPE) _exit(125); /* who created us is gone: so is this container */
    if (e < 0) return e;
    if (m.type != type) return failf(c, NULL, -EPROTO, "message %u where %u was due", m.type, type);
    if (text) *text = buffer;
    if (size) *size = m.size;
    return 0;
}

/* Moves this process into cgroup v1 directories: "0" in their tasks files, one a line. A process that moves
 * its only thread itself is spared the wait for a grace period that a move by others, through cgroup.procs,
 * takes (some milliseconds). Done before the user, cgroup and mount namespaces are left. */
static int join_cgroups(struct ctx *c, const char *files) {
    while (*files) {
        size_t n = strcspn(files, "\n");
        char path[4096];
        if (n >= sizeof path) return failf(c, "open", -ENAMETOOLONG, "%s", files);
        memcpy(path, files, n);
        path[n] = 0;
        files += n + (files[n] == '\n');
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0) return failf(c, "open", -errno, "%s", path);
        int e = write(fd, "0", 1) < 0 ? failf(c, "write", -errno, "%s", path) : 0;
        close(fd);
        if (e < 0) return e;
    }
    return 0;
}

/* The CPUs that our creator was confined to are no business of the container's, which has the cgroup's. All there can
 * be, since the kernel remembers what was asked for: a cpuset that grows later gives them. Refused, it stays so. */
static void unpin(void) {
    unsigned char all[1024];
    memset(all, 0xff, sizeof all);
    syscall(SYS_sched_setaffinity, 0, sizeof all, all);
}

enum {
    SYNC_MAPS = 1,
    SYNC_CGROUP = 2,
    SYNC_HOOKS = 3,
    SYNC_DEVICES = 4,
    SYNC_SCHEDULING = 5,
    SYNC_USERNS = 6,
    SYNC_IDMAP = 7,
    SYNC_RIDMAP = 8
};

/* sync(kind): the launching side does its part, and says what is left for us. For network devices it needs a hand
 * in our network namespace, which it does not enter itself: it may have threads, and runs Python. */
int op_sync(struct ctx *c, struct rd *r) {
    uint32_t kind = rd_u32(r);
    const char *text;
    size_t size;
    int netlink = -1;
    if (kind == SYNC_DEVICES) {
        netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
        if (netlink < 0) return fail(c, "socket");
    }
    int e = msg_send(c, MSG_SYNC, (int32_t)kind, NULL, 0, netlink);
    if (netlink >= 0) close(netlink);
    if (e < 0 || (e = msg_await(c, MSG_ACK, &text, &size)) < 0) return e;
    if (kind == SYNC_CGROUP) {
        if ((e = join_cgroups(c, text)) < 0) return e;
        if (!c->pinned) unpin();
    }
    if (kind == SYNC_HOOKS) {
        char *state = arena(size + 1);
        if (!state) return failf(c, NULL, -ENOMEM, "plan arena");
        memcpy(state, text, size + 1);
        c->state = state;
        c->state_size = size;
    }
    return 0;
}

/* Has the launching side map the ids of a mount of ours, which takes the root of the host's user namespace. */
int ask_idmap(struct ctx *c, int mount, int userns, bool recursive) {
    const char *text;
    size_t size;
    int e = msg_send(c, MSG_SYNC, SYNC_USERNS, NULL, 0, userns);
    if (e < 0 || (e = msg_await(c, MSG_ACK, NULL, NULL)) < 0) return e;
    e = msg_send(c, MSG_SYNC, recursive ? SYNC_RIDMAP : SYNC_IDMAP, NULL, 0, mount);
    if (e < 0 || (e = msg_await(c, MSG_ACK, &text, &size)) < 0) return e;
    if (size == 0) return 0;
    c->syscall = "mount_setattr";
    return -atoi(text);
}

static void close_one(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

/* Closes what leads to files of the host or outside of the root: the working directory and the program are looked up as
 * the config and the image name them, which may be /proc/self/fd/N. */
void close_paths(struct ctx *c) {
    close_one(&c->proc);
    close_one(&c->root);
    close_one(&c->null);
    close_one(&c->private);
    close_one(&c->empty);
    for (uint32_t i = c->given; i < MAX_SLOTS; i++) close_one(&c->slots[i]);
}

/* Leaves none of our descriptors open but one. What waits for long, or becomes the program next, may be looked into
 * through /proc/PID/fd by others of the same rights: they must not find the host's procfs there. */
int keep_only(struct ctx *c, int *fd) {
    int kept = *fd;
    if (kept != c->base && dup3(kept, c->base, O_CLOEXEC) < 0) return fail(c, "dup3");
    if (syscall(SYS_close_range, (unsigned)c->base + 1, ~0u, 0u) < 0) return fail(c, "close_range");
    c->sock = c->proc = c->root = c->null = c->private = c->empty = c->tty = -1;
    for (int i = 0; i < MAX_SLOTS; i++) c->slots[i] = -1;
    *fd = c->base;
    return 0;
}

/* ready(keep): everything but the exec is done. The creator records that and acknowledges; until then its death is
 * ours: a container whose state was never written must not live (delete --force could not find it). */
int op_ready(struct ctx *c, struct rd *r) {
    uint32_t keep = rd_u32(r);
    if (!keep) deadly(true);
    size_t n = c->timed ? c->op * sizeof c->times[0] : 0;
    int e = msg_send(c, MSG_READY, 0, c->times, n, -1);
    if (e < 0) return e;
    if ((e = msg_await(c, MSG_ACK, NULL, NULL)) < 0) return e;
    /* an exec: no start will come, and the channel closes when the program runs */
    if (keep) return keep_only(c, &c->sock);
    close(c->sock);
    c->sock = -1;
    return 0;
}
