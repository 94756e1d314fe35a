/*
 * A library for LD_PRELOAD that intercepts a program's calls to the file system: it counts the calls that change (or read) files below one
 * folder, and at the n-th call injects a fault: kills the process before or after the call, fails the call with an error, writes less than
 * requested, or fails a sync. It can also log the calls with their data, and shift the clock. It is controlled by a small file that every
 * process maps (FAULTS_CONTROL), so calls are counted across a process and its children, and a test can arm it between two runs.
 *
 * It covers the calls made by Node (libuv, its own C++) and the SQLite inside it; shim.test.ts compares them with strace's output.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Classes of calls: the bits of `mask` (the same as in harness.ts). */
enum { OPEN_READ = 1, OPEN_WRITE = 2, WRITE = 4, SYNC = 8, RENAME = 16, MKDIR = 32, UNLINK = 64, TRUNCATE = 128, CHMOD = 256, LINK = 512, READ = 1024 };
/* The fault at call number `at`: the values of `mode`. */
enum { NOTHING = 0, KILL_BEFORE = 1, KILL_AFTER = 2, REFUSE_ONCE = 3, REFUSE_FROM = 4, SHORT = 5, STOP = 6 };

struct control {
  int32_t armed;   /* 0: calls are passed on and not counted */
  int32_t mode;
  int32_t mask;
  int32_t error;   /* errno of a refusal */
  int64_t at;      /* counted from 1 */
  int64_t count;   /* calls so far */
  int64_t fired;   /* number of faults injected */
  int64_t budget;  /* bytes that can still be written before the disk is full; below 0: any number */
  int64_t clock;   /* seconds by which wall clocks are ahead */
  int32_t logging;
  int32_t only;    /* count only calls of the first process (1), of later ones (2), of all (0) */
  int32_t first;   /* the first process */
  int32_t ready;
  pthread_mutex_t lock;
};

static struct control *control;
static char root[PATH_MAX];
static size_t root_length;
static int log_fd = -1;
#define FILES 65536
static char *names[FILES];

#define REAL(name) ({ static __typeof__(name) *real_; if (!real_) real_ = (__typeof__(name) *)dlsym(RTLD_NEXT, #name); real_; })

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("FAULTS_CONTROL"), *folder = getenv("FAULTS_ROOT"), *log = getenv("FAULTS_LOG");
  if (!path || !folder || !realpath(folder, root)) return;
  root_length = strlen(root);
  int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  void *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  syscall(SYS_close, fd);
  if (at == MAP_FAILED) return;
  if (log) {
    int opened = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT, 0644);
    /* A number above those that the program uses itself. */
    log_fd = fcntl(opened, F_DUPFD_CLOEXEC, 1000);
    syscall(SYS_close, opened);
  }
  struct control *c = at;
  int32_t none = 0;
  if (__atomic_compare_exchange_n(&c->ready, &none, 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&c->lock, &attributes);
    c->first = getpid();
    __atomic_store_n(&c->ready, 2, __ATOMIC_SEQ_CST);
  } else {
    while (__atomic_load_n(&c->ready, __ATOMIC_SEQ_CST) != 2) usleep(100);
  }
  control = c;
}

static void take(void) {
  if (pthread_mutex_lock(&control->lock) == EOWNERDEAD) pthread_mutex_consistent(&control->lock);
}
static void give(void) { pthread_mutex_unlock(&control->lock); }

/* The absolute path, to be compared with the root. Links are not followed: the tests use real paths. */
static const char *absolute(int dir, const char *path, char *space) {
  if (path[0] == '/') return path;
  char link[64];
  if (dir == AT_FDCWD) {
    if (!getcwd(space, PATH_MAX)) return path;
  } else {
    snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    ssize_t n = readlink(link, space, PATH_MAX - 1);
    if (n < 0) return path;
    space[n] = 0;
  }
  size_t n = strlen(space);
  snprintf(space + n, PATH_MAX - n, "/%s", path);
  return space;
}
static int below(const char *path) {
  return control && strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}
static const char *name_of(int fd) { return control && fd >= 0 && fd < FILES ? names[fd] : NULL; }
static void name(int fd, const char *path) {
  if (fd < 0 || fd >= FILES) return;
  char *old = names[fd];
  names[fd] = path ? strdup(path) : NULL;
  free(old);
}

