/* Prints what a process sees and may do, one thing a line: a key, a tab, a value. It changes
 * nothing. With an argument it writes to that file instead. Needs calls.h, a line CALL(name) for
 * each system call that the compiler knows. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static FILE *out;
extern char **environ;

static const char *error(int number) { return number ? strerrorname_np(number) : "ok"; }

/* Files */

static void opens(const char *path, int flags, char *text) {
    int fd = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | O_NOFOLLOW);
    strcpy(text, error(fd < 0 ? errno : 0));
    if (fd >= 0) close(fd);
}

static void file(const char *path, const struct stat *s) {
    char link[512] = "", read[32], write[32];
    mode_t kind = s->st_mode & S_IFMT;
    fprintf(out, "file %s\t%c %04o %u:%u", path,
            kind == S_IFDIR   ? 'd'
            : kind == S_IFLNK ? 'l'
            : kind == S_IFCHR ? 'c'
            : kind == S_IFBLK ? 'b'
            : kind == S_IFREG ? '-'
                              : '?',
            s->st_mode & 07777, s->st_uid, s->st_gid);
    if (kind == S_IFLNK) {
        if (readlink(path, link, sizeof link - 1) < 0) strcpy(link, error(errno));
        fprintf(out, " -> %s\n", link);
        return;
    }
    if (kind == S_IFCHR || kind == S_IFBLK)
        fprintf(out, " %u,%u", major(s->st_rdev), minor(s->st_rdev));
    opens(path, O_RDONLY, read);
    if (kind == S_IFDIR)
        strcpy(write, error(faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) ? errno : 0));
    else
        opens(path, O_WRONLY, write);
    fprintf(out, " read %s, write %s\n", read, write);
}


static void walk(const char *path, int levels) {
    DIR *folder = opendir(path);
    if (!folder) return;
    for (struct dirent *entry; (entry = readdir(folder));) {
        char below[4096];
        struct stat s;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        snprintf(below, sizeof below, "%s/%s", strcmp(path, "/") ? path : "", entry->d_name);
        /* Processes, and this one by another name. */
        if (!strncmp(below, "/proc/", 6) && strspn(below + 6, "0123456789")) continue;
        if (lstat(below, &s)) {
            fprintf(out, "file %s\t%s\n", below, error(errno));
            continue;
        }
        file(below, &s);
        int further = strcmp(below, "/proc/sys") ? levels - 1 : 9;
        if (S_ISDIR(s.st_mode) && further > 0) walk(below, further);
    }
    closedir(folder);
}

static void mounts(void) {
    char line[4096];
    FILE *list = fopen("/proc/self/mountinfo", "r");
    while (list && fgets(line, sizeof line, list)) {
        /* Without numbers of mounts, devices and groups of mounts. */
        char *save, *field[32] = {0};
        int count = 0;
        for (char *part = strtok_r(line, " \n", &save); part && count < 32;
             part = strtok_r(NULL, " \n", &save))
            field[count++] = part;
        int dash = 6;
        while (dash < count && strcmp(field[dash], "-")) dash++;
        if (dash + 3 >= count) continue;
        fprintf(out, "mount %s\t%s %s", field[4], field[dash + 1], field[5]);
        for (int at = 6; at < dash; at++)
            fprintf(out, " %.*s", (int)strcspn(field[at], ":"), field[at]);
        fprintf(out, " | ");
        for (char *part = strtok_r(field[dash + 3], ",", &save); part;
             part = strtok_r(NULL, ",", &save))
            if (!strchr(part, '/')) fprintf(out, "%s ", part);
        fprintf(out, "\n");
    }
    if (list) fclose(list);
}

/* The process */

static void lines(const char *path, const char *key, const char *const *names) {
    char line[4096];
    FILE *list = fopen(path, "r");
    while (list && fgets(line, sizeof line, list)) {
        line[strcspn(line, "\n")] = 0;
        char *value = strchr(line, ':');
        if (!value) continue;
        *value++ = 0;
        value += strspn(value, "\t ");
        for (const char *const *name = names; *name; name++)
            if (!strcmp(line, *name)) fprintf(out, "%s %s\t%s\n", key, line, value);
    }
    if (list) fclose(list);
}

