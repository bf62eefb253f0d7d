/* The launcher's fastest way: start, state, kill and delete of the plain case, without an interpreter.
 *
 * These commands decide nothing: create has written down what they need (ocipy/faststart/fast_path.py, which has the
 * layout), in the file `brief` of the container's state directory. What they do here is what ocipy.container does;
 * whatever is out of the ordinary (another flag, an error, a frozen cgroup, a hook, a running container to delete) is
 * left to the interpreter, before anything is done or at a point from which it can take over. So no message is
 * composed here, and no case is known here but the good one.
 *
 * A brief is good only beside the very state.json that it was written for: same inode, size and time. */
#define _GNU_SOURCE
#include "../protocol.h"
#include "launcher.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define DEFAULT_ROOT "/run/ocipy"
#define ID_LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+.-"

enum field { F_STAMP, F_PID, F_START_TIME, F_FREEZER, F_HELD, F_HELD_TOO, F_START, F_KILL, F_HEAD, F_MIDDLE, F_TAIL, F_DELETE, F_CGROUPS };
enum { MOST_FIELDS = 64 };

struct container {
    int dir; /* its state directory */
    char *fields[MOST_FIELDS];
    int count;
    pid_t pid;
    char data[64 << 10];
};

/* A small file as a string; its length, or -1. One that is a FIFO would never open. */
static ssize_t read_file(int dir, const char *path, char *into, size_t size) {
    int fd = openat(dir, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return -1;
    ssize_t n = read(fd, into, size - 1);
    close(fd);
    if (n >= 0) into[n] = 0;
    return n;
}

static int load(struct container *c) {
    struct stat st;
    char stamp[96];
    ssize_t size = read_file(c->dir, "brief", c->data, sizeof c->data);
    if (size <= 0 || size == sizeof c->data - 1 || c->data[size - 1]) return -1;
    if (fstatat(c->dir, "state.json", &st, AT_SYMLINK_NOFOLLOW) < 0) return -1;
    for (char *p = c->data; p < c->data + size; p += strlen(p) + 1) {
        if (c->count == MOST_FIELDS) return -1;
        c->fields[c->count++] = p;
    }
    snprintf(stamp, sizeof stamp, "2 %ju %ju %ju.%09ld", (uintmax_t)st.st_ino, (uintmax_t)st.st_size,
             (uintmax_t)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    if (c->count < F_CGROUPS || strcmp(c->fields[F_STAMP], stamp)) return -1;
    c->pid = atoi(c->fields[F_PID]);
    return c->pid > 1 ? 0 : -1; /* 1 is the machine's own, whatever a brief says */
}

/* Whether the init process is there: the same process, not a later one with its pid. */
static int alive(const struct container *c) {
    char path[64], text[1024], state;
    long threads;
    unsigned long long started;
    snprintf(path, sizeof path, "/proc/%d/stat", c->pid);
    if (read_file(AT_FDCWD, path, text, sizeof text) <= 0) return 0;
    char *p = strrchr(text, ')'); /* fields 3, 20 and 22 of proc_pid_stat(5) */
    if (!p || p[1] != ' ') return 0;
    state = p[2];
    for (int field = 3; p && field <= 20; field++) p = strchr(p + 1, ' ');
    if (!p || sscanf(p, "%ld %*d %llu", &threads, &started) != 2) return 0;
    /* one whose first thread has ended looks like a zombie, but runs as long as others of its threads do */
    return state != 'X' && (state != 'Z' || threads > 1) && started == strtoull(c->fields[F_START_TIME], NULL, 10);
}

static int frozen(const struct container *c) {
    char text[16];
    return *c->fields[F_FREEZER] && read_file(AT_FDCWD, c->fields[F_FREEZER], text, sizeof text) > 0 && *text == '1';
}

/* Frozen, by itself or by a cgroup above: one of the files does not say that it is not. */
static int held(const struct container *c) {
    char text[256];
    for (int i = F_HELD; i <= F_HELD_TOO; i++)
        if (*c->fields[i] && read_file(AT_FDCWD, c->fields[i], text, sizeof text) > 0 && !strstr(text, "THAWED") &&
            !strstr(text, "frozen 0"))
            return 1;
    return 0;
}

/* A connection to the process that waits for start; -1 with errno. */
static int waiting(const struct container *c) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/start.sock", c->dir);
    int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s < 0 || (connect(s, (struct sockaddr *)&a, sizeof a) == 0 && fcntl(s, F_SETFL, 0) == 0)) return s;
    int e = errno;
    close(s);
    errno = e;
    return -1;
}

