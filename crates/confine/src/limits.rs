//! What the child takes from itself before it meets a foreign file.
//!
//! The one place of the crate with `unsafe`: these are system calls without a safe wrapper.
#![allow(unsafe_code)]

use std::{io, mem, ptr, time::Duration};

use libc::{c_int, c_long};

use crate::OUT_OF_MEMORY_STATUS;

/// A crash with less than this left to map counts as lack of memory.
const HEADROOM_BYTES: usize = 64 << 20;

/// Sets the limits, and sees to it that the child ends with its parent: the process `parent`, which must be
/// alive. The child may map `memory_bytes`.
///
/// # Errors
///
/// When a limit cannot be set, or the parent is gone.
pub fn limit(parent: u32, memory_bytes: u64) -> io::Result<()> {
    // Where memory runs out, the kernel takes a parser and not a service. Without /proc it chooses by size.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    // SAFETY: plain system calls on integers.
    unsafe {
        checked(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        if u32::try_from(libc::getppid()) != Ok(parent) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        checked(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        checked(libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0))?;
    }
    rlimit(libc::RLIMIT_AS, memory_bytes)?;
    rlimit(libc::RLIMIT_FSIZE, 0)?;
    rlimit(libc::RLIMIT_NOFILE, 64)?;
    rlimit(libc::RLIMIT_CORE, 0)?;
    tell_lack_of_memory()
}

fn checked(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn rlimit(resource: libc::__rlimit_resource_t, value: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: `limit` lives through the call.
    checked(unsafe { libc::setrlimit(resource, &limit) })
}

/// The CPU time the process has used.
#[must_use]
pub fn cpu_used() -> Duration {
    // SAFETY: an all-zero rusage is valid, and it lives through the call.
    let usage = unsafe {
        let mut usage: libc::rusage = mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let time = |t: libc::timeval| {
        Duration::from_secs(t.tv_sec.unsigned_abs()) + Duration::from_micros(t.tv_usec.unsigned_abs())
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// Ends the process with SIGXCPU once it has used this much CPU time in all, to the next second.
pub fn allow_cpu(total: Duration) {
    let limit = libc::rlimit { rlim_cur: total.as_secs() + 1, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` lives through the call. It fails only for values that are no limit.
    unsafe { libc::setrlimit(libc::RLIMIT_CPU, &limit) };
}

/// Lets crashes for lack of memory leave with a status of their own.
fn tell_lack_of_memory() -> io::Result<()> {
    extern "C" fn on_crash(signal: c_int) {
        // SAFETY: mmap, _exit and signal are safe in a signal handler. The mapping is never used.
        unsafe {
            let probe = libc::mmap(
                ptr::null_mut(),
                HEADROOM_BYTES,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            if probe == libc::MAP_FAILED {
                libc::_exit(OUT_OF_MEMORY_STATUS);
            }
            // Returning runs into the same fault again, this time without a handler.
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    for signal in [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGTRAP] {
        // SAFETY: the handler is an `extern "C"` function of the right type; the action lives
        // through the call.
        unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = on_crash as extern "C" fn(c_int) as usize;
            action.sa_flags = libc::SA_ONSTACK;
            checked(libc::sigaction(signal, &action, ptr::null_mut()))?;
        }
    }
    Ok(())
}

/// Allows only the system calls that computing needs: no file is opened from here on, no socket, no
/// process, and no memory becomes code.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) fn close_doors() -> io::Result<()> {
    let filter = filter::program();
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program and the instructions it points to live through the call; the kernel copies them.
    checked(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) })
}

/// On other processors the limits have to do.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn close_doors() -> io::Result<()> {
    Ok(())
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod filter {
    //! The filter of system calls (seccomp), in classic BPF.

    use libc::sock_filter as Instruction;

    use super::c_long;

    #[cfg(target_arch = "x86_64")]
    const ARCHITECTURE: u32 = 0xc000_003e;
    #[cfg(target_arch = "aarch64")]
    const ARCHITECTURE: u32 = 0xc000_00b7;

    // Offsets into the kernel's `seccomp_data`; arguments are 64 bits, their low halves are looked at.
    const NUMBER: u32 = 0;
    const ARCH: u32 = 4;
    const fn argument(index: u32) -> u32 {
        16 + 8 * index
    }

    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const JUMP_IF_ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;

    const ALLOW: u32 = 0x7fff_0000;
    const KILL: u32 = 0x8000_0000;
    const fn refuse(errno: i32) -> u32 {
        0x0005_0000 | errno as u32
    }

    /// Allowed as they are: memory, threads, time, signals of one's own, the open streams.
    const PLAIN: [c_long; 36] = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_lseek,
        libc::SYS_fstat,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_set_robust_list,
        libc::SYS_rseq,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_clock_getres,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_gettimeofday,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_getrusage,
        libc::SYS_membarrier,
        libc::SYS_sysinfo,
        libc::SYS_uname,
        libc::SYS_ppoll,
    ];

    pub(super) fn program() -> Vec<Instruction> {
        let own_pid = std::process::id();
        let mut program = vec![load(ARCH), jump(JUMP_IF_EQUAL, ARCHITECTURE, 1, 0), give(KILL), load(NUMBER)];
        for number in PLAIN {
            program.extend([jump(JUMP_IF_EQUAL, call(number), 0, 1), give(ALLOW)]);
        }
        // A thread, never a process.
        only(&mut program, libc::SYS_clone, argument(0), JUMP_IF_ANY_BIT, libc::CLONE_THREAD as u32, true);
        // The C library falls back to clone, whose flags can be seen here.
        program.extend([jump(JUMP_IF_EQUAL, call(libc::SYS_clone3), 0, 1), give(refuse(libc::ENOSYS))]);
        // Memory that is no code.
        for number in [libc::SYS_mmap, libc::SYS_mprotect] {
            only(&mut program, number, argument(2), JUMP_IF_ANY_BIT, libc::PROT_EXEC as u32, false);
        }
        // Signals to oneself, limits of oneself.
        only(&mut program, libc::SYS_tgkill, argument(0), JUMP_IF_EQUAL, own_pid, true);
        only(&mut program, libc::SYS_prlimit64, argument(0), JUMP_IF_EQUAL, 0, true);
        program.push(give(refuse(libc::EPERM)));
        program
    }

    /// Allows a call if the test of one argument comes out as `wanted`, and refuses it otherwise.
    fn only(program: &mut Vec<Instruction>, number: c_long, at: u32, test: u16, value: u32, wanted: bool) {
        let (then, or) = if wanted { (0, 1) } else { (1, 0) };
        program.extend([
            jump(JUMP_IF_EQUAL, call(number), 0, 4),
            load(at),
            jump(test, value, then, or),
            give(ALLOW),
            give(refuse(libc::EPERM)),
        ]);
    }

    fn call(number: c_long) -> u32 {
        number as u32
    }

    fn load(at: u32) -> Instruction {
        Instruction { code: LOAD, jt: 0, jf: 0, k: at }
    }

    fn jump(test: u16, value: u32, then: u8, or: u8) -> Instruction {
        Instruction { code: test, jt: then, jf: or, k: value }
    }

    fn give(answer: u32) -> Instruction {
        Instruction { code: RETURN, jt: 0, jf: 0, k: answer }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// What the filter answers to a call, by the rules of classic BPF.
        fn answer(number: c_long, arguments: [u32; 3]) -> u32 {
            let program = program();
            let (mut at, mut loaded) = (0, 0);
            loop {
                let instruction = program[at];
                at += 1;
                let holds = match instruction.code {
                    LOAD => {
                        loaded = match instruction.k {
                            NUMBER => call(number),
                            ARCH => ARCHITECTURE,
                            k => arguments[(k as usize - 16) / 8],
                        };
                        continue;
                    }
                    RETURN => return instruction.k,
                    JUMP_IF_EQUAL => loaded == instruction.k,
                    _ => loaded & instruction.k != 0,
                };
                at += usize::from(if holds { instruction.jt } else { instruction.jf });
            }
        }

        #[test]
        fn a_child_can_compute_and_nothing_else() {
            let refused = refuse(libc::EPERM);
            for number in [
                libc::SYS_openat,
                libc::SYS_socket,
                libc::SYS_connect,
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_ptrace,
                libc::SYS_kill,
                libc::SYS_unlinkat,
                libc::SYS_io_uring_setup,
                libc::SYS_prctl,
                libc::SYS_memfd_create,
                libc::SYS_bpf,
                libc::SYS_setrlimit,
                libc::SYS_pidfd_open,
            ] {
                assert_eq!(answer(number, [0; 3]), refused, "{number}");
            }
            for number in PLAIN {
                assert_eq!(answer(number, [0; 3]), ALLOW, "{number}");
            }
            let (thread, exec) = (libc::CLONE_THREAD as u32, libc::PROT_EXEC as u32);
            assert_eq!(answer(libc::SYS_clone, [thread, 0, 0]), ALLOW);
            assert_eq!(answer(libc::SYS_clone, [libc::SIGCHLD as u32, 0, 0]), refused);
            assert_eq!(answer(libc::SYS_clone3, [0; 3]), refuse(libc::ENOSYS));
            assert_eq!(answer(libc::SYS_mmap, [0, 0, 3]), ALLOW);
            assert_eq!(answer(libc::SYS_mprotect, [0, 0, 1 | exec]), refused);
            assert_eq!(answer(libc::SYS_tgkill, [std::process::id(), 0, 0]), ALLOW);
            assert_eq!(answer(libc::SYS_tgkill, [1, 0, 0]), refused);
            assert_eq!(answer(libc::SYS_prlimit64, [1, 0, 0]), refused);
        }
    }
}
