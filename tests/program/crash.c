// Simulates a crash, a full disk or a broken disk. Counts the calls that change a file system. Call
// number FAULT_AT ends the process, or fails with FAULT_ERRNO if that is set. Writes to pipes and
// terminals do not count. If FAULT_COUNT is set, the number of calls is written to this file.
// LD_PRELOAD loads the library before the C library.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long calls;

// Counts a call. Returns 1 if the call must fail.
static int counts(void) {
    long call = atomic_fetch_add(&calls, 1) + 1;
    const char *at = getenv("FAULT_AT"), *error = getenv("FAULT_ERRNO");
    if (at == NULL || call != atol(at)) return 0;
    if (error == NULL) _exit(137);
    errno = atoi(error);
    return 1;
}

static int is_file(int fd) {
    struct stat status;
    return fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
}

__attribute__((destructor)) static void note(void) {
    const char *path = getenv("FAULT_COUNT");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (file) fprintf(file, "%ld", atomic_load(&calls)), fclose(file);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *data, size_t size) {
    if (!is_file(fd)) return REAL(write)(fd, data, size);
    if (counts()) return -1;
    return REAL(write)(fd, data, size);
}

int fsync(int fd) { return counts() ? -1 : REAL(fsync)(fd); }
int rename(const char *from, const char *to) { return counts() ? -1 : REAL(rename)(from, to); }
int unlink(const char *path) { return counts() ? -1 : REAL(unlink)(path); }
int rmdir(const char *path) { return counts() ? -1 : REAL(rmdir)(path); }
int mkdir(const char *path, mode_t mode) { return counts() ? -1 : REAL(mkdir)(path, mode); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
    return counts() ? -1 : REAL(linkat)(a, from, b, to, flags);
}

int open64(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    if ((flags & O_CREAT) && counts()) return -1;
    return REAL(open64)(path, flags, mode);
}
