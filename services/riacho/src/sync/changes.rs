//! What the system says of changes in folders. It may lose some: whoever listens looks at everything now and then.

use std::path::PathBuf;

use notify::{
    Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::sync::mpsc;

/// What changed.
#[derive(Debug)]
pub(crate) enum Change {
    /// Something at this path.
    At(PathBuf),
    /// Something somewhere: changes were lost.
    Anywhere,
}

/// Listens while it lives.
#[derive(Debug)]
pub(crate) struct Changes {
    received: mpsc::UnboundedReceiver<Change>,
    /// None where nothing can be heard.
    _watcher: Option<RecommendedWatcher>,
    /// Kept, so that a watcher that could not be made closes no channel.
    _sender: mpsc::UnboundedSender<Change>,
}

impl Changes {
    /// Listens to folders, each with what lies in it if so said. Also gives why nothing, or not everything, is heard.
    pub(crate) fn listen(folders: &[(PathBuf, bool)]) -> (Changes, Option<String>) {
        let (sender, received) = mpsc::unbounded_channel();
        let heard = sender.clone();
        let tell = move |event: notify::Result<Event>| tell(event, &heard);
        let config = Config::default().with_follow_symlinks(false);
        let (watcher, trouble) = match RecommendedWatcher::new(tell, config) {
            Err(error) => (None, Some(error.to_string())),
            Ok(mut watcher) => {
                let mut trouble = None;
                for (folder, deep) in folders {
                    let mode = if *deep { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
                    if let Err(error) = watcher.watch(folder, mode) {
                        trouble = Some(error.to_string());
                    }
                }
                (Some(watcher), trouble)
            }
        };
        (Changes { received, _watcher: watcher, _sender: sender }, trouble)
    }

    /// The next change. Can be dropped and called again.
    pub(crate) async fn next(&mut self) -> Change {
        // The channel is open as long as this lives.
        self.received.recv().await.unwrap_or(Change::Anywhere)
    }
}

fn tell(event: notify::Result<Event>, heard: &mpsc::UnboundedSender<Change>) {
    let changes = match event {
        Ok(event) if event.need_rescan() => vec![Change::Anywhere],
        Ok(event) => match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => paths(event),
            EventKind::Access(_) => Vec::new(),
            _ => paths(event),
        },
        Err(_) => vec![Change::Anywhere],
    };
    for change in changes {
        // Nobody may listen any more.
        let _ = heard.send(change);
    }
}

fn paths(event: Event) -> Vec<Change> {
    event.paths.into_iter().map(Change::At).collect()
}
