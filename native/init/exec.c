/* Becoming the user's program: looked up at create, released by start, and an honest word when it fails. */
#include "init.h"

#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PASSWD_MAX (16 << 20) /* bytes of /etc/passwd that are looked through */
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* What a kernel's bare "no such file or directory" may mean: the file, the interpreter of its #! line, or the
 * loader of its ELF header. Fills c->text. */
int diagnose_exec(struct ctx *c, const char *path, int error) {
    unsigned char head[4096];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    ssize_t n = fd < 0 ? -1 : pread(fd, head, sizeof head - 1, 0);
    char need[PATH_MAX] = "";
    const char *what = "";
    if (n > 2 && head[0] == '#' && head[1] == '!') {
        head[n] = 0;
        char *p = (char *)head + 2;
        p += strspn(p, " \t");
        size_t size = strcspn(p, " \t\r\n");
        if (p[size] == '\r') size++; /* a file with DOS line ends: name the interpreter as the kernel sees it */
        snprintf(need, sizeof need, "%.*s", (int)size, p);
        what = "the interpreter of its #! line";
    } else if (n >= (ssize_t)sizeof(Elf64_Ehdr) && memcmp(head, ELFMAG, SELFMAG) == 0 && head[EI_CLASS] == ELFCLASS64) {
        Elf64_Ehdr h;
        memcpy(&h, head, sizeof h);
        for (unsigned i = 0; i < h.e_phnum && i < 64; i++) {
            Elf64_Phdr ph;
            if (pread(fd, &ph, sizeof ph, (off_t)(h.e_phoff + i * sizeof ph)) != sizeof ph) break;
            if (ph.p_type != PT_INTERP || ph.p_filesz >= sizeof need) continue;
            ssize_t m = pread(fd, need, ph.p_filesz, (off_t)ph.p_offset);
            need[m < 0 ? 0 : m] = 0;
            what = "its ELF loader";
            break;
        }
    }
    if (fd >= 0) close(fd);
    struct stat st;
    if (*need && stat(need, &st) < 0 && (error == ENOENT || error == 0)) {
        char shown[PATH_MAX];
        size_t length = strlen(need);
        snprintf(shown, sizeof shown, "%.*s%s", (int)(length && need[length - 1] == '\r' ? length - 1 : length), need,
                 length && need[length - 1] == '\r' ? "\\r" : "");
        return failf(c, NULL, -ENOENT, "exec: \"%s\": %s, %s: no such file or directory", path, what, shown);
    }
    if (!error) return 0;
    return failf(c, NULL, -error, "exec: \"%s\": %s", path, words(error));
}

static int usable(const char *path) {
    struct stat st;
    if (stat(path, &st) < 0) return errno;
    if (S_ISDIR(st.st_mode)) return EISDIR;
    /* with the effective ids, as exec will */
    return faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) < 0 ? errno : 0;
}

static const char *lookup(struct ctx *c, const char *name, const char *dirs) {
    static char path[PATH_MAX];
    int denied = 0;
    for (const char *p = *dirs ? dirs : DEFAULT_PATH; p; p = strchr(p, ':'), p = p ? p + 1 : NULL) {
        size_t n = strcspn(p, ":");
        if (snprintf(path, sizeof path, "%.*s%s%s", (int)n, p, n ? "/" : "./", name) >= (int)sizeof path) continue;
        int e = usable(path);
        if (e == 0) return path;
        if (e == EACCES || e == EPERM) denied = e;
    }
    if (denied)
        failf(c, NULL, -denied, "exec: \"%s\": permission denied", name);
    else
        failf(c, NULL, -ENOENT, "exec: \"%s\": executable file not found in $PATH", name);
    return NULL;
}

/* One line into a buffer, without its end; false if there is none. What does not fit is left out. */
static bool next_line(int fd, size_t *left, char *line, size_t size) {
    static char block[4096];
    static size_t at, have;
    size_t n = 0;
    for (;; at++) {
        if (at == have) {
            ssize_t got = *left ? read(fd, block, sizeof block < *left ? sizeof block : *left) : 0;
            if (got <= 0) break;
            *left -= (size_t)got;
            have = (size_t)got;
            at = 0;
        }
        if (block[at] == '\n') {
            at++;
            line[n] = 0;
            return true;
        }
        if (n < size - 1) line[n++] = block[at];
    }
    line[n] = 0;
    return n > 0;
}

/* HOME as the container's /etc/passwd has it for a uid; "/" if it has none. The file is the image's: one that is no
 * file (a fifo, a link to /dev/zero) or has no end must not keep us. */