/* Each call is made between enter and leave while the lock is held, so calls are counted in the order in which they happen. */
enum verdict { GO, REFUSED, CUT };
static enum verdict enter(int class, int64_t bytes) {
  take();
  if (!control->armed || !(control->mask & class)) return GO;
  if ((control->only == 1 && control->first != getpid()) || (control->only == 2 && control->first == getpid())) return GO;
  int64_t n = ++control->count;
  if (control->budget >= 0 && bytes > 0) {
    if (bytes > control->budget) { control->fired++; errno = ENOSPC; return REFUSED; }
    control->budget -= bytes;
  }
  if (control->at == 0) return GO;
  if (control->mode == REFUSE_FROM ? n < control->at : n != control->at) return GO;
  switch (control->mode) {
    case KILL_BEFORE: control->fired++; syscall(SYS_kill, getpid(), SIGKILL); for (;;) pause();
    case STOP: control->fired++; give(); syscall(SYS_kill, getpid(), SIGSTOP); take(); return GO;
    case REFUSE_ONCE: case REFUSE_FROM: control->fired++; errno = control->error; return REFUSED;
    case SHORT: control->fired++; return CUT;
  }
  return GO;
}
static void leave(int class, int64_t mine) {
  int kept = errno;
  if (control->armed && control->mode == KILL_AFTER && control->at == mine && mine != 0 && (control->mask & class)) {
    control->fired++;
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
  }
  give();
  errno = kept;
}
/* The number of this call; 0 if it is not counted. Only valid between enter and leave. */
static int64_t number(int class) {
  if (!control->armed || !(control->mask & class)) return 0;
  if ((control->only == 1 && control->first != getpid()) || (control->only == 2 && control->first == getpid())) return 0;
  return control->count;
}

/* A log record: operation, inode, offset, the lengths of two paths and of the data, then these three. */
static void note(char what, uint64_t inode, int64_t offset, const char *a, const char *b, const void *data, uint32_t size) {
  if (!control->logging || log_fd < 0) return;
  struct __attribute__((packed)) { char what; uint64_t inode; int64_t offset; uint32_t a, b, size; } head =
    { what, inode, offset, a ? strlen(a) : 0, b ? strlen(b) : 0, size };
  struct iovec parts[4] = { { &head, sizeof head }, { (void *)a, head.a }, { (void *)b, head.b }, { (void *)data, size } };
  int kept = errno;
  syscall(SYS_writev, log_fd, parts, 4);
  errno = kept;
}
static uint64_t inode_of(int fd) { struct stat s; return fstat(fd, &s) == 0 ? s.st_ino : 0; }
static uint64_t inode_at(const char *path) { struct stat s; return lstat(path, &s) == 0 ? s.st_ino : 0; }

static int open_any(int dir, const char *path, int flags, mode_t mode) {
  char space[PATH_MAX];
  if (!control) return syscall(SYS_openat, dir, path, flags, mode);
  const char *full = absolute(dir, path, space);
  if (!below(full)) {
    int fd = syscall(SYS_openat, dir, path, flags, mode);
    if (fd >= 0) name(fd, NULL);
    return fd;
  }
  /* A folder that the C++ library iterates over: it is closed by closedir, which is not intercepted. */
  if (flags & O_DIRECTORY) return syscall(SYS_openat, dir, path, flags, mode);
  int class = (flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) ? OPEN_WRITE : OPEN_READ;
  int fd = -1;
  uint64_t before = (flags & O_CREAT) ? inode_at(full) : 1;
  /* On a full disk an existing file can be opened, but no file can be created. */
  if (enter(class, before == 0 ? 1 : 0) != REFUSED) {
    before = (flags & O_CREAT) ? inode_at(full) : 1;
    fd = syscall(SYS_openat, dir, path, flags, mode);
    if (fd >= 0) {
      name(fd, full);
      if (before == 0) note('c', inode_of(fd), 0, full, NULL, NULL, 0);
      else if (flags & O_TRUNC) note('t', inode_of(fd), 0, NULL, NULL, NULL, 0);
    }
  }
  leave(class, number(class));
  return fd;
}
int open(const char *path, int flags, ...) {
  va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest);
  return open_any(AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
  va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest);
  return open_any(AT_FDCWD, path, flags, mode);
}
int openat(int dir, const char *path, int flags, ...) {
  va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest);
  return open_any(dir, path, flags, mode);
}
int openat64(int dir, const char *path, int flags, ...) {
  va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest);
  return open_any(dir, path, flags, mode);
}
int close(int fd) {
  if (name_of(fd)) { take(); name(fd, NULL); give(); }
  return syscall(SYS_close, fd);
}

