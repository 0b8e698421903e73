/* Counts a process's operations on the files under one folder, and kills it or fails at the n-th.
 *
 * safetensors and tokenizers call the kernel without libc, so that a library in LD_PRELOAD does not see their renames.
 * This one asks the kernel itself: a seccomp filter sends every file operation back here as SIGSYS, and the handler
 * carries it out, or does not. Linux on x86-64 and arm64. Armed in a forked process, and never disarmed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>

enum { WRITES = 1, READS = 2, ROOM_TAKEN = 4 };  /* which operations count; those that a full disk does not do */
enum { NOTHING, KILL, TORN, INTERRUPT, TERMINATE, FAIL_ONCE, FAIL_ON };  /* what happens at the n-th */
enum { NAME = 24, PATH = 232, ROOM = 4096 };

struct entry { char name[NAME], path[PATH]; };
struct counted { int64_t count, capacity; struct entry entries[]; };  /* memory shared with the parent */

static char folder[ROOM];
static int folder_length, classes, action, error_number;
static int64_t target;
static struct counted *counted;

/* An operation: its number, the argument that holds a path (with the folder's descriptor before it, or none), or the
 * argument that holds a descriptor. */
struct operation { int number; const char *name; int class, descriptor, path; };
static const struct operation OPERATIONS[] = {
#define TAKES (WRITES | ROOM_TAKEN)
#define WITH_PATH(call, class, place) {__NR_##call, #call, class, -1, place},
#define AT_PATH(call, class, at, place) {__NR_##call, #call, class, at, place},
#define WITH_FILE(call, class, place) {__NR_##call, #call, class, place, -1},
    AT_PATH(openat, READS, 0, 1) AT_PATH(mkdirat, TAKES, 0, 1) AT_PATH(unlinkat, WRITES, 0, 1)
    AT_PATH(renameat2, WRITES, 2, 3) AT_PATH(linkat, WRITES, 2, 3) AT_PATH(symlinkat, WRITES, 1, 2)
    AT_PATH(fchmodat, WRITES, 0, 1) AT_PATH(newfstatat, READS, 0, 1) AT_PATH(statx, READS, 0, 1)
    AT_PATH(faccessat, READS, 0, 1) AT_PATH(readlinkat, READS, 0, 1) WITH_PATH(truncate, WRITES, 0)
    WITH_FILE(write, TAKES, 0) WITH_FILE(pwrite64, TAKES, 0) WITH_FILE(writev, TAKES, 0)
    WITH_FILE(pwritev, TAKES, 0) WITH_FILE(sendfile, TAKES, 0) WITH_FILE(copy_file_range, TAKES, 2)
    WITH_FILE(fsync, WRITES, 0) WITH_FILE(fdatasync, WRITES, 0) WITH_FILE(ftruncate, TAKES, 0)
    WITH_FILE(fallocate, TAKES, 0) WITH_FILE(fchmod, WRITES, 0)
    WITH_FILE(read, READS, 0) WITH_FILE(pread64, READS, 0) WITH_FILE(readv, READS, 0) WITH_FILE(getdents64, READS, 0)
    WITH_FILE(mmap, READS, 4) WITH_FILE(close, READS, 0) WITH_FILE(flock, READS, 0)
#ifdef __x86_64__
    WITH_PATH(open, READS, 0) WITH_PATH(creat, TAKES, 0) WITH_PATH(mkdir, TAKES, 0) WITH_PATH(rmdir, WRITES, 0)
    WITH_PATH(unlink, WRITES, 0) WITH_PATH(rename, WRITES, 1) WITH_PATH(link, WRITES, 1) WITH_PATH(symlink, WRITES, 1)
    WITH_PATH(chmod, WRITES, 0) WITH_PATH(stat, READS, 0) WITH_PATH(lstat, READS, 0) WITH_PATH(access, READS, 0)
    WITH_PATH(readlink, READS, 0) AT_PATH(renameat, WRITES, 2, 3)
#endif
};
enum { NUMBER = sizeof OPERATIONS / sizeof *OPERATIONS };

/* The one place from which the filter lets everything pass. */
long kernel(long number, const long *given);
extern const char kernel_passes[];
#ifdef __x86_64__
#define ARCHITECTURE AUDIT_ARCH_X86_64
__asm__(".globl kernel\n.type kernel,@function\nkernel:\n"
        "mov %rdi,%rax\nmov %rsi,%r11\nmov 0(%r11),%rdi\nmov 8(%r11),%rsi\nmov 16(%r11),%rdx\nmov 24(%r11),%r10\n"
        "mov 32(%r11),%r8\nmov 40(%r11),%r9\nsyscall\n.globl kernel_passes\nkernel_passes:\nret\n");
static const int REGISTERS[] = {REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9};
#define ARGUMENT(context, n) ((context)->uc_mcontext.gregs[REGISTERS[n]])
#define RESULT(context) ((context)->uc_mcontext.gregs[REG_RAX])
#else
#define ARCHITECTURE AUDIT_ARCH_AARCH64
__asm__(".globl kernel\n.type kernel,%function\nkernel:\n"
        "mov x8,x0\nmov x9,x1\nldp x0,x1,[x9]\nldp x2,x3,[x9,16]\nldp x4,x5,[x9,32]\nsvc 0\n"
        ".globl kernel_passes\nkernel_passes:\nret\n");
