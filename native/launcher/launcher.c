/* The installed executables (`ocipy`, `containerd-shim-ocipy-v2`): finds the interpreter and the package that
 * belong to it, and becomes  python -I -S -X utf8 -c CODE SITE... NAME ARGUMENT...
 *
 * Isolated (-I, -S): no PYTHON* variable, no user directory, no .pth file, not the current directory; and
 * with UTF-8 for file names and arguments whatever the locale (-X utf8). What runs as root for an engine must
 * not depend on the environment that it inherits, and the site module alone takes milliseconds. So nothing
 * here looks at the environment or at argv[0] to find anything: all starts from /proc/self/exe.
 *
 * A "#!" line could not do it: it takes one argument, and names one interpreter for wherever the package
 * is installed. Static, so that there is no loader to configure (LD_PRELOAD reaches the interpreter only)
 * and the start costs 0.2 ms.
 *
 * Set when it is built:
 *   OCIPY_PYTHON  the interpreter to use where there is none beside the executable ("/usr/bin/python3.11")
 *   OCIPY_PYVER   the version that both must have ("3.11"): extension modules and .pyc files depend on it
 *   OCIPY_SITE    the directory of last resort that has the package (none if empty)
 *   OCIPY_MODULE  the module whose main() is to be run
 *   OCIPY_EMBED   defined if embed.c is linked, which starts faster where it can */
#define _GNU_SOURCE
#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if !defined(OCIPY_PYTHON) || !defined(OCIPY_PYVER)
#error "OCIPY_PYTHON and OCIPY_PYVER say which interpreter to use"
#endif
#ifndef OCIPY_SITE
#define OCIPY_SITE ""
#endif

/* sys.argv is ['-c', SITE..., NAME, ARGUMENT...] when this runs; it is compiled at each start. The site
 * directories come last on sys.path: what is in them can't replace a part of the standard library. */
static const char CODE[] = "import sys;%sv=sys.argv;sys.path+=v[1:%d];del v[:%d];"
                           "from " OCIPY_MODULE " import main;sys.exit(main())";

/* In the C locale the interpreter sets LC_CTYPE (PEP 538, and -I leaves no variable to stop it); hooks would
 * inherit that. It leaves LC_CTYPE as it is otherwise, so this can only undo its own. */
#define UNDO_LC_CTYPE "import posix;posix.unsetenv('LC_CTYPE');posix.environ.pop(b'LC_CTYPE',0);"

/* Where Debian has packages for every python3: the cffi backend, if the distribution's is used. */
#define DEBIAN_SITE "/usr/lib/python3/dist-packages"

/* In the order in which installers are likely to have used them, below the prefix. */
static const char *const SITES[] = {
    "lib/python" OCIPY_PYVER "/site-packages",
    "lib/python" OCIPY_PYVER "/dist-packages",
    "local/lib/python" OCIPY_PYVER "/dist-packages",
    "lib/python3/dist-packages",
};

static const char *name = "ocipy";