/* An answer is bad news: it is left for the interpreter, which can explain it, in a file (ocipy.container.start). */
static void leave_answer(const struct container *c, const char *answer, size_t size) {
    int fd = openat(c->dir, "answer", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return;
    if (write(fd, answer, size) != (ssize_t)size) unlinkat(c->dir, "answer", 0);
    close(fd);
}

static int start(const struct container *c) {
    static char buffer[64 << 10];
    if (!*c->fields[F_START] || getenv("NOTIFY_SOCKET") || !alive(c) || held(c)) return -1;
    int s = waiting(c);
    if (s < 0) return -1;
    struct msg m = {.type = MSG_START};
    ssize_t n = send(s, &m, sizeof m, MSG_NOSIGNAL);
    if (n >= 0) n = recv(s, buffer, sizeof buffer, 0);
    close(s);
    if (n > 0) leave_answer(c, buffer, (size_t)n);
    if (n) return -1;
    unlinkat(c->dir, "start.sock", 0); /* the end of the channel: the exec closed it */
    return 0;
}

/* What can't be printed at all is left to the interpreter, which says why. */
static int print(const char *text) {
    const char *start = text;
    for (size_t left = strlen(text); left;) {
        ssize_t n = write(STDOUT_FILENO, text, left);
        if (n <= 0) return text == start ? -1 : 1;
        text += n;
        left -= (size_t)n;
    }
    return 0;
}

static int state(const struct container *c) {
    static char text[sizeof c->data + 64];
    const char *status = "stopped";
    if (alive(c)) {
        int s = -1;
        status = frozen(c) ? "paused" : (s = waiting(c)) >= 0 || errno == EAGAIN ? "created" : "running";
        if (s >= 0) close(s);
    }
    int pid = *status == 's' ? 0 : c->pid;
    snprintf(text, sizeof text, "%s%d%s%s%s", c->fields[F_HEAD], pid, c->fields[F_MIDDLE], status, c->fields[F_TAIL]);
    return print(text);
}

/* Only what engines send; the interpreter knows the other names. */
static int signal_number(const char *text) {
    if (strspn(text, "0123456789") == strlen(text) && strlen(text) < 3) return *text ? atoi(text) : -1;
    if (strncmp(text, "SIG", 3) == 0) text += 3;
    return strcmp(text, "TERM") == 0 ? SIGTERM : strcmp(text, "KILL") == 0 ? SIGKILL : -1;
}

static int kill_init(const struct container *c, int number, int wait_ms) {
    int pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
    if (pidfd < 0) return -1;
    /* alive is asked after the open: from then on the pidfd can't be another process */
    int done = alive(c) && !(number == SIGKILL && frozen(c)) &&
               syscall(SYS_pidfd_send_signal, pidfd, number, NULL, 0) == 0;
    if (done && wait_ms) done = poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, wait_ms) == 1;
    close(pidfd);
    return done ? 0 : -1;
}

/* What fails is tried again by the interpreter, whose delete counts on such a beginning. */
static int delete(const struct container *c, const char *path, int force) {
    if (!*c->fields[F_DELETE]) return -1;
    if (alive(c) && (!force || kill_init(c, SIGKILL, 1000) < 0)) return -1;
    for (int i = F_CGROUPS; i < c->count; i++)
        if (rmdir(c->fields[i]) < 0 && errno != ENOENT) return -1;
    DIR *d = fdopendir(openat(c->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!d) return -1;
    struct dirent *e;
    int failed = 0;
    while (!failed && (e = readdir(d)))
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && strcmp(e->d_name, "state.json"))
            failed = unlinkat(c->dir, e->d_name, 0);
    closedir(d);
    /* the state goes last: until then delete can come back */
    return failed || unlinkat(c->dir, "state.json", 0) < 0 || rmdir(path) < 0 ? -1 : 0;
}