static ssize_t put(int fd, const struct iovec *parts, int count, int64_t offset) {
  size_t bytes = 0;
  for (int i = 0; i < count; i++) bytes += parts[i].iov_len;
  enum verdict verdict = enter(WRITE, bytes);
  ssize_t written = -1;
  if (verdict != REFUSED) {
    int64_t at = offset;
    if (at < 0) {
      at = lseek(fd, 0, SEEK_CUR);
      if (fcntl(fd, F_GETFL) & O_APPEND) { struct stat s; fstat(fd, &s); at = s.st_size; }
    }
    char *joined = malloc(bytes + 1);
    size_t n = 0;
    for (int i = 0; i < count; i++) { memcpy(joined + n, parts[i].iov_base, parts[i].iov_len); n += parts[i].iov_len; }
    if (verdict == CUT && bytes > 1) bytes /= 2;
    written = offset < 0 ? syscall(SYS_write, fd, joined, bytes) : syscall(SYS_pwrite64, fd, joined, bytes, offset);
    if (written > 0) note('w', inode_of(fd), at, NULL, NULL, joined, written);
    free(joined);
  }
  leave(WRITE, number(WRITE));
  return written;
}
ssize_t write(int fd, const void *data, size_t size) {
  if (!name_of(fd)) return syscall(SYS_write, fd, data, size);
  struct iovec part = { (void *)data, size };
  return put(fd, &part, 1, -1);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
  if (!name_of(fd)) return syscall(SYS_pwrite64, fd, data, size, offset);
  struct iovec part = { (void *)data, size };
  return put(fd, &part, 1, offset);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }
ssize_t writev(int fd, const struct iovec *parts, int count) {
  if (!name_of(fd)) return syscall(SYS_writev, fd, parts, count);
  return put(fd, parts, count, -1);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
  if (!name_of(fd)) return REAL(pwritev64)(fd, parts, count, offset);
  return put(fd, parts, count, offset);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) { return pwritev64(fd, parts, count, offset); }

/* Copies inside the kernel are refused, so that libuv falls back to read and write, which are counted. */
ssize_t sendfile64(int out, int in, off64_t *offset, size_t count) {
  if (name_of(out)) { errno = EINVAL; return -1; }
  return REAL(sendfile64)(out, in, offset, count);
}
ssize_t sendfile(int out, int in, off_t *offset, size_t count) { return sendfile64(out, in, (off64_t *)offset, count); }
ssize_t copy_file_range(int in, off64_t *a, int out, off64_t *b, size_t size, unsigned flags) {
  if (name_of(out)) { errno = EXDEV; return -1; }
  return REAL(copy_file_range)(in, a, out, b, size, flags);
}

ssize_t read(int fd, void *data, size_t size) {
  if (!name_of(fd) || !(control->mask & READ)) return syscall(SYS_read, fd, data, size);
  ssize_t n = -1;
  enum verdict verdict = enter(READ, 0);
  if (verdict != REFUSED) n = syscall(SYS_read, fd, data, verdict == CUT && size > 1 ? size / 2 : size);
  leave(READ, number(READ));
  return n;
}
ssize_t pread64(int fd, void *data, size_t size, off64_t offset) {
  if (!name_of(fd) || !(control->mask & READ)) return syscall(SYS_pread64, fd, data, size, offset);
  ssize_t n = -1;
  enum verdict verdict = enter(READ, 0);
  if (verdict != REFUSED) n = syscall(SYS_pread64, fd, data, verdict == CUT && size > 1 ? size / 2 : size, offset);
  leave(READ, number(READ));
  return n;
}
ssize_t pread(int fd, void *data, size_t size, off_t offset) { return pread64(fd, data, size, offset); }

static int make_last(int fd, long call) {
  int done = -1;
  if (enter(SYNC, 0) != REFUSED) {
    done = syscall(call, fd);
    if (done == 0) note('s', inode_of(fd), 0, name_of(fd), NULL, NULL, 0);
  }
  leave(SYNC, number(SYNC));
  return done;
}
int fsync(int fd) { return name_of(fd) ? make_last(fd, SYS_fsync) : syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return name_of(fd) ? make_last(fd, SYS_fdatasync) : syscall(SYS_fdatasync, fd); }

