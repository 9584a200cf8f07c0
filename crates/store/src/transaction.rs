//! Transactions: named, measured, bound to a tenant, run again when they lost against another one.
//!
//! The lock order everywhere: rows of `files`, then advisory locks, then rows of `documents` by id, then rows of
//! `document_versions` by (document, version).

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool_postgres::Object;
use rand::Rng;
use riacho_domain::{DocumentId, TenantId};
use tokio_postgres::{Row, types::ToSql};

use crate::{
    Actor, Error, Store,
    gone::{Gone, Why},
    metrics::names,
};

/// How often a transaction that lost against others is run before its error is passed on.
const ATTEMPTS: u32 = 10;

/// Up to so many futures `join_all` polls each in turn at its first poll; of more, a batch at a time.
const IN_ORDER: usize = 30;

/// A parameter of a statement.
pub(crate) type Param<'a> = &'a (dyn ToSql + Sync);

/// What a transaction is: its name in metrics, its tenant, and how it starts.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    name: &'static str,
    tenant: Option<&'a TenantId>,
    relaxed: bool,
    snapshot: bool,
}

impl<'a> Scope<'a> {
    /// Work for a tenant.
    pub(crate) fn tenant(name: &'static str, tenant: &'a TenantId) -> Self {
        Self { name, tenant: Some(tenant), relaxed: false, snapshot: false }
    }

    /// Work for all tenants, or work that sets its tenants itself.
    pub(crate) fn all(name: &'static str) -> Self {
        Self { name, tenant: None, relaxed: false, snapshot: false }
    }

    /// The commit need not be on disk when it is answered: what it says may be said again.
    pub(crate) fn relaxed(self) -> Self {
        Self { relaxed: true, ..self }
    }

    /// Reads of one snapshot, on the replica where one is configured.
    pub(crate) fn snapshot(self) -> Self {
        Self { snapshot: true, ..self }
    }

    fn begin(&self, actor: Option<&Actor>) -> String {
        let mode = if self.snapshot { " ISOLATION LEVEL REPEATABLE READ READ ONLY" } else { "" };
        let mut begin = format!("-- store::transaction {}\nBEGIN{mode}", self.name);
        if let Some(tenant) = self.tenant {
            // The alphabet of tenant ids has no quote.
            begin.push_str("; SET LOCAL riacho.tenant = '");
            begin.push_str(tenant.as_str());
            begin.push('\'');
        }
        if let Some(actor) = actor {
            begin.push_str(&actor.set_local());
        }
        if self.relaxed {
            begin.push_str("; SET LOCAL synchronous_commit = off");
        }
        begin
    }
}

/// An open transaction. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Tx {
    inner: Arc<Inner>,
}

struct Inner {
    client: Option<Object>,
    finished: AtomicBool,
    /// What it deletes, to be told when it is committed.
    gone: Mutex<Vec<Gone>>,
}

impl Drop for Inner {
    /// A transaction whose caller went away in the middle takes its connection with it: what is still
    /// under way there is rolled back by the server.
    fn drop(&mut self) {
        if !self.finished.load(Ordering::Acquire)
            && let Some(client) = self.client.take()
        {
            drop(Object::take(client));
        }
    }
}

impl Tx {
    fn new(client: Object) -> Self {
        Self {
            inner: Arc::new(Inner {
                client: Some(client),
                finished: AtomicBool::default(),
                gone: Mutex::default(),
            }),
        }
    }

    fn client(&self) -> Result<&Object, Error> {
        self.inner.client.as_ref().ok_or_else(|| Error::Row("a transaction without a connection".into()))
    }