static void process(void) {
    static const char *const status[] = {
        "Umask",  "Uid",        "Gid",     "Groups", "NoNewPrivs", "Seccomp", "Seccomp_filters",
        "CapInh", "CapPrm",     "CapEff",  "CapBnd", "CapAmb",     "SigBlk",  "SigIgn",
        "SigCgt", "THP_enabled", "Speculation_Store_Bypass", "SpeculationIndirectBranch", NULL};
    static const char *const limits[] = {"cpu",     "fsize",   "data",       "stack",
                                         "core",    "rss",     "nproc",      "nofile",
                                         "memlock", "as",      "locks",      "sigpending",
                                         "msgqueue", "nice",   "rtprio",     "rttime"};
    char text[4096];
    lines("/proc/self/status", "status", status);
    for (int at = 0; at < 16; at++) {
        struct rlimit limit;
        getrlimit(at, &limit);
        fprintf(out, "limit %s\t%lld %lld\n", limits[at], (long long)limit.rlim_cur,
                (long long)limit.rlim_max);
    }
    fprintf(out, "process ids\t%d %d %d %d\n", getpid(), getppid(), getsid(0), getpgrp());
    fprintf(out, "process nice\t%d\n", getpriority(PRIO_PROCESS, 0));
    fprintf(out, "process personality\t%x\n", personality(0xffffffff));
    fprintf(out, "process securebits\t%x\n", prctl(PR_GET_SECUREBITS));
    fprintf(out, "process dumpable\t%d\n", prctl(PR_GET_DUMPABLE));
    fprintf(out, "process timer slack\t%d\n", prctl(PR_GET_TIMERSLACK));
    fprintf(out, "process subreaper\t%s\n", error(prctl(PR_GET_CHILD_SUBREAPER, text) ? errno : 0));
    fprintf(out, "process secure\t%lu\n", getauxval(AT_SECURE));
    fprintf(out, "process tty\t%s\n", error(open("/dev/tty", O_RDWR | O_CLOEXEC) < 0 ? errno : 0));
    fprintf(out, "process cwd\t%s\n", getcwd(text, sizeof text));
    struct utsname names;
    uname(&names);
    fprintf(out, "process host\t%s %s\n", names.nodename, names.domainname);
    for (char **entry = environ; *entry; entry++)
        fprintf(out, "environment %.*s\t%s\n", (int)strcspn(*entry, "="), *entry, *entry);
    FILE *score = fopen("/proc/self/oom_score_adj", "r");
    if (score && fgets(text, sizeof text, score)) fprintf(out, "process oom score\t%s", text);
    if (score) fclose(score);
    for (int fd = 0; fd < 1024; fd++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(path, text, sizeof text - 1);
        if (length < 0 || fcntl(fd, F_GETFD) < 0 || fcntl(fd, F_GETFD) & FD_CLOEXEC) continue;
        text[length] = 0;
        text[strcspn(text, ":")] = 0;
        fprintf(out, "descriptor %d\t%s %o\n", fd, text, fcntl(fd, F_GETFL) & O_ACCMODE);
    }
    static const char *const spaces[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};
    for (int at = 0; at < 8; at++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/ns/%s", spaces[at]);
        ssize_t length = readlink(path, text, sizeof text - 1);
        text[length < 0 ? 0 : length] = 0;
        fprintf(out, "namespace %s\t%s\n", spaces[at], text);
    }
    FILE *groups = fopen("/proc/self/cgroup", "r");
    while (groups && fgets(text, sizeof text, groups)) {
        char *name = strchr(text, ':'), *path = name ? strchr(name + 1, ':') : NULL;
        if (!path) continue;
        *path++ = 0;
        fprintf(out, "cgroup %s\t%s", name + 1, path);
    }
    if (groups) fclose(groups);
    FILE *routes = fopen("/proc/net/route", "r");
    int count = -1;
    while (routes && fgets(text, sizeof text, routes)) count++;
    if (routes) fclose(routes);
    fprintf(out, "network routes\t%d\n", count);
}

/* System calls */

/* Where the other process leaves the answer; 0: it was let through. */
static volatile int *answer;

static const char *verdict(long number, const long *arguments) {
    *answer = -1;
    fflush(out);
    pid_t child = fork();
    if (child == 0) {
        pid_t self = getpid();
        long result = syscall(number, arguments[0], arguments[1], arguments[2], arguments[3],
                              arguments[4], arguments[5]);
        /* What clone and its like made gets here too, and perhaps not before the next question. */
        if (getpid() == self) *answer = result == -1 ? errno : 0;
        _exit(0);
    }
    int status;
    /* None of them waits, so that patience is for busy machines only. */
    for (int patience = 10000; waitpid(child, &status, WNOHANG) == 0; patience--) {
        if (patience == 0) kill(child, SIGKILL);
        struct timespec moment = {.tv_nsec = 50000 + 1000000 * (patience < 9950)};
        nanosleep(&moment, NULL);
    }
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) return "waits";
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) return "killed";
    return *answer == EPERM ? "EPERM" : *answer == ENOSYS ? "ENOSYS" : "allowed";
}

static const struct {
    const char *name;
    long number;
} calls[] = {
#define CALL(name) {#name, SYS_##name},
#include "calls.h"
};

