// SPDX-License-Identifier: Apache-2.0
#include "common/sandbox/calls.h"

#include <asm/ioctls.h>
#include <linux/nsfs.h>
#include <linux/prctl.h>
#include <linux/sockios.h>
#include <sched.h>
#include <sys/socket.h>

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41  // glibc names its arenas with it since 2.38
#endif

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define QANAT_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define QANAT_SANITIZED 1
#endif

namespace qanat::sandbox {
namespace {

constexpr int kCommon[] = {
    // Bytes.
    SYS_read,
    SYS_write,
    SYS_readv,
    SYS_writev,
    SYS_pread64,
    SYS_pwrite64,
    SYS_close,
    SYS_lseek,
    SYS_fcntl,
    SYS_dup,
    SYS_dup3,
    SYS_pipe2,
    // Sockets (socket() itself is checked).
    SYS_socketpair,
    SYS_bind,
    SYS_listen,
    SYS_accept,
    SYS_accept4,
    SYS_connect,
    SYS_getsockopt,
    SYS_setsockopt,
    SYS_getsockname,
    SYS_getpeername,
    SYS_shutdown,
    SYS_sendto,
    SYS_recvfrom,
    SYS_sendmsg,
    SYS_recvmsg,
    SYS_sendmmsg,
    SYS_recvmmsg,
    // Waiting.
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_ppoll,
    SYS_pselect6,
    SYS_eventfd2,
    SYS_signalfd4,
    SYS_timerfd_create,
    SYS_timerfd_settime,
    SYS_timerfd_gettime,
    SYS_nanosleep,
    SYS_clock_nanosleep,
    SYS_futex,
    SYS_restart_syscall,
    SYS_inotify_init1,
    SYS_inotify_add_watch,
    SYS_inotify_rm_watch,
    // Files: tokens, roots, configuration, resolv.conf, /proc/self; the saved state.
    SYS_openat,
    SYS_fstat,
    SYS_newfstatat,
    SYS_statx,
    SYS_fstatfs,
    SYS_faccessat,
    SYS_readlinkat,
    SYS_getdents64,
    SYS_getcwd,
    SYS_fsync,
    SYS_fdatasync,
    SYS_ftruncate,
    SYS_flock,
    SYS_renameat,
    SYS_renameat2,
    SYS_unlinkat,
    SYS_mkdirat,
    SYS_fchmod,
    SYS_fchmodat,
    SYS_umask,
    // Memory.
    SYS_mmap,
    SYS_munmap,
    SYS_mprotect,
    SYS_mremap,
    SYS_madvise,
    SYS_brk,
    SYS_mlock,
    SYS_munlock,
    SYS_mincore,
    SYS_membarrier,
    // Threads (clone() is checked), signals.
    SYS_set_robust_list,
    SYS_set_tid_address,
    SYS_exit,
    SYS_exit_group,
    SYS_gettid,
    SYS_getpid,
    SYS_getppid,
    SYS_tgkill,
    SYS_sched_yield,
    SYS_sched_getaffinity,
    SYS_sched_setaffinity,
    SYS_sched_getparam,
    SYS_sched_getscheduler,
    SYS_getcpu,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_rt_sigpending,
    SYS_rt_sigtimedwait,
    SYS_sigaltstack,
    // Looking.
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_gettimeofday,
    SYS_getrandom,
    SYS_uname,
    SYS_sysinfo,
    SYS_getrusage,
    SYS_times,
    SYS_prlimit64,
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
    SYS_getgroups,
    SYS_capget,
#ifdef SYS_rseq
    SYS_rseq,
#endif
#ifdef SYS_faccessat2
    SYS_faccessat2,
#endif
#ifdef SYS_close_range
    SYS_close_range,
#endif
#ifdef SYS_epoll_pwait2
    SYS_epoll_pwait2,
#endif
#ifdef SYS_getrlimit
    SYS_getrlimit,
#endif
#ifdef __x86_64__  // the older forms of the above, which newer architectures do not have
    SYS_open,
    SYS_stat,
    SYS_lstat,
    SYS_access,
    SYS_readlink,
    SYS_getdents,
    SYS_dup2,
    SYS_pipe,
    SYS_poll,
    SYS_select,
    SYS_epoll_create,
    SYS_epoll_wait,
    SYS_eventfd,
    SYS_rename,
    SYS_unlink,
    SYS_mkdir,
    SYS_chmod,
    SYS_time,
    SYS_arch_prctl,
#endif
};

constexpr uint32_t kNetworkNamespace[] = {CLONE_NEWNET};  // 0 would mean whatever the fd is
#ifndef QANAT_SANITIZED
constexpr uint32_t kThread[] = {CLONE_THREAD | CLONE_VM | CLONE_SIGHAND};
#endif
constexpr uint32_t kFamilies[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};
constexpr uint32_t kQueries[] = {
    NS_GET_NSTYPE,           // whether an fd is a network namespace
    TCGETS,                  // isatty()
    FIONREAD,      FIONBIO,  // libc's resolver
    TIOCOUTQ,      SIOCGIFINDEX, SIOCGIFNAME,
};
constexpr uint32_t kProcess[] = {
    PR_SET_NAME,     PR_GET_NAME,         PR_SET_VMA,
    PR_GET_DUMPABLE, PR_GET_NO_NEW_PRIVS, PR_CAPBSET_READ,
#ifdef QANAT_SANITIZED
    PR_SET_DUMPABLE, PR_SET_PTRACER,      PR_SET_PDEATHSIG,  // leaks are searched by a tracer
#endif
};

constexpr Checked kChecked[] = {
    {SYS_setns, 1, kNetworkNamespace}, {SYS_socket, 0, kFamilies},
    {SYS_ioctl, 1, kQueries},          {SYS_prctl, 0, kProcess},
#ifndef QANAT_SANITIZED
    {SYS_clone, 0, kThread, true},
#endif
};

#ifdef QANAT_SANITIZED
constexpr int kSanitizer[] = {
    SYS_clone,     SYS_ptrace, SYS_wait4,       SYS_waitid,           SYS_execve,
    SYS_kill,      SYS_tkill,  SYS_personality, SYS_process_vm_readv, SYS_msync,
    SYS_setrlimit, SYS_chdir,  SYS_setpgid,     SYS_rt_sigqueueinfo,  SYS_rt_sigsuspend,
#ifdef __x86_64__
    SYS_fork,      SYS_vfork,
#endif
};
#endif

}  // namespace

std::span<const int> CommonCalls() { return kCommon; }
std::span<const Checked> CheckedCalls() { return kChecked; }
std::span<const int> SanitizerCalls() {
#ifdef QANAT_SANITIZED
  return kSanitizer;
#else
  return {};
#endif
}

}  // namespace qanat::sandbox
