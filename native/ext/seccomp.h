/* What the seccomp compiler offers to Python; build_seccomp.py hands this text to cffi as it is.
 * Functions that return int give a value >= 0, or -errno: translating errors is Python's work. */
#include <stdint.h>

/* The libseccomp in use: major << 16 | minor << 8 | micro. */
int ocipy_seccomp_version(void);

/* The SCMP_ARCH_* token of an architecture (libseccomp's lower case name, or "native"), 0 if unknown. */
uint32_t ocipy_seccomp_arch(const char *name);

/* The SECCOMP_FILTER_FLAG_* bits that the running kernel takes; -ENOSYS without seccomp filters. */
int ocipy_seccomp_flags(void);

/* 1 if the running kernel has an action (SECCOMP_RET_*), 0 if not. */
int ocipy_seccomp_action(uint32_t action);

/* Compiles an encoded profile (ocipy/plan/seccomp.py has the layout) into a program of struct sock_filter.
 * `program` has room for 4096 of them, the most that the kernel takes.
 * Returns how many were written, or -E2BIG, -ENOMEM, or -EINVAL for an encoding that is wrong. */
int ocipy_seccomp_compile(const void *request, uint32_t size, void *program);
