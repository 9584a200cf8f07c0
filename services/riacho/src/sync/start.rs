//! The start of an ingest: the collection, the state that belongs to it, and what the server still has of it.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use riacho_domain::{DocumentId, State as DocumentState};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Options, Scope,
    job::Jobs,
    run::Sync,
    state::{self, Known, State},
};
use crate::{
    client::{Client, Error},
    exit::{Failure, Kind},
    ingest::Summary,
    output::{Output, to_stderr},
};

/// The collection of uploads that name none.
const DEFAULT_COLLECTION: &str = "default";
/// How long a server may be away for an ingest that does not watch.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the state is.
#[derive(Debug, Clone)]
pub(crate) enum StateAt {
    /// In the user's folder for state.
    Default,
    /// In this file.
    File(PathBuf),
    /// Nothing is kept.
    Nowhere,
}

/// How an ingest ended.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) summary: Summary,
    pub(crate) was_interrupted: bool,
}

/// Ingests until everything is done, or with `watch` until `stop`.
///
/// # Errors
/// When the server or the state cannot be used. A file that is refused or fails is counted, and no error.
pub(crate) async fn begin(
    client: &Client,
    mut scope: Scope,
    mut options: Options,
    state: StateAt,
    output: Output,
    stop: CancellationToken,
) -> anyhow::Result<Begun> {
    let jobs = Jobs {
        client: client.clone(),
        target: options.target.clone(),
        by_path: options.by_path,
        patience: (!options.watch).then_some(PATIENCE),
        stop: stop.clone(),
        cut: CancellationToken::new(),
        said: Arc::default(),
    };
    let interrupted = || Begun { summary: Summary::default(), was_interrupted: true };
    let name = options.target.collection.as_deref().unwrap_or(DEFAULT_COLLECTION).to_owned();
    let collection = match state {
        StateAt::Nowhere => None,
        _ => match tokio::select! {
            found = collection(&jobs, &name) => found?,
            // A server that does not answer must not hold up the end.
            () = stop.cancelled() => return Ok(interrupted()),
        } {
            Wanted::Is(id) => Some(id),
            Wanted::Unseen => {
                options.wait = false;
                None
            }
            Wanted::Stopped => return Ok(interrupted()),
        },
    };
    let mut state = match collection {
        Some(id) => open(&mut scope, &options, &state, id)?,
        None => State::in_memory(),
    };
    let ends = tokio::select! {
        ends = compare(&jobs, &mut state, &name) => ends?,
        () = stop.cancelled() => return Ok(interrupted()),
    };
    match ends {
        Some(ends) => Sync::new(jobs, scope, options, state, ends, output).run().await,
        None => Ok(interrupted()),
    }
}

/// The collection that is wanted.
enum Wanted {
    Is(Uuid),
    /// The key may not see or make it.
    Unseen,
    Stopped,
}

/// The id of the collection, which is made where it is not there.
async fn collection(jobs: &Jobs, name: &str) -> anyhow::Result<Wanted> {
    for _ in 0..2 {
        let Some(found) = jobs.patiently(|| jobs.client.collections()).await.map_err(Error::into_failure)?
        else {
            return Ok(Wanted::Stopped);
        };
        match found {
            Ok(found) => {
                if let Some(found) = found.into_iter().find(|collection| collection.name == name) {
                    return Ok(Wanted::Is(found.id));
                }
            }
            Err(Error::Refused { status, .. }) if status == reqwest::StatusCode::FORBIDDEN => {
                to_stderr(
                    "riacho: no state is kept, and documents are not followed: the key may not read (scope documents:read)",
                );
                return Ok(Wanted::Unseen);
            }
            Err(error) => return Err(error.into_failure()),
        }
        let made =
            jobs.patiently(|| jobs.client.create_collection(name)).await.map_err(Error::into_failure)?;
        match made {
            None => return Ok(Wanted::Stopped),
            Some(Ok(made)) => return Ok(Wanted::Is(made.id)),
            // Somebody else made it meanwhile.
            Some(Err(Error::Refused { status, .. })) if status == reqwest::StatusCode::CONFLICT => {}
            Some(Err(error)) => return Err(error.into_failure()),
        }
    }
    Ok(Wanted::Unseen)
}

fn open(scope: &mut Scope, options: &Options, at: &StateAt, collection: Uuid) -> anyhow::Result<State> {
    let usage = |text: String| Failure::error(Kind::Usage, text);
    let path = match at {
        StateAt::File(path) => path.clone(),
        _ => state::default_path(collection, scope, options.by_path).map_err(usage)?,
    };
    let opened = State::open(&path, collection).map_err(|error| usage(error.to_string()))?;
    if let Some(old) = opened.of_another {
        to_stderr(&format!(
            "riacho: the state in {} is of another server, tenant or collection, and is not used; it is {} now, and a new one takes its place",
            path.display(),
            old.display()
        ));
    }
    scope.leave_out(State::files(&path));
    Ok(opened.state)
}

/// Forgets the files whose documents the server has no longer, or with a version of somebody else, and gives the states of
/// the others; none where the process is to end.
async fn compare(
    jobs: &Jobs,
    state: &mut State,
    collection: &str,
) -> anyhow::Result<Option<HashMap<DocumentId, DocumentState>>> {
    let wanted: HashSet<DocumentId> = state.iter().map(|(_, known)| known.document).collect();
    let (mut found, mut cursor) = (HashMap::new(), None::<String>);
    while found.len() < wanted.len() {
        let page = jobs.patiently(|| jobs.client.documents(collection, cursor.as_deref())).await;
        let Some(page) = page.map_err(Error::into_failure)? else { return Ok(None) };
        let page = page.map_err(Error::into_failure)?;
        found.extend(
            page.documents
                .into_iter()
                .filter(|d| wanted.contains(&d.id))
                .map(|d| (d.id, (d.version, d.state))),
        );
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    let mut sent = Vec::new();
    let mut is_as_known = |path: &String, known: &Known| {
        let Some((version, _)) = found.get(&known.document) else { return false };
        // The next version, where the answer to an upload was lost, may be this ingest's own. Sent again, it shows.
        let is_next = state.is_sending(path) && *version == known.version + 1;
        if is_next {
            sent.push(path.clone());
        }
        is_next || known.version == 0 || known.version == *version
    };
    let others = state.iter().filter(|(path, known)| !is_as_known(path, known));
    let others: Vec<String> = others.map(|(path, _)| path.clone()).collect();
    sent.iter().for_each(|path| state.doubt(path));
    for path in others {
        state.remove(&path)?;
    }
    Ok(Some(found.into_iter().map(|(document, (_, state))| (document, state)).collect()))
}