static int is_skipped(long number) {
    /* Those that would wait, flush all disks, or run on the stack of this process. */
    static const long skipped[] = {
#ifdef SYS_vfork
        SYS_vfork,
#endif
#ifdef SYS_pause
        SYS_pause,
#endif
        SYS_sync,
    };
    for (size_t at = 0; at < sizeof skipped / sizeof *skipped; at++)
        if (skipped[at] == number) return 1;
    return 0;
}

static void system_calls(void) {
    static const long senseless[6] = {-1, -1, -1, -1, -1, -1};
    static char known[1024];
    answer = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (size_t at = 0; at < sizeof calls / sizeof *calls; at++) {
        long number = calls[at].number;
        if (number < 0 || number > 1023) continue;
        known[number] = 1;
        if (!is_skipped(number))
            fprintf(out, "call %s\t%s\n", calls[at].name, verdict(number, senseless));
    }
    for (long number = 0; number < 480; number++)
        if (!known[number]) fprintf(out, "call %ld\t%s\n", number, verdict(number, senseless));
    for (long family = 0; family < 47; family++) {
        long arguments[6] = {family, SOCK_DGRAM, 0};
        fprintf(out, "call socket %ld\t%s\n", family, verdict(SYS_socket, arguments));
    }
    long raw[6] = {AF_INET, SOCK_RAW, 1};
    fprintf(out, "call socket raw\t%s\n", verdict(SYS_socket, raw));
    static const long personalities[] = {0, 8, 0x20000, 0x20008, 0x40000, 0x400000, 0xffffffff};
    for (int at = 0; at < 7; at++) {
        long arguments[6] = {personalities[at]};
        fprintf(out, "call personality %lx\t%s\n", arguments[0], verdict(SYS_personality, arguments));
    }
    static const struct {
        const char *name;
        long flag;
    } spaces[] = {{"none", 0},           {"cgroup", CLONE_NEWCGROUP}, {"ipc", CLONE_NEWIPC},
                  {"mnt", CLONE_NEWNS},  {"net", CLONE_NEWNET},       {"pid", CLONE_NEWPID},
                  {"user", CLONE_NEWUSER}, {"uts", CLONE_NEWUTS},     {"time", CLONE_NEWTIME}};
    for (int at = 0; at < 9; at++) {
        long arguments[6] = {spaces[at].flag};
        fprintf(out, "call unshare %s\t%s\n", spaces[at].name, verdict(SYS_unshare, arguments));
        arguments[0] |= SIGCHLD;
        if (spaces[at].flag != CLONE_NEWTIME)
            fprintf(out, "call clone %s\t%s\n", spaces[at].name, verdict(SYS_clone, arguments));
    }
    long trace[6] = {0};
    fprintf(out, "call ptrace traceme\t%s\n", verdict(SYS_ptrace, trace));
    long sti[6] = {0, 0x5412, (long)""};
    fprintf(out, "call ioctl tiocsti\t%s\n", verdict(SYS_ioctl, sti));
#ifdef __x86_64__
    fprintf(out, "call x32 getpid\t%s\n", verdict(0x40000000 | SYS_getpid, senseless));
    *answer = -1;
    pid_t child = fork();
    if (child == 0) {
        /* getpid and unshare by their numbers for programs of 32 bits. */
        int result = 20, other = 310;
        __asm__ volatile("int $0x80" : "+a"(result) : : "r8", "r9", "r10", "r11", "memory");
        __asm__ volatile("int $0x80" : "+a"(other) : "b"(0x10000000) : "r8", "r9", "r10", "r11", "memory");
        answer[0] = result, answer[1] = other;
        _exit(0);
    }
    waitpid(child, NULL, 0);
    fprintf(out, "call i386 getpid\t%s\n", answer[0] > 0 ? "allowed" : error(-answer[0]));
    fprintf(out, "call i386 unshare user\t%s\n", answer[1] >= 0 ? "allowed" : error(-answer[1]));
#endif
}

int main(int count, char **arguments) {
    char *text;
    size_t size;
    out = open_memstream(&text, &size);
    process();
    mounts();
    walk("/", 1);
    walk("/dev", 3);
    walk("/proc", 2);
    walk("/proc/self", 1);
    walk("/sys", 2);
    walk("/sys/fs", 1);
    walk("/sys/fs/cgroup", 1);
    walk("/sys/class/net", 1);
    walk("/sys/firmware", 1);
    system_calls();
    fclose(out);
    int to = count > 1 ? open(arguments[1], O_WRONLY | O_CREAT | O_TRUNC, 0644) : 1;
    for (size_t at = 0; at < size;) {
        ssize_t written = write(to, text + at, size - at);
        if (written <= 0) return 1;
        at += written;
    }
    return 0;
}
