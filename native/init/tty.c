/* The terminal: a pty of the container's own devpts, whose master goes to the caller over a socket. */
#include "init.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <termios.h>
#include <unistd.h>

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

static int send_master(struct ctx *c, int sock, int master) {
    /* runc sends the name with it; containerd's and conmon's readers want at least a byte */
    char name[] = "/dev/ptmx";
    struct iovec v = {name, sizeof name - 1};
    union {
        struct cmsghdr h;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    memset(&control, 0, sizeof control);
    struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.room};
    control.h.cmsg_level = SOL_SOCKET;
    control.h.cmsg_type = SCM_RIGHTS;
    control.h.cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(&control.h), &master, sizeof master);
    return sendmsg(sock, &h, MSG_NOSIGNAL) < 0 ? fail(c, "sendmsg") : 0;
}

/* console(slot of the console socket, columns, rows, whether to bind /dev/console, uid) */
int op_console(struct ctx *c, struct rd *r) {
    int *s = slot(c, rd_u32(r));
    struct winsize size = {0};
    size.ws_col = (unsigned short)rd_u32(r);
    size.ws_row = (unsigned short)rd_u32(r);
    uint32_t bind = rd_u32(r);
    uid_t uid = rd_u32(r);
    if (r->bad || !s) return failf(c, NULL, -EPROTO, "bad slot");
    int master = in_root(c, "/dev/pts/ptmx", O_RDWR | O_NOCTTY);
    if (master < 0) return failf(c, c->syscall, master, "/dev/pts/ptmx: a terminal needs a devpts mount at /dev/pts");
    struct statfs fs;
    struct stat st;
    /* whatever the image put there, only the multiplexer of a devpts will do (CVE-2025-52565) */
    if (fstatfs(master, &fs) < 0 || fs.f_type != DEVPTS_SUPER_MAGIC || fstat(master, &st) < 0 || st.st_rdev != makedev(5, 2))
        return failf(c, NULL, -EINVAL, "/dev/pts/ptmx is not a pty multiplexer");
    int unlock = 0;
    if (ioctl(master, TIOCSPTLCK, &unlock) < 0) return fail(c, "ioctl(TIOCSPTLCK)");
    c->tty = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (c->tty < 0) return fail(c, "ioctl(TIOCGPTPEER)");
    if ((size.ws_col || size.ws_row) && ioctl(master, TIOCSWINSZ, &size) < 0) return fail(c, "ioctl(TIOCSWINSZ)");
    if (uid != ~0u && fchown(c->tty, uid, (gid_t)-1) < 0 && errno != EPERM && errno != EINVAL) return fail(c, "fchown");
    int e = send_master(c, *s, master);
    if (e < 0) return e;
    close(master);
    close(*s);
    *s = -1;
    if (!bind) return 0;
    int at = in_root_file(c, "/dev/console");
    if (at < 0) return at;
    /* a link of the image, in a /dev that is no mount of its own */
    if (is_procfs(at)) return failf(c, NULL, -EPERM, "/dev/console is inside of a procfs");
    int tree = sys_open_tree(c->tty, "", AT_EMPTY_PATH);
    if (tree < 0) return fail(c, "open_tree");
    if (sys_move_mount(tree, at) < 0) return fail(c, "move_mount");
    close(tree);
    close(at);
    return 0;
}

/* stdio(): the slave becomes standard input, output, error and the controlling terminal of the session. */
int op_stdio(struct ctx *c, struct rd *r) {
    (void)r;
    for (int fd = 0; fd < 3; fd++)
        if (dup2(c->tty, fd) < 0) return fail(c, "dup2");
    if (ioctl(0, TIOCSCTTY, 0) < 0) return fail(c, "ioctl(TIOCSCTTY)");
    close(c->tty);
    c->tty = -1;
    return 0;
}