/* The value of a flag that takes one, and how many words that was; 0: it is another flag. */
static int value(const char *flag, char **argv, const char **into) {
    size_t n = strlen(flag);
    if (strncmp(argv[0], flag, n) || (argv[0][n] && argv[0][n] != '=')) return 0;
    const char *given = argv[0][n] ? argv[0] + n + 1 : argv[1];
    if (!given) return 0;
    *into = given;
    return argv[0][n] ? 1 : 2;
}

/* The global flags that engines give, up to the command; NULL: there is another. */
static char **parse(char **argv, const char **root, const char **log) {
    const char *format = "json";
    while (argv[0] && argv[0][0] == '-') {
        int n = value("--root", argv, root);
        if (!n) n = value("--log", argv, log);
        if (!n) n = value("--log-format", argv, &format);
        if (!n && strcmp(argv[0], "--systemd-cgroup") == 0) n = 1; /* of no meaning but for create */
        if (!n || (strcmp(format, "json") && strcmp(format, "text"))) return NULL;
        argv += n;
    }
    return argv[0] ? argv : NULL;
}

static int usable(const char *root, const char *log) {
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0) return 0;
    if (!*root && getenv("XDG_RUNTIME_DIR")) return 0;
    if (!*log || strncmp(log, "journald:", 9) == 0 || strncmp(log, "syslog:", 7) == 0) return 1;
    int fd = open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (fd >= 0) close(fd);
    return fd >= 0; /* that a log can be written is found out by every command */
}

/* Waits until this is the only process that changes the container; -1: it was deleted meanwhile. With force, another
 * that does may never end, and the interpreter knows how to end it. */
static int lock(const struct container *c, const char *path, int force) {
    struct stat held, named;
    if (flock(c->dir, force ? LOCK_EX | LOCK_NB : LOCK_EX) < 0 || fstat(c->dir, &held) < 0 || stat(path, &named) < 0) return -1;
    return held.st_ino == named.st_ino ? 0 : -1;
}

enum command { START, STATE, KILL, DELETE, OTHER };

static enum command command_of(const char *word) {
    static const char *const NAMES[] = {"start", "state", "kill", "delete"};
    int i = 0;
    while (i < OTHER && strcmp(word, NAMES[i])) i++;
    return i;
}

static int run(struct container *c, enum command command, int number, int force, const char *path) {
    if ((command == START || command == DELETE) && lock(c, path, force) < 0) return -1;
    if (load(c) < 0) return -1;
    switch (command) {
    case START: return start(c);
    case STATE: return state(c);
    case KILL: /* without a pid namespace of its own, SIGKILL is for all that is in its cgroup */
        return number == SIGKILL && !*c->fields[F_KILL] ? -1 : kill_init(c, number, 0);
    default: return delete(c, path, force);
    }
}

int brief(char **argv) {
    static struct container c;
    const char *root = "", *log = "";
    char path[PATH_MAX];
    int number = SIGTERM;
    char **words = parse(argv + 1, &root, &log);
    if (!words) return -1;
    enum command command = command_of(*words++);
    if (command == OTHER) return -1;
    int force = command == DELETE && words[0] && (strcmp(words[0], "--force") == 0 || strcmp(words[0], "-f") == 0);
    words += force;
    const char *id = words[0];
    if (!id || *id == '-' || *id == '.' || !*id || id[strspn(id, ID_LETTERS)] || strlen(id) > 255) return -1;
    if (command == KILL && words[1]) number = signal_number(*++words);
    if (words[1] || number < 0 || !usable(root, log)) return -1;
    int n = snprintf(path, sizeof path, "%s/%s", *root ? root : DEFAULT_ROOT, id);
    if (n >= (int)sizeof path || (c.dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0) return -1;
    int code = run(&c, command, number, force, path);
    close(c.dir); /* and with it the lock */
    return code;
}
