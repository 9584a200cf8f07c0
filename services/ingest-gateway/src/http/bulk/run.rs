//! The acceptance of many documents: some at once, each as if it had come alone, and their fates in order.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::http::HeaderMap;
use bytes::Bytes;
use riacho_domain::{TenantId, UploadId};
use riacho_objects::{Key, Stored};
use riacho_store::{Limits, Target};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinHandle,
};

use super::shapes::{AnswerLine, ItemBody, Place, SummaryBody};
use crate::{
    http::{
        App,
        names::{clean_filename, content_type},
        problem::Problem,
        settings::Settings,
        trace::Trace,
        upload::{Received, accept_of},
    },
    rates::Counted,
};

/// Who sends, and what is said for all documents.
pub(super) struct Intake {
    pub(super) app: App,
    pub(super) tenant: TenantId,
    pub(super) limits: Limits,
    pub(super) trace: Trace,
    /// What a document does not say itself.
    pub(super) settings: Settings,
}

/// A document on its way in.
pub(super) struct Item {
    pub(super) place: Place,
    pub(super) name: String,
    pub(super) content_type: Option<String>,
    pub(super) settings: Settings,
    pub(super) body: Body,
}

/// The bytes of a document.
pub(super) enum Body {
    /// They are here.
    Here(Bytes),
    /// They are in the object store already.
    Stored(Key, Stored),
}

/// An item of the answer, made or in the making.
enum Fate {
    Known(ItemBody),
    Coming(Place, String, JoinHandle<ItemBody>),
}

/// Takes items in. The reader of a request holds it.
pub(super) struct Run {
    intake: Arc<Intake>,
    fates: mpsc::Sender<Fate>,
    places: Arc<Semaphore>,
    concurrency: u32,
    /// The client is gone when nobody listens any more.
    lines: mpsc::UnboundedSender<Bytes>,
    /// A server was away: the rest would only wait for it too.
    trouble: Arc<Mutex<Option<Problem>>>,
    /// External ids that are written just now. A second version of one comes after the first.
    writing: HashSet<String>,
}

/// Why no more items are taken.
pub(super) enum Stop {
    /// The client is gone.
    Unheard,
    /// What the summary says.
    Because(Problem),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Stop::Because(problem)
    }
}

/// Starts to take in what `read` reads, and gives the lines of the answer. Reading does not wait for whoever
/// reads the answer: many clients read nothing before they have sent everything. What waits is bounded by the
/// number of items.
pub(super) fn start<F, R>(
    intake: Intake,
    place: OwnedSemaphorePermit,
    read: F,
) -> mpsc::UnboundedReceiver<Bytes>
where
    F: FnOnce(Run) -> R + Send + 'static,
    R: Future<Output = Result<(), Stop>> + Send,
{
    let concurrency = intake.app.config().bulk.concurrency.clamp(1, 256);
    let (fates, coming) = mpsc::channel(concurrency);
    let (lines, answer) = mpsc::unbounded_channel();
    let trouble = Arc::new(Mutex::new(None));
    let run = Run {
        intake: Arc::new(intake),
        fates,
        places: Arc::new(Semaphore::new(concurrency)),
        concurrency: u32::try_from(concurrency).unwrap_or(1),
        lines: lines.clone(),
        trouble: Arc::clone(&trouble),
        writing: HashSet::new(),
    };
    tokio::spawn(async move {
        let _place = place;
        let reading = tokio::spawn(async move { read(run).await });
        let summary = tell(coming, &lines).await;
        let stopped = match reading.await {
            Ok(Ok(())) => trouble.lock().unwrap_or_else(PoisonError::into_inner).take(),
            Ok(Err(Stop::Because(problem))) => Some(problem),
            Ok(Err(Stop::Unheard)) => return,
            Err(error) => Some(Problem::internal(&error)),
        };
        let mut summary = summary;
        summary.end(stopped);
        send(&lines, &AnswerLine::Summary { summary });
    });
    answer
}

/// Says what became of the items, in their order.
async fn tell(mut coming: mpsc::Receiver<Fate>, lines: &mpsc::UnboundedSender<Bytes>) -> SummaryBody {
    let mut summary = SummaryBody::default();
    while let Some(fate) = coming.recv().await {
        let item = match fate {
            Fate::Known(item) => item,
            Fate::Coming(place, name, task) => match task.await {
                Ok(item) => item,
                Err(error) => ItemBody::refused(place, Some(name), Problem::internal(&error)),
            },
        };
        summary.add(&item);
        send(lines, &AnswerLine::Item(item));
    }
    summary
}

fn send(lines: &mpsc::UnboundedSender<Bytes>, line: &AnswerLine) {
    // Lines are made of texts and numbers, which JSON can hold.
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    // Nobody may listen any more; whoever reads sees it.
    let _ = lines.send(text.into());
}

impl Run {
    pub(super) fn app(&self) -> &App {
        &self.intake.app
    }

