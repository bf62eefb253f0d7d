/* What the cffi extension offers to Python; build_native.py hands this text to cffi as it is.
 * Every function returns a value >= 0, or -errno: translating errors is Python's work, in one place. */

struct ocipy_launch {
    int helper;          /* sealed memfd of the init helper */
    int cgroup;          /* fd for CLONE_INTO_CGROUP, or -1 */
    unsigned int flags;  /* CLONE_NEW* for the first process */
    unsigned int count;  /* of fds */
    const int *fds;      /* become 0, 1, 2 … in the helper, which gets nothing else */
    const char *base;    /* the helper's argument: the number of its first own descriptor */
    int pid;             /* out */
    int pidfd;           /* out */
};

struct ocipy_spawn {
    const char *path;
    char **args, **env;
    int input;           /* becomes standard input */
    int output;          /* becomes standard output and error */
    int directory;       /* to work in, or -1 for the caller's */
    unsigned int count;  /* of closed */
    const int *closed;   /* not passed on */
};

int ocipy_launch(struct ocipy_launch *l);
int ocipy_spawn(struct ocipy_spawn *s);
int ocipy_sealed_copy(const char *path);
int ocipy_seal(int fd);
int ocipy_channel(int fds[2]);
int ocipy_listen(int dirfd, const char *name);
int ocipy_connect(int dirfd, const char *name);
int ocipy_send(int fd, const void *data, unsigned int size);
int ocipy_send_fd(int fd, const void *data, unsigned int size, int passed);
int ocipy_recv(int fd, void *data, unsigned int size, int *passed, int timeout_ms);
int ocipy_unix_connect(const char *path);
int ocipy_set_subreaper(int on);
unsigned long long ocipy_capabilities(void);
int ocipy_sched_setattr(int pid, void *attr);
int ocipy_ioprio_set(int pid, int value);
int ocipy_idmap(int mount, int userns, unsigned int flags);
int ocipy_bpf(int cmd, void *attr, unsigned int size);