#define ARGUMENT(context, n) ((context)->uc_mcontext.regs[n])
#define RESULT(context) ((context)->uc_mcontext.regs[0])
#endif

static long call(long number, long a, long b, long c, long d) {
    return kernel(number, (const long[6]){a, b, c, d});
}

/* The path of an open descriptor, or of the current folder; its length. */
static long described(int descriptor, char *into) {
    char link[40] = "/proc/self/cwd", digits[12];
    if (descriptor != AT_FDCWD) {
        int n = 0, at = sizeof "/proc/self/fd/" - 1;
        memcpy(link, "/proc/self/fd/", at);
        do digits[n++] = '0' + descriptor % 10; while ((descriptor /= 10) > 0);
        while (n) link[at++] = digits[--n];
        link[at] = 0;
    }
    long length = call(__NR_readlinkat, AT_FDCWD, (long)link, (long)into, ROOM - 1);
    into[length > 0 ? length : 0] = 0;
    return length;
}

/* The whole path that an operation is about; whether it lies in the folder. */
static int concerns(const struct operation *one, const long *given, char *path) {
    const char *named = one->path >= 0 ? (const char *)given[one->path] : NULL;
    if (one->path >= 0 && named == NULL) return 0;
    long length = 0;
    if (named == NULL || named[0] != '/') {
        int descriptor = one->descriptor >= 0 ? (int)given[one->descriptor] : AT_FDCWD;
        if (descriptor < 0 && descriptor != AT_FDCWD) return 0;
        if ((length = described(descriptor, path)) < 0) return 0;
        if (named != NULL && length < ROOM - 1) path[length++] = '/';
    }
    if (named != NULL) strncpy(path + length, named, ROOM - 1 - length);
    path[ROOM - 1] = 0;
    return strncmp(path, folder, folder_length) == 0;
}

static int class_of(const struct operation *one, const long *given) {
    long flags = 0;
    if (strcmp(one->name, "openat") == 0) flags = given[2];
    if (strcmp(one->name, "open") == 0) flags = given[1];
    if (flags & O_CREAT) return WRITES | ROOM_TAKEN;
    return flags & (O_WRONLY | O_RDWR | O_TRUNC) ? WRITES : one->class;
}

/* Carry out half of a write, so that a kill leaves it torn. */
static void tear(long number, long *given) {
    if (number == __NR_write || number == __NR_pwrite64) {
        given[2] /= 2;
        kernel(number, given);
    }
}

static long act(long number, long *given, int class, int64_t place) {
    int full = error_number == ENOSPC || error_number == EDQUOT;
    long self = call(__NR_getpid, 0, 0, 0, 0);
    if (action == TORN && place == target) tear(number, given);
    if ((action == KILL || action == TORN) && place == target) call(__NR_kill, self, SIGKILL, 0, 0);
    if (action == INTERRUPT && place == target) call(__NR_kill, self, SIGINT, 0, 0);
    if (action == TERMINATE && place == target) call(__NR_kill, self, SIGTERM, 0, 0);
    if ((action == FAIL_ONCE && place == target) || (action == FAIL_ON && place >= target && (class & ROOM_TAKEN || !full))) {
        if (number == __NR_close) kernel(number, given); /* a descriptor is gone, whatever close says */
        return -error_number;
    }
    return kernel(number, given);
}

static void note(const struct operation *one, const char *path, int64_t place) {
    if (place >= counted->capacity) return;
    struct entry *entry = &counted->entries[place];
    strncpy(entry->name, one->name, NAME - 1);
    strncpy(entry->path, path + folder_length, PATH - 1);
}

static void on_call(int signal_number, siginfo_t *info, void *uncast) {
    ucontext_t *context = uncast;
    long number = info->si_syscall, given[6];
    int saved = errno;
    (void)signal_number;
    for (int i = 0; i < 6; i++) given[i] = ARGUMENT(context, i);
    const struct operation *one = OPERATIONS;
    while (one->number != number) one++;
    char path[2 * ROOM];
    int64_t place = -1;
    int class = class_of(one, given);
    if ((class & classes) && concerns(one, given, path)) {
        place = __atomic_fetch_add(&counted->count, 1, __ATOMIC_SEQ_CST);
        note(one, path, place);
    }
    RESULT(context) = place < 0 ? kernel(number, given) : act(number, given, class, place);
    errno = saved;
}

/* Begin to count operations of some classes under a folder; at the n-th (from 0) do what is asked. Returns 0, or -1
 * where the kernel does not allow it. */
int arm(const char *under, int which, int what, int64_t at, int error, struct counted *shared) {
    strncpy(folder, under, ROOM - 1);
    folder_length = strlen(folder);
    classes = which, action = what, target = at, error_number = error, counted = shared;
    struct sigaction handler = {.sa_sigaction = on_call, .sa_flags = SA_SIGINFO | SA_NODEFER};
    uint64_t passes = (uint64_t)(uintptr_t)kernel_passes;
    struct sock_filter filter[NUMBER + 9] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 0, NUMBER + 5),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)passes, 0, 2),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(passes >> 32), NUMBER + 1, 0),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    };
    for (int i = 0; i < NUMBER; i++)
        filter[7 + i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OPERATIONS[i].number, NUMBER - i, 0);
    filter[7 + NUMBER] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter[8 + NUMBER] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    struct sock_fprog program = {.len = NUMBER + 9, .filter = filter};
    if (sigaction(SIGSYS, &handler, NULL) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0 ? 0 : -1;
}