    /// A key for an original.
    pub(super) fn new_key(&self) -> Key {
        Key::original(&self.intake.tenant, UploadId::new())
    }

    /// Whether more items are to be read.
    fn goes_on(&self) -> Result<(), Stop> {
        if self.lines.is_closed() {
            return Err(Stop::Unheard);
        }
        if self.app().stopping().is_cancelled() {
            return Err(Problem::unavailable("the gateway stops").into());
        }
        match self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            Some(problem) => Err(problem.into()),
            None => Ok(()),
        }
    }

    /// Says what became of an item that is not accepted.
    pub(super) async fn say(&self, item: ItemBody) -> Result<(), Stop> {
        self.goes_on()?;
        self.fates.send(Fate::Known(item)).await.map_err(|_| Stop::Unheard)
    }

    /// Says that an item is refused. One that is refused for a server that is away ends the request.
    pub(super) async fn refuse(
        &self,
        place: Place,
        name: Option<String>,
        problem: Problem,
    ) -> Result<(), Stop> {
        let trouble = problem.is_of_server().then(|| problem.clone());
        self.say(ItemBody::refused(place, name, problem)).await?;
        if let Some(trouble) = trouble {
            self.trouble.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(trouble);
        }
        Ok(())
    }

    /// Takes an upload of the tenant's rate, and waits for it within bounds: whoever sends is held up
    /// meanwhile.
    ///
    /// # Errors
    /// The inner one is of the item.
    pub(super) async fn pay(&self) -> Result<Result<(), Problem>, Stop> {
        let mut left = Duration::from_secs(self.app().config().bulk.rate_wait_seconds);
        loop {
            self.goes_on()?;
            let (intake, app) = (&self.intake, self.app());
            let taken =
                app.rates().take(app.streams(), &intake.tenant, Counted::Uploads, &intake.limits, None);
            let Err(problem) = taken.await else { return Ok(Ok(())) };
            let wait = Duration::from_secs(problem.retry_after_seconds().unwrap_or(1));
            match left.checked_sub(wait) {
                None => return Ok(Err(problem)),
                Some(rest) => left = rest,
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.lines.closed() => {}
                () = app.stopping().cancelled() => {}
            }
        }
    }

    /// Takes an item in that was paid for. Waits for a place, not for the end of it.
    pub(super) async fn take(&mut self, item: Item) -> Result<(), Stop> {
        if let Err(stop) = self.goes_on() {
            if let Body::Stored(key, _) = item.body {
                self.app().discard(key);
            }
            return Err(stop);
        }
        if let Some(id) = &item.settings.external_id {
            if self.writing.contains(id) {
                let all = self.places.acquire_many(self.concurrency).await;
                drop(all);
                self.writing.clear();
            }
            self.writing.insert(id.clone());
        }
        let Ok(permit) = Arc::clone(&self.places).acquire_owned().await else { return Err(Stop::Unheard) };
        let (intake, trouble) = (Arc::clone(&self.intake), Arc::clone(&self.trouble));
        let (place, name) = (item.place, item.name.clone());
        let task = tokio::spawn(async move {
            let _permit = permit;
            let name = item.name.clone();
            match take_in(&intake, item).await {
                Ok(accepted) => ItemBody::accepted(place, name, &accepted),
                Err(problem) => {
                    if problem.is_of_server() {
                        let mut trouble = trouble.lock().unwrap_or_else(PoisonError::into_inner);
                        trouble.get_or_insert_with(|| problem.clone());
                    }
                    ItemBody::refused(place, Some(name), problem)
                }
            }
        });
        self.fates.send(Fate::Coming(place, name, task)).await.map_err(|_| Stop::Unheard)
    }
}

/// Stores an item and writes its row, as for a single upload.
async fn take_in(intake: &Intake, item: Item) -> Result<riacho_store::Accepted, Problem> {
    riacho_service::FOREGROUND.request();
    let app = &intake.app;
    let settings = item.settings.or(intake.settings.clone());
    let (key, stored) = match item.body {
        Body::Stored(key, stored) => (key, stored),
        Body::Here(bytes) if bytes.is_empty() => return Err(Problem::empty()),
        Body::Here(bytes) => {
            // Before the bytes are kept.
            settings.chunking(app.config())?;
            let key = Key::original(&intake.tenant, UploadId::new());
            let stored = app.objects().put(&key, bytes).await?;
            (key, stored)
        }
    };
    let filename = clean_filename(&item.name);
    let content_type = content_type(item.content_type.as_deref(), &filename);
    let received = Received { key: key.clone(), stored, filename, content_type, settings };
    let trace = intake.trace.clone();
    let accept = accept_of(app, &intake.tenant, Target::New, trace, &HeaderMap::new(), received)
        .inspect_err(|_| app.discard(key.clone()))?;
    Ok(app.accept(&accept, &key).await?)
}
