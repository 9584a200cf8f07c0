//! The thread that starts parser processes.
//!
//! A child asks the kernel to be killed when its parent ends, and the kernel takes the thread that
//! started it for the parent. A runtime's threads come and go; this one lives as long as the pool.

use std::{io, path::PathBuf, process::Stdio, sync::mpsc};

use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
};

type Answer = oneshot::Sender<io::Result<Child>>;

/// A handle to the thread. It ends when the handle is dropped.
pub(super) struct Spawner {
    requests: mpsc::Sender<Answer>,
}

impl Spawner {
    pub(super) fn start(command: Vec<PathBuf>, arguments: [String; 2]) -> io::Result<Self> {
        let (requests, received) = mpsc::channel::<Answer>();
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        std::thread::Builder::new().name("parser-spawner".to_owned()).spawn(move || {
            let _runtime = runtime.enter();
            for answer in received {
                // Nobody waits any more: the child is dropped, which kills it.
                let _ = answer.send(spawn(&command, &arguments));
            }
        })?;
        Ok(Self { requests })
    }

    pub(super) async fn spawn(&self) -> io::Result<Child> {
        let (answer, child) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts parser processes is gone");
        self.requests.send(answer).map_err(|_| gone())?;
        child.await.map_err(|_| gone())?
    }
}

fn spawn(command: &[PathBuf], arguments: &[String]) -> io::Result<Child> {
    let [program, first @ ..] = command else { return Err(io::ErrorKind::InvalidInput.into()) };
    Command::new(program)
        .arg0(std::env::args_os().next().unwrap_or_else(|| program.into()))
        .args(first)
        .args(arguments)
        // No secret of the parent's, and one arena: limits are on address space.
        .env_clear()
        .env("MALLOC_ARENA_MAX", "1")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C is for the parent, which ends its children itself.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}
