//! The thread that starts the children.
//!
//! A child asks the kernel to be killed when its parent ends, and the kernel takes the thread that
//! started it for the parent. A runtime's threads come and go; this one lives as long as the pool.

use std::{io, path::PathBuf, process::Stdio, sync::mpsc};

use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
};

use crate::wire::SUBCOMMAND;

/// What a child is told, and who waits for it.
type Asked = (String, oneshot::Sender<io::Result<Child>>);

/// A handle to the thread. It ends when the handle is dropped.
pub(super) struct Spawner {
    requests: mpsc::Sender<Asked>,
}

impl Spawner {
    pub(super) fn start(command: Vec<PathBuf>) -> io::Result<Self> {
        let (requests, received) = mpsc::channel::<Asked>();
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        std::thread::Builder::new().name("parser-spawner".to_owned()).spawn(move || {
            let _runtime = runtime.enter();
            for (settings, answer) in received {
                // Nobody waits any more: the child is dropped, which kills it.
                let _ = answer.send(spawn(&command, &settings));
            }
        })?;
        Ok(Self { requests })
    }

    /// Starts a child that is told `settings`.
    pub(super) async fn spawn(&self, settings: &str) -> io::Result<Child> {
        let (answer, child) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts parser processes is gone");
        self.requests.send((settings.to_owned(), answer)).map_err(|_| gone())?;
        child.await.map_err(|_| gone())?
    }
}

fn spawn(command: &[PathBuf], settings: &str) -> io::Result<Child> {
    let [program, first @ ..] = command else { return Err(io::ErrorKind::InvalidInput.into()) };
    Command::new(program)
        .arg0(std::env::args_os().next().unwrap_or_else(|| program.into()))
        .args(first)
        .args([SUBCOMMAND, settings])
        // No secret of the parent's, and one arena: limits are on address space.
        .env_clear()
        .env("MALLOC_ARENA_MAX", "1")
        // Processes are counted, so a recogniser computes on one processor.
        .env("OMP_THREAD_LIMIT", "1")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C is for the parent, which ends its children itself.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}
