/* Hooks that run in the container's namespaces: createContainer and startContainer. */
#include "init.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Collects a hook's output until it ends. Returns its wait status, or -1 when its time is up. */
static int attend(int pidfd, int out, int64_t timeout_ms, char *text, size_t size) {
    int64_t deadline = timeout_ms ? now_ms() + timeout_ms : 0;
    size_t used = 0;
    char drop[512];
    for (;;) {
        struct pollfd p[2] = {{pidfd, POLLIN, 0}, {out, POLLIN, 0}};
        int64_t left = deadline ? deadline - now_ms() : -1;
        if (deadline && left <= 0) return -1;
        if (poll(p, 2, left > INT_MAX ? INT_MAX : (int)left) < 0) continue;
        ssize_t n = 0;
        if (p[1].revents) {
            bool room = used < size - 1;
            n = read(out, room ? text + used : drop, room ? size - 1 - used : sizeof drop);
            for (ssize_t i = 0; room && i < n; i++, used++)
                if (!text[used]) text[used] = ' ';
            text[used] = 0;
        }
        if (n > 0) continue; /* what it wrote before it ended is still to be read */
        if (p[1].revents && n <= 0) {
            close(out);
            out = -1; /* poll ignores it */
        }
        if (p[0].revents) break;
    }
    if (out >= 0) close(out);
    siginfo_t info = {0};
    if (waitid((idtype_t)3 /* P_PIDFD */, (id_t)pidfd, &info, WEXITED) < 0) return 127 << 8;
    return info.si_code == CLD_EXITED ? info.si_status << 8 : info.si_status & 0x7f;
}

/* hook(path, args, env, timeout in seconds or 0, whether env is the program's: with its HOME, as soon as that is known,
 * whether to tell `start` that this was the last one): without that it could not tell our end, which a hook may take long
 * enough to see, from the exec, which closes the channel as well. */
int op_hook(struct ctx *c, struct rd *r) {
    uint32_t n;
    const char *path = rd_str(r);
    char **args = rd_strs(r, &n), **env = rd_strs(r, &n);
    uint32_t timeout = rd_u32(r);
    bool programs = rd_u32(r) != 0, last = rd_u32(r) != 0;
    if (r->bad) return -EPROTO;
    if (programs && c->home && !(env = env_and(env, n, c->home))) return failf(c, NULL, -ENOMEM, "plan arena");
    /* the state goes in as a file, so that a hook which does not read it can't block us */
    int in = memfd_create("state", MFD_CLOEXEC), pipes[2];
    if (in < 0) return fail(c, "memfd_create");
    if (c->state && write_all(in, c->state, c->state_size) < 0) return fail(c, "write");
    lseek(in, 0, SEEK_SET);
    if (pipe2(pipes, O_CLOEXEC) < 0) return fail(c, "pipe2");
    int pidfd = -1;
    struct clone_args a = {.flags = CLONE_PIDFD, .pidfd = (uint64_t)(uintptr_t)&pidfd, .exit_signal = SIGCHLD};
    long pid = syscall(SYS_clone3, &a, sizeof a);
    if (pid < 0) return fail(c, "clone3");
    if (pid == 0) {
        setpgid(0, 0);
        dup2(in, 0);
        dup2(pipes[1], 1);
        dup2(pipes[1], 2);
        /* what is preserved is for the program; the channel, for a listener, is closed by the exec */
        if (c->sock >= 0 && c->sock != 3 && dup3(c->sock, 3, O_CLOEXEC) == 3) c->sock = 3;
        syscall(SYS_close_range, 4u, ~0u, 0u);
        if (c->sock == 3) fcntl(3, F_SETFD, FD_CLOEXEC);
        if (c->hook_filter && load_filter(c, c->hook_filter_flags, c->hook_filter, c->hook_filter_size) < 0) {
            dprintf(2, "seccomp: %s\n", *c->text ? c->text : words(errno));
            _exit(127);
        }
        execve(path, args, env);
        dprintf(2, "%s: %s\n", path, words(errno));
        _exit(127);
    }
    close(in);
    close(pipes[1]);
    char out[2048] = "";
    int status = attend(pidfd, pipes[0], (int64_t)timeout * 1000, out, sizeof out);
    if (status < 0) {
        kill((pid_t)-pid, SIGKILL);
        kill((pid_t)pid, SIGKILL); /* should it not have got to its setpgid */
        waitpid((pid_t)pid, NULL, 0);
        close(pipes[0]);
        close(pidfd);
        return failf(c, NULL, -ETIMEDOUT, "hook %s did not end within %u s%s%s", path, timeout, *out ? "; its output: " : "", out);
    }
    close(pidfd);
    if (status == 0) return last ? msg_send(c, MSG_HOOKED, 0, NULL, 0, -1) : 0;
    size_t size = strlen(out);
    while (size && (out[size - 1] == '\n' || out[size - 1] == ' ')) out[--size] = 0;
    if (status & 0x7f)
        return failf(c, NULL, -ECANCELED, "hook %s was killed by signal %d%s%s", path, status & 0x7f, *out ? ": " : "", out);
    return failf(c, NULL, -ECANCELED, "hook %s exited with status %d%s%s", path, status >> 8, *out ? ": " : "", out);
}
