/* Preloaded into a process: fails chosen calls that write below one folder, and records what reached the disk.
 *
 * Counted calls, in the order in which they are made: open for writing, write, fsync, rename, link, unlink, mkdir,
 * rmdir, truncate. `fault_arm` makes the nth of them fail with an error number, once or from then on. With a trace
 * folder, every call that succeeded is recorded in order (`trace`), and an fsync keeps a copy of the file
 * (`copy-<call>`): enough to rebuild what the disk would hold if the power went at any moment. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(result, name, ...) \
    static result (*real_##name)(__VA_ARGS__); \
    if (!real_##name) real_##name = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static char below[PATH_MAX], trace[PATH_MAX];
static long nth, calls;
static int failure, forever, trace_file = -1;

long fault_calls(void) { return calls; }

/* `number` 0: only count and record. `folder`: absolute, without links. */
void fault_arm(const char *folder, long number, int error, int from_then_on, const char *trace_folder) {
    char path[PATH_MAX + 16];
    snprintf(trace, sizeof trace, "%s", trace_folder);
    if (*trace) {
        snprintf(path, sizeof path, "%s/trace", trace);
        trace_file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    }
    snprintf(below, sizeof below, "%s", folder);
    nth = number, calls = 0, failure = error, forever = from_then_on;
}

static int is_below(const char *path) {
    size_t length = strlen(below);
    return length && !strncmp(path, below, length) && (path[length] == '/' || !path[length]);
}

/* The path of a file, of an open one where `path` is NULL; into `room` of PATH_MAX bytes. */
static const char *path_of(int file, const char *path, char *room) {
    char link[64];
    ssize_t length;
    if (path && path[0] == '/') return path;
    if (file == AT_FDCWD) {
        if (!getcwd(room, PATH_MAX)) return "";
        length = strlen(room);
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", file);
        length = readlink(link, room, PATH_MAX - 1);
        if (length < 0) return "";
        room[length] = 0;
    }
    if (path) snprintf(room + length, PATH_MAX - length, "/%s", path);
    return room;
}

static int fails(void) {
    calls++;
    if (nth && (forever ? calls >= nth : calls == nth)) {
        errno = failure;
        return 1;
    }
    return 0;
}

static void record(const char *kind, const char *path, const char *other) {
    REAL(ssize_t, write, int, const void *, size_t);
    char line[2 * PATH_MAX + 64];
    if (trace_file < 0) return;
    int before = errno, length = snprintf(line, sizeof line, "%ld\t%s\t%s\t%s\n", calls, kind, path, other);
    if (real_write(trace_file, line, length) < 0) abort();
    errno = before;
}

static void copy(int file) {
    char name[PATH_MAX + 32], link[64], buffer[65536];
    ssize_t length;
    if (trace_file < 0) return;
    snprintf(name, sizeof name, "%s/copy-%ld", trace, calls);
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    int from = open(link, O_RDONLY | O_CLOEXEC), to = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    while ((length = read(from, buffer, sizeof buffer)) > 0)
        if (write(to, buffer, length) != length) abort();
    close(from);
    close(to);
}

#define WRITES(flags) (((flags) & O_ACCMODE) != O_RDONLY || ((flags) & O_CREAT))

static int opened(int folder, const char *path, int flags, mode_t mode) {
    REAL(int, openat, int, const char *, int, mode_t);
    char room[PATH_MAX];
    const char *whole = *below && WRITES(flags) ? path_of(folder, path, room) : "";
    if (!is_below(whole)) return real_openat(folder, path, flags, mode);
    if (fails()) return -1;
    int existed = faccessat(folder, path, F_OK, 0) == 0, file = real_openat(folder, path, flags, mode);
    if (file >= 0 && !existed) record("create", whole, "");
    if (file >= 0 && existed && (flags & O_TRUNC)) record("truncate", whole, "");
    return file;
}

