//! Starts children that die with this process.
//!
//! All children come from one thread that lives as long as the process: the kernel sends the parent-death signal
//! when the thread that forked ends, not when the process does. The only `unsafe` of the crate is here.

#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::thread;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::{getpid, getppid, setgid, setgroups, setuid};

use crate::account::Account;

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts a command of this account, in a process group of its own, that gets `death_signal` when this process ends in
/// any way.
///
/// # Errors
/// When it cannot be started.
pub fn spawn_child(command: Command, death_signal: Signal) -> io::Result<Child> {
    spawn(command, None, death_signal)
}

/// Starts a command in a process group of its own, so that Ctrl-C on the terminal reaches only this process,
/// which then stops its children in order. The child gets `death_signal` when this process ends in any way, and
/// runs under `account` if one is given; its working directory is entered before that, while root still may.
pub(crate) fn spawn(
    mut command: Command,
    account: Option<Account>,
    death_signal: Signal,
) -> io::Result<Child> {
    let parent = getpid();
    let prepare = move || {
        if let Some(account) = &account {
            setgroups(&[])?;
            setgid(account.gid)?;
            setuid(account.uid)?;
        }
        // After setuid, which clears it.
        nix::sys::prctl::set_pdeathsig(death_signal)?;
        if getppid() != parent {
            // The parent died before the signal was set, so nobody would ever stop this child.
            return Err(io::Error::from(Errno::ESRCH));
        }
        Ok(())
    };
    command.process_group(0);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes plain system calls
    // on values that were computed before the fork, takes no lock and allocates nothing.
    unsafe { command.pre_exec(prepare) };
    let (answer, child) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts servers is gone");
    orders().lock().unwrap_or_else(PoisonError::into_inner).send((command, answer)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

fn orders() -> &'static Mutex<mpsc::Sender<Order>> {
    static ORDERS: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    ORDERS.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Order>();
        // Never ends: the sender is static. If the thread cannot be made, `spawn` reports it as gone.
        let work = move || {
            for (mut command, answer) in receiver {
                let _ = answer.send(command.spawn());
            }
        };
        let _ = thread::Builder::new().name("riacho-spawner".to_owned()).spawn(work);
        Mutex::new(sender)
    })
}