    /// Rows of a statement. Statements whose futures are polled together are sent together and run in
    /// the order of their first poll.
    pub(crate) async fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        let client = self.client()?;
        let statement = client.prepare_cached(sql).await?;
        Ok(client.query(&statement, params).await?)
    }

    /// Rows of a statement that is not kept prepared: one of many that differ.
    pub(crate) async fn query_once(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        let client = self.client()?;
        let statement = client.prepare(sql).await?;
        Ok(client.query(&statement, params).await?)
    }

    /// The first row of a statement, if there is one.
    pub(crate) async fn query_opt(&self, sql: &str, params: &[Param<'_>]) -> Result<Option<Row>, Error> {
        Ok(self.query(sql, params).await?.into_iter().next())
    }

    /// The first row of a statement that always has one.
    pub(crate) async fn query_one(&self, sql: &str, params: &[Param<'_>]) -> Result<Row, Error> {
        self.query_opt(sql, params).await?.ok_or_else(|| Error::Row("a statement answered no row".into()))
    }

    /// The number of rows that a statement changed.
    pub(crate) async fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<u64, Error> {
        let client = self.client()?;
        let statement = client.prepare_cached(sql).await?;
        Ok(client.execute(&statement, params).await?)
    }

    /// Statements without parameters, of our own making.
    pub(crate) async fn batch(&self, sql: &str) -> Result<(), Error> {
        Ok(self.client()?.batch_execute(sql).await?)
    }

    /// Prepares statements before they are sent together: preparing one in the middle of a flight
    /// would let later ones overtake it.
    pub(crate) async fn prepare(&self, statements: &[&str]) -> Result<(), Error> {
        let client = self.client()?;
        for sql in statements {
            client.prepare_cached(sql).await?;
        }
        Ok(())
    }

    /// Commits; may be sent together with the last statements. An error of one of them makes it roll back.
    pub(crate) async fn commit(&self) -> Result<(), Error> {
        let result = self.batch("COMMIT").await;
        if result.is_ok() {
            self.inner.finished.store(true, Ordering::Release);
        }
        result
    }

    /// Awaits the last statements of a transaction and commits it, in one flight where that is safe: of more
    /// futures than [`IN_ORDER`] some may be polled for the first time after the commit was sent.
    pub(crate) async fn finish<T>(
        &self,
        last: Vec<impl Future<Output = Result<T, Error>>>,
    ) -> Result<Vec<T>, Error> {
        let is_safe = last.len() <= IN_ORDER;
        let last = futures::future::join_all(last);
        if is_safe {
            let (answers, committed) = futures::join!(last, self.commit());
            let answers = answers.into_iter().collect::<Result<Vec<T>, Error>>()?;
            return committed.map(|()| answers);
        }
        let answers = last.await.into_iter().collect::<Result<Vec<T>, Error>>()?;
        self.commit().await.map(|()| answers)
    }

    /// Notes documents that it deletes: the log says so when it is committed.
    pub(crate) fn deletes(
        &self,
        tenant: &TenantId,
        documents: impl IntoIterator<Item = DocumentId>,
        why: Why,
    ) {
        let mut gone = self.inner.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.extend(documents.into_iter().map(|document| Gone { tenant: tenant.clone(), document, why }));
    }

    fn take_gone(&self) -> Vec<Gone> {
        std::mem::take(&mut *self.inner.gone.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn roll_back(&self) {
        if !self.inner.finished.load(Ordering::Acquire) && self.batch("ROLLBACK").await.is_ok() {
            self.inner.finished.store(true, Ordering::Release);
        }
    }

    fn is_finished(&self) -> bool {
        self.inner.finished.load(Ordering::Acquire)
    }
}

impl Store {
    /// Runs `work` in a transaction of the scope, and again when it lost against others. `work` commits
    /// itself (with [`Tx::commit`], sent with its last statement) or is committed afterwards.
    pub(crate) async fn transaction<T, W, F>(&self, scope: Scope<'_>, work: W) -> Result<T, Error>
    where
        W: Fn(Tx) -> F,
        F: Future<Output = Result<T, Error>>,
    {
        let start = Instant::now();
        let mut attempt = 1;
        let result = loop {
            match self.attempt(scope, &work).await {
                Err(error) if error.is_collision() && attempt < ATTEMPTS => {
                    metrics::counter!(names::RETRIES, "name" => scope.name).increment(1);
                    tokio::time::sleep(back_off(attempt)).await;
                    attempt += 1;
                }
                other => break other,
            }
        };
        let outcome = if result.is_ok() { "ok" } else { "error" };
        metrics::histogram!(names::TRANSACTION_SECONDS, "name" => scope.name, "outcome" => outcome)
            .record(start.elapsed().as_secs_f64());
        result
    }

    async fn attempt<T, W, F>(&self, scope: Scope<'_>, work: &W) -> Result<T, Error>
    where
        W: Fn(Tx) -> F,
        F: Future<Output = Result<T, Error>>,
    {
        let client = if scope.snapshot { self.read_client().await? } else { self.client().await? };
        let tx = Tx::new(client);
        let begin = scope.begin(self.actor.as_deref());
        // `join!` polls in order, so BEGIN is on its way before the first statement of `work`, without
        // a round trip of its own.
        let (begun, result) = futures::join!(tx.batch(&begin), work(tx.clone()));
        let result = begun.and(result);
        match result {
            Ok(value) => {
                if !tx.is_finished() {
                    tx.commit().await?;
                }
                tx.take_gone().iter().for_each(|gone| gone.tell(self.inner.role));
                Ok(value)
            }
            Err(error) => {
                tx.roll_back().await;
                Err(error)
            }
        }
    }

    /// One statement in a transaction of its own, in one round trip.
    pub(crate) async fn single(
        &self,
        scope: Scope<'_>,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, Error> {
        self.transaction(scope, |tx| async move {
            tx.prepare(&[sql]).await?;
            let (rows, committed) = futures::join!(tx.query(sql, params), tx.commit());
            let rows = rows?;
            committed?;
            Ok(rows)
        })
        .await
    }
}

/// Between losing and trying again: short, growing, and not the same for both sides.
fn back_off(attempt: u32) -> Duration {
    let ceiling = 4_u64 << attempt.min(6);
    Duration::from_millis(rand::rng().random_range(1..=ceiling))
}