int ftruncate64(int fd, off64_t size) {
  if (!name_of(fd)) return syscall(SYS_ftruncate, fd, size);
  int done = -1;
  if (enter(TRUNCATE, 0) != REFUSED) {
    done = syscall(SYS_ftruncate, fd, size);
    if (done == 0) note('t', inode_of(fd), size, NULL, NULL, NULL, 0);
  }
  leave(TRUNCATE, number(TRUNCATE));
  return done;
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

/* Calls with one or two paths. */
#define PATHS(class, bytes, from, to, call, ...)                    \
  do {                                                              \
    int done_ = -1;                                                 \
    if (enter(class, bytes) != REFUSED) { done_ = (call); if (done_ == 0) { __VA_ARGS__; } } \
    leave(class, number(class));                                    \
    return done_;                                                   \
  } while (0)

static int rename_any(int fromDir, const char *from, int toDir, const char *to, unsigned flags) {
  char a[PATH_MAX], b[PATH_MAX];
  const char *x = control ? absolute(fromDir, from, a) : from, *y = control ? absolute(toDir, to, b) : to;
  if (!below(x) && !below(y)) return syscall(SYS_renameat2, fromDir, from, toDir, to, flags);
  PATHS(RENAME, 0, x, y, syscall(SYS_renameat2, fromDir, from, toDir, to, flags), note('r', 0, 0, x, y, NULL, 0));
}
int rename(const char *from, const char *to) { return rename_any(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int a, const char *from, int b, const char *to) { return rename_any(a, from, b, to, 0); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { return rename_any(a, from, b, to, flags); }

int mkdir(const char *path, mode_t mode) {
  char a[PATH_MAX];
  const char *x = control ? absolute(AT_FDCWD, path, a) : path;
  if (!below(x)) return syscall(SYS_mkdirat, AT_FDCWD, path, mode);
  PATHS(MKDIR, 1, x, NULL, syscall(SYS_mkdirat, AT_FDCWD, path, mode), note('m', 0, 0, x, NULL, NULL, 0));
}
char *mkdtemp(char *template) {
  char a[PATH_MAX];
  const char *x = control ? absolute(AT_FDCWD, template, a) : template;
  if (!below(x)) return REAL(mkdtemp)(template);
  char *made = NULL;
  if (enter(MKDIR, 1) != REFUSED) {
    made = REAL(mkdtemp)(template);
    if (made) note('m', 0, 0, absolute(AT_FDCWD, made, a), NULL, NULL, 0);
  }
  leave(MKDIR, number(MKDIR));
  return made;
}
static int remove_any(int dir, const char *path, int flags) {
  char a[PATH_MAX];
  const char *x = control ? absolute(dir, path, a) : path;
  if (!below(x)) return syscall(SYS_unlinkat, dir, path, flags);
  PATHS(UNLINK, 0, x, NULL, syscall(SYS_unlinkat, dir, path, flags), note('u', 0, 0, x, NULL, NULL, 0));
}
int unlink(const char *path) { return remove_any(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return remove_any(AT_FDCWD, path, AT_REMOVEDIR); }
int unlinkat(int dir, const char *path, int flags) { return remove_any(dir, path, flags); }
int remove(const char *path) {
  int done = unlink(path);
  return done != 0 && errno == EISDIR ? rmdir(path) : done;
}
int link(const char *from, const char *to) {
  if (!below(to)) return syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
  PATHS(LINK, 1, from, to, syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0), note('l', 0, 0, from, to, NULL, 0));
}
int symlink(const char *what, const char *at) {
  if (!below(at)) return syscall(SYS_symlinkat, what, AT_FDCWD, at);
  PATHS(LINK, 1, what, at, syscall(SYS_symlinkat, what, AT_FDCWD, at), note('y', 0, 0, what, at, NULL, 0));
}
int chmod(const char *path, mode_t mode) {
  if (!below(path)) return syscall(SYS_fchmodat, AT_FDCWD, path, mode);
  PATHS(CHMOD, 0, path, NULL, syscall(SYS_fchmodat, AT_FDCWD, path, mode), (void)0);
}
int fchmod(int fd, mode_t mode) {
  if (!name_of(fd)) return syscall(SYS_fchmod, fd, mode);
  PATHS(CHMOD, 0, NULL, NULL, syscall(SYS_fchmod, fd, mode), (void)0);
}
/* Writes to mapped memory (SQLite's index of its log) make no calls; SQLite does not rely on this memory after a crash. */

/* Only wall clocks are shifted, not monotonic ones. */
int clock_gettime(clockid_t id, struct timespec *t) {
  int done = syscall(SYS_clock_gettime, id, t);
  if (control && done == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) t->tv_sec += control->clock;
  return done;
}
int gettimeofday(struct timeval *restrict t, void *restrict zone) {
  int done = syscall(SYS_gettimeofday, t, zone);
  if (control && done == 0) t->tv_sec += control->clock;
  return done;
}
time_t time(time_t *t) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (t) *t = now.tv_sec;
  return now.tv_sec;
}