#define MODE mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }
int open(const char *path, int flags, ...) { MODE return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE return opened(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE return opened(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE return opened(folder, path, flags, mode); }

/* Calls on an open file: whether it is below the folder and the call is to fail; its path in `room`. */
#define ON_FILE(file) char room[PATH_MAX]; int counted = *below && is_below(path_of(file, NULL, room)); \
    if (counted && fails()) return -1

#define WRITE(name, parameters, arguments, ...) \
    ssize_t name parameters { \
        REAL(ssize_t, name, __VA_ARGS__); \
        ON_FILE(file); \
        ssize_t result = real_##name arguments; \
        if (counted) record("write", room, ""); \
        return result; \
    }
WRITE(write, (int file, const void *data, size_t size), (file, data, size), int, const void *, size_t)
WRITE(writev, (int file, const struct iovec *data, int count), (file, data, count), int, const struct iovec *, int)
WRITE(pwrite, (int file, const void *data, size_t size, off_t offset), (file, data, size, offset), int, const void *, size_t, off_t)
WRITE(pwrite64, (int file, const void *data, size_t size, off64_t offset), (file, data, size, offset), int, const void *, size_t, off64_t)
WRITE(sendfile, (int file, int from, off_t *offset, size_t size), (file, from, offset, size), int, int, off_t *, size_t)
WRITE(sendfile64, (int file, int from, off64_t *offset, size_t size), (file, from, offset, size), int, int, off64_t *, size_t)

static int synced(int file, int (*real)(int)) {
    struct stat status;
    ON_FILE(file);
    int result = real(file);
    if (counted && result == 0 && fstat(file, &status) == 0) {
        int folder = S_ISDIR(status.st_mode);
        if (!folder) copy(file);
        record(folder ? "sync folder" : "sync", room, "");
    }
    return result;
}
int fsync(int file) { REAL(int, fsync, int); return synced(file, real_fsync); }
int fdatasync(int file) { REAL(int, fdatasync, int); return synced(file, real_fdatasync); }

#define TRUNCATE(name, type) \
    int name(int file, type size) { \
        REAL(int, name, int, type); \
        ON_FILE(file); \
        int result = real_##name(file, size); \
        if (counted) record("write", room, ""); \
        return result; \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define NAMED(kind, folder, path, call) \
    char room[PATH_MAX]; const char *whole = *below ? path_of(folder, path, room) : ""; \
    int counted = is_below(whole); \
    if (counted && fails()) return -1; \
    int result = call; \
    if (counted && result == 0) record(kind, whole, ""); \
    return result
int unlink(const char *path) { REAL(int, unlink, const char *); NAMED("unlink", AT_FDCWD, path, real_unlink(path)); }
int unlinkat(int folder, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    NAMED("unlink", folder, path, real_unlinkat(folder, path, flags));
}
int rmdir(const char *path) { REAL(int, rmdir, const char *); NAMED("unlink", AT_FDCWD, path, real_rmdir(path)); }
int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    NAMED("mkdir", AT_FDCWD, path, real_mkdir(path, mode));
}

static int moved(const char *kind, int from, const char *path, int to, const char *new, int flags, int is_link) {
    REAL(int, renameat2, int, const char *, int, const char *, unsigned);
    REAL(int, linkat, int, const char *, int, const char *, int);
    char first[PATH_MAX], second[PATH_MAX];
    const char *old_path = *below ? path_of(from, path, first) : "", *new_path = *below ? path_of(to, new, second) : "";
    int counted = is_below(new_path);
    if (counted && fails()) return -1;
    int result = is_link ? real_linkat(from, path, to, new, flags) : real_renameat2(from, path, to, new, flags);
    if (counted && result == 0) record(kind, old_path, new_path);
    return result;
}
int rename(const char *path, const char *new) { return moved("rename", AT_FDCWD, path, AT_FDCWD, new, 0, 0); }
int renameat(int from, const char *path, int to, const char *new) { return moved("rename", from, path, to, new, 0, 0); }
int renameat2(int from, const char *path, int to, const char *new, unsigned flags) {
    return moved("rename", from, path, to, new, flags, 0);
}
int link(const char *path, const char *new) { return moved("link", AT_FDCWD, path, AT_FDCWD, new, 0, 1); }
int linkat(int from, const char *path, int to, const char *new, int flags) {
    return moved("link", from, path, to, new, flags, 1);
}
