//! The thread that starts the children.
//!
//! A child asks the kernel to be killed when its parent ends, and the kernel takes the thread that
//! started it for the parent. A runtime's threads come and go; this one lives as long as the pool.

use std::{fs::File, io, path::PathBuf, process::Stdio, sync::mpsc};

use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
};

use crate::own_program;

/// What a child reads.
#[derive(Debug)]
pub enum Input {
    /// What the parent writes.
    Piped,
    /// A file that the parent has opened. The child can move in it.
    File(File),
}

/// What a child is told and reads, and who waits for it.
type Asked = (String, Input, oneshot::Sender<io::Result<Child>>);

/// A handle to the thread. It ends when the handle is dropped.
#[derive(Debug)]
pub struct Spawner {
    requests: mpsc::Sender<Asked>,
}

impl Spawner {
    /// Starts the thread. Children are `command`, or the running program where that is empty, with the hidden
    /// argument `subcommand`. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    ///
    /// When the running program has no path, or the thread cannot be started.
    pub fn start(command: Vec<PathBuf>, subcommand: &'static str) -> io::Result<Self> {
        let command = if command.is_empty() { vec![own_program()?] } else { command };
        let (requests, received) = mpsc::channel::<Asked>();
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        std::thread::Builder::new().name(format!("{subcommand}-spawner").chars().take(15).collect()).spawn(
            move || {
                let _runtime = runtime.enter();
                for (settings, input, answer) in received {
                    // Nobody waits any more: the child is dropped, which kills it.
                    let _ = answer.send(spawn(&command, subcommand, &settings, input));
                }
            },
        )?;
        Ok(Self { requests })
    }

    /// Starts a child that is told `settings`.
    ///
    /// # Errors
    ///
    /// When no process can be started.
    pub async fn spawn(&self, settings: &str, input: Input) -> io::Result<Child> {
        let (answer, child) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts child processes is gone");
        self.requests.send((settings.to_owned(), input, answer)).map_err(|_| gone())?;
        child.await.map_err(|_| gone())?
    }
}

fn spawn(command: &[PathBuf], subcommand: &str, settings: &str, input: Input) -> io::Result<Child> {
    let [program, first @ ..] = command else { return Err(io::ErrorKind::InvalidInput.into()) };
    Command::new(program)
        .arg0(std::env::args_os().next().unwrap_or_else(|| program.into()))
        .args(first)
        .args([subcommand, settings])
        // No secret of the parent's, and one arena: limits are on address space.
        .env_clear()
        .env("MALLOC_ARENA_MAX", "1")
        // Processes are counted, so a recogniser computes on one processor.
        .env("OMP_THREAD_LIMIT", "1")
        .current_dir("/")
        .stdin(match input {
            Input::Piped => Stdio::piped(),
            Input::File(file) => file.into(),
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C is for the parent, which ends its children itself.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}