/* One line, the last on stderr, which is all that an engine keeps; 127 as a shell says "not found". */
__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...) {
    static char text[10 * PATH_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    dprintf(STDERR_FILENO, "%s: %s\n", name, text);
    _exit(127);
}

/* Writes a path; a directory that is too deep simply doesn't have what is looked for. */
__attribute__((format(printf, 2, 3))) static int path(char *into, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(into, PATH_MAX, format, args);
    va_end(args);
    return n > 0 && n < PATH_MAX;
}

/* Cuts the last component off an absolute path. "/" has "" left, so that "%s/x" is right for it. */
static void parent(char *of) {
    char *slash = strrchr(of, '/');
    *(slash ? slash : of) = 0;
}

static int has_package(const char *site) {
    char file[PATH_MAX];
    return path(file, "%s/ocipy/__init__.py", site) && access(file, R_OK) == 0;
}

static int find_site(char *site, const char *prefix) {
    for (size_t i = 0; i < sizeof SITES / sizeof *SITES; i++)
        if (path(site, "%s/%s", prefix, SITES[i]) && has_package(site))
            return 1;
    return *OCIPY_SITE && path(site, "%s", OCIPY_SITE) && has_package(site);
}

/* It was copied, moved or bind mounted to somewhere else, most likely: says so, where it looked, and what to do. */
__attribute__((noreturn)) static void no_package(const char *exe, const char *prefix) {
    static char looked[8 * PATH_MAX];
    size_t n = 0;
    for (size_t i = 0; i < sizeof SITES / sizeof *SITES && n < sizeof looked; i++)
        n += (size_t)snprintf(looked + n, sizeof looked - n, "%s%s/%s", i ? ", " : "", prefix, SITES[i]);
    if (*OCIPY_SITE && n < sizeof looked)
        snprintf(looked + n, sizeof looked - n, ", %s", OCIPY_SITE);
    fail("there is no Python package to %s, which may be a copy of the installed executable (looked for ocipy in %s): make"
         " it a symbolic link to that one, or install ocipy here with pip",
         exe, looked);
}

#ifdef OCIPY_EMBED
/* With the interpreter inside of this executable, if that is the one to use, and the package has a pack. */
static void try_embedded(const char *python, const char *site, const char *more, int argc, char **argv) {
    char file[PATH_MAX], real[PATH_MAX];
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--debug") == 0)
            return; /* tracebacks with line numbers, which the pack does not have */
    if (!realpath(python, real) || strcmp(real, OCIPY_PYTHON) || !path(file, "%s/ocipy/_pack.bin", site))
        return;
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    /* out of the way of --preserve-fds, and of standard descriptors that the caller has closed */
    int pack = fcntl(fd, F_DUPFD_CLOEXEC, 256);
    if (pack < 0)
        pack = fd;
    else
        close(fd);
    int code = embed(python, site, more, pack, argc, argv);
    if (code >= 0)
        _exit(code);
    close(pack);
}
#endif

int main(int argc, char **argv) {
    static char exe[PATH_MAX], prefix[PATH_MAX], site[PATH_MAX], python[PATH_MAX];
    if (argc > 0 && argv[0][0])
        name = argv[0]; /* for messages only: the caller chose it */
    int done = argc > 0 ? brief(argv) : -1;
    if (done >= 0)
        return done;

    ssize_t n = readlink("/proc/self/exe", prefix, sizeof prefix);
    if (n < 0)
        fail("cannot read /proc/self/exe: %s (is /proc mounted?)", strerror(errno));
    if ((size_t)n >= sizeof prefix || prefix[0] != '/')
        fail("/proc/self/exe is not a path of less than %d bytes", PATH_MAX);
    prefix[n] = 0;
    strcpy(exe, prefix);
    parent(prefix); /* the file; if it was replaced meanwhile, " (deleted)" went with it */
    parent(prefix); /* bin */

    if (!find_site(site, prefix))
        no_package(exe, prefix);
    if (!path(python, "%s/bin/python" OCIPY_PYVER, prefix) || access(python, X_OK))
        path(python, "%s", OCIPY_PYTHON);

    int debian = strncmp(python, "/usr/", 5) == 0 && strcmp(site, DEBIAN_SITE) && access(DEBIAN_SITE, F_OK) == 0;
    /* CPython takes these two for its own path even under -I, looks for a pyvenv.cfg there, and for the
     * standard library where that says. Everything else in the environment is passed on. */
    unsetenv("PYTHONEXECUTABLE");
    unsetenv("__PYVENV_LAUNCHER__");
#ifdef OCIPY_EMBED
    try_embedded(python, site, debian ? DEBIAN_SITE : "", argc, argv);
#endif
    static char code[sizeof CODE + sizeof UNDO_LC_CTYPE];
    snprintf(code, sizeof code, CODE, getenv("LC_CTYPE") ? "" : UNDO_LC_CTYPE, 2 + debian, 2 + debian);
    char **args = calloc((size_t)argc + 11, sizeof *args);
    if (!args)
        fail("out of memory");
    char **a = args;
    *a++ = python; /* the interpreter finds its library by it, and would search $PATH for a bare name */
    *a++ = (char *)"-I";
    *a++ = (char *)"-S";
    *a++ = (char *)"-X";
    *a++ = (char *)"utf8";
    *a++ = (char *)"-c";
    *a++ = code;
    *a++ = site;
    if (debian)
        *a++ = (char *)DEBIAN_SITE;
    *a++ = (char *)name; /* becomes sys.argv[0], and lets ps and pgrep -f find "ocipy create ..." */
    for (int i = 1; i < argc; i++)
        *a++ = argv[i];
    execv(python, args);
    fail("cannot execute %s: %s", python, strerror(errno));
}
