//! Clients that carry out a round's tasks.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::future::join_all;
use reqwest::Method;
use uuid::Uuid;

use crate::{
    client::{Ask, Client},
    cluster::now,
    contents::Content,
    oracle::Oracle,
    producer::{Event, Producer},
    schedule::{Action, CLIENTS, Flaw, Round, Task},
};

/// What a slot holds.
#[derive(Debug, Clone)]
struct Slot {
    document: Option<Uuid>,
    content: Content,
    external: bool,
}

/// The clients and what they know.
pub(crate) struct Workload {
    client: Client,
    pub(crate) producer: Producer,
    /// From when on the oracle's times count, on the clock of the database.
    pub(crate) begun: f64,
    pub(crate) oracle: Mutex<Oracle>,
    slots: Mutex<HashMap<usize, Slot>>,
    keys: AtomicUsize,
    /// Tasks of the current round that are answered.
    pub(crate) answered: AtomicUsize,
}

/// The id that a producer gives to a slot's document.
fn external_id(slot: usize) -> String {
    format!("slot-{slot}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Workload {
    pub(crate) fn new(client: Client, producer: Producer) -> Self {
        Self {
            client,
            producer,
            begun: now(),
            oracle: Mutex::default(),
            slots: Mutex::default(),
            keys: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
        }
    }

    pub(crate) fn oracle(&self) -> MutexGuard<'_, Oracle> {
        lock(&self.oracle)
    }

    fn seconds(&self) -> f64 {
        now() - self.begun
    }

    /// Carries out a round's tasks: those of a slot in their order, those of different clients beside each other.
    pub(crate) async fn round(&self, round: &Round) {
        self.answered.store(0, Ordering::Relaxed);
        join_all((0..CLIENTS).map(|client| async move {
            for task in round.tasks.iter().filter(|task| task.slot % CLIENTS == client) {
                self.task(client, task).await;
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
        }))
        .await;
    }

    async fn task(&self, client: usize, task: &Task) {
        let slot = lock(&self.slots).get(&task.slot).cloned();
        match (&task.action, slot) {
            (Action::Upload { content, external, lane }, _) => {
                self.upload(client, task.slot, content, *external, lane).await;
            }
            (Action::Publish { content, external, flaw, twice }, _) => {
                let external_id = if *external { external_id(task.slot) } else { String::new() };
                self.publish(task.slot, content, external_id, *flaw, *twice).await;
            }
            // Nobody knows whether bytes of an event that was refused are known.
            (Action::Again, Some(Slot { document: None, .. })) => {}
            (Action::Again, Some(slot)) => {
                self.upload(client, task.slot, &slot.content, slot.external, "interactive").await;
            }
            (action, Some(Slot { document: Some(document), external, .. })) => {
                self.command(client, task.slot, document, external, action).await;
            }
            // An upload that was never answered: nobody knows an id to command.
            (_, _) => {}
        }
    }

    async fn upload(&self, client: usize, slot: usize, content: &Content, external: bool, lane: &str) {
        let mut ask = self.file(Ask::new(Method::POST, "/api/v1/documents"), content);
        ask.query.push(("lane", lane.to_owned()));
        if external {
            ask.query.push(("external_id", external_id(slot)));
        }
        let document = self.send_file(client, &ask, content).await;
        lock(&self.slots).insert(slot, Slot { document, content: content.clone(), external });
    }

    /// Publishes an event; what it becomes is the slot's document.
    async fn publish(
        &self,
        slot: usize,
        content: &Content,
        external_id: String,
        flaw: Option<Flaw>,
        twice: bool,
    ) {
        let id = format!("event-{}", self.keys.fetch_add(1, Ordering::Relaxed));
        let external = !external_id.is_empty();
        let event = Event { id, content: content.clone(), external_id, flaw, twice };
        let answer = self.producer.publish(&event).await;
        let document = self.oracle().published(self.seconds(), event, answer);
        lock(&self.slots).insert(slot, Slot { document, content: content.clone(), external });
    }

    /// Uploads a document to no slot, so that nobody commands it.
    pub(crate) async fn upload_apart(&self, content: &Content) -> Option<Uuid> {
        let ask = self.file(Ask::new(Method::POST, "/api/v1/documents"), content);
        self.send_file(0, &ask, content).await
    }

    fn file(&self, mut ask: Ask, content: &Content) -> Ask {
        let number = self.keys.fetch_add(1, Ordering::Relaxed);
        ask.idempotency_key = Some(format!("chaos-{number}"));
        ask.query.push(("filename", content.filename()));
        ask.body = content.bytes();
        ask
    }

    async fn send_file(&self, client: usize, ask: &Ask, content: &Content) -> Option<Uuid> {
        let reply = self.client.send(ask, client).await;
        let key = ask.idempotency_key.as_deref().unwrap_or_default();
        self.oracle().uploaded(self.seconds(), key, content, &reply)
    }

    async fn command(&self, client: usize, slot: usize, document: Uuid, external: bool, action: &Action) {
        let path = format!("/api/v1/documents/{document}");
        let may_be_gone =
            self.oracle().documents.get(&document).is_none_or(|record| record.right_ends().deleted);
        if may_be_gone {
            return;
        }
        match action {
            Action::Replace { content, by_event: true } if external => {
                self.publish(slot, content, external_id(slot), None, false).await;
            }
            Action::Replace { content, .. } => {
                let ask = self.file(Ask::new(Method::PUT, format!("{path}/content")), content);
                let document = self.send_file(client, &ask, content).await;
                lock(&self.slots).insert(slot, Slot { document, content: content.clone(), external });
            }
            Action::Cancel => {
                let ask = Ask::new(Method::POST, format!("{path}/cancel"));
                let reply = self.client.send(&ask, client).await;
                self.oracle().cancelled(self.seconds(), document, &reply);
            }
            Action::Retry => {
                let ask = Ask::new(Method::POST, format!("{path}/retry"));
                let reply = self.client.send(&ask, client).await;
                self.oracle().retried(self.seconds(), document, &reply);
            }
            Action::Delete => {
                let reply = self.client.send(&Ask::new(Method::DELETE, path), client).await;
                self.oracle().deleted(self.seconds(), document, &reply);
            }
            Action::Upload { .. } | Action::Publish { .. } | Action::Again => {}
        }
    }
}