static char *home_of(uint32_t uid) {
    static char line[PATH_MAX + 256];
    static char found[PATH_MAX + 8] = "HOME=/";
    size_t left = PASSWD_MAX;
    struct stat st;
    int fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        while (next_line(fd, &left, line, sizeof line)) {
            char *field[7], *p = line;
            int n = 0;
            while (n < 7 && (field[n] = strsep(&p, ":"))) n++;
            char *end;
            if (n < 6 || strtoul(field[2], &end, 10) != uid || *end || end == field[2]) continue;
            snprintf(found, sizeof found, "HOME=%.*s", PATH_MAX, *field[5] ? field[5] : "/");
            break;
        }
    if (fd >= 0) close(fd);
    return found;
}

/* lookup(name, PATH, uid whose home directory becomes HOME, or ~0 if it has one): already at create, as the
 * container's user and in its working directory. After it a seccomp filter may forbid all but the exec. */
int op_lookup(struct ctx *c, struct rd *r) {
    const char *name = rd_str(r), *dirs = rd_str(r);
    uint32_t uid = rd_u32(r);
    if (uid != ~0u) c->home = home_of(uid);
    if (!*name) return failf(c, NULL, -EINVAL, "exec: \"\": no executable given");
    if (strchr(name, '/')) {
        int e = usable(name);
        if (e == EACCES || e == EPERM) return failf(c, NULL, -e, "exec: \"%s\": permission denied", name);
        /* engines know the last words, and say 126 then */
        if (e == EISDIR) return failf(c, NULL, -e, "exec: \"%s\": is a directory: permission denied", name);
        if (e) return failf(c, NULL, -e, "exec: \"%s\": stat %s: %s", name, name, words(e));
        c->path = name;
    } else if (!(c->path = lookup(c, name, dirs))) {
        return strstr(c->text, "denied") ? -EACCES : -ENOENT;
    }
    return diagnose_exec(c, c->path, 0);
}

/* Until it is started, the container dies of the signals that a program would die of: pid 1 of a namespace
 * ignores those without a handler. From before its creator is told that it is there: kill may come at once. */
static void die(int s) { _exit(128 + s); }

void deadly(bool on) {
    static const int list[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) signal(list[i], on ? die : SIG_DFL);
}

/* wait_start(slot of a listening socket): the one who connects and says START gets to know of failures; the
 * connection closes with the exec. One who connects and leaves is forgotten. */
int op_wait_start(struct ctx *c, struct rd *r) {
    int *s = slot(c, rd_u32(r));
    if (r->bad || !s) return failf(c, NULL, -EPROTO, "bad slot");
    int e = keep_only(c, s);
    if (e < 0) return e;
    for (;;) {
        c->sock = accept4(*s, NULL, NULL, SOCK_CLOEXEC);
        if (c->sock < 0) {
            if (errno == EINTR || errno == ECONNABORTED) continue;
            return fail(c, "accept4");
        }
        static char state[STATE_MAX];
        struct msg m;
        e = msg_recv(c, &m, state, sizeof state);
        if (e == 0 && m.type == MSG_START) {
            if (m.size) {
                c->state = state;
                c->state_size = m.size;
            }
            break;
        }
        close(c->sock);
        c->sock = -1;
    }
    deadly(false);
    close(*s);
    *s = -1;
    return 0;
}

/* An environment with one more entry; NULL if there is no room. */
char **env_and(char *const *env, uint32_t count, char *entry) {
    char **more = arena((count + 2) * sizeof *more);
    if (!more) return NULL;
    memcpy(more, env, count * sizeof *more);
    more[count] = entry;
    more[count + 1] = NULL;
    return more;
}

/* exec(args, env, whether to tell the program its pid in LISTEN_PID): what only we know is added to the environment.
 * (sd_listen_fds(3): a program takes the descriptors if that is its own pid, as its own pid namespace has it.) */
int op_exec(struct ctx *c, struct rd *r) {
    uint32_t argc, envc;
    char **args = rd_strs(r, &argc), **env = rd_strs(r, &envc);
    bool listens = rd_u32(r) != 0;
    if (r->bad || argc == 0 || !c->path) return failf(c, NULL, -EPROTO, "bad exec");
    static char pid[32];
    if (c->home && !(env = env_and(env, envc++, c->home))) return failf(c, NULL, -ENOMEM, "plan arena");
    if (listens) {
        snprintf(pid, sizeof pid, "LISTEN_PID=%d", (int)getpid());
        if (!(env = env_and(env, envc, pid))) return failf(c, NULL, -ENOMEM, "plan arena");
    }
    execve(c->path, args, env);
    return diagnose_exec(c, c->path, errno);
}
