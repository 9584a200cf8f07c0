//! A database for a test, cloned from a template that was migrated once, and the steps that most
//! tests begin with.

use bytes::Bytes;
use riacho_domain::{DocumentId, RunId, SpaceId, State, TenantId};
use riacho_local::testing::{self, TestDatabase};
use riacho_proto::v1::{Chunk, EmbeddedChunk};
use riacho_store::{
    Accept, Accepted, Body, Config, IndexAnswer, IndexItem, Release, Role, Seal, Sealed, Store, ensure_space,
    migrate,
};
use tokio::sync::OnceCell;

pub(crate) const DIMENSIONS: usize = 8;

static TEMPLATE: OnceCell<TestDatabase> = OnceCell::const_new();

pub(crate) struct Database {
    // Connections go before the database does.
    pub(crate) store: Store,
    pub(crate) janitor: Store,
    pub(crate) acme: TenantId,
    pub(crate) other: TenantId,
    pub(crate) space: SpaceId,
    pub(crate) config: Config,
    pub(crate) raw: TestDatabase,
}

async fn template() -> &'static TestDatabase {
    TEMPLATE
        .get_or_init(|| async {
            let database = testing::postgres().create_database();
            let config = Config::for_url(&database.owner_url());
            migrate::migrate(&config).await.unwrap();
            ensure_space(&config, "test-model", u32::try_from(DIMENSIONS).unwrap()).await.unwrap();
            database
        })
        .await
}

/// A migrated database with two tenants and a live space.
pub(crate) async fn database() -> Database {
    let raw = testing::postgres().create_database_from(template().await);
    let config = Config { pool_size: 8, ..Config::for_url(&raw.owner_url()) };
    let store = Store::connect(&config, Role::Service).await.unwrap();
    let janitor = Store::connect(&config, Role::Janitor).await.unwrap();
    let (acme, other): (TenantId, TenantId) = ("acme".parse().unwrap(), "other".parse().unwrap());
    for tenant in [&acme, &other] {
        janitor.create_tenant(tenant, tenant.as_str()).await.unwrap();
    }
    let space = store.live_space().await.unwrap().unwrap().id;
    Database { store, janitor, acme, other, space, config, raw }
}

/// An upload of these bytes.
pub(crate) fn upload(tenant: &TenantId, text: &str) -> Accept {
    let sha256 = sha256(text);
    let key = format!("t/{tenant}/originals/{}", riacho_domain::UploadId::new());
    let body = Body::Stored { size: text.len() as u64, sha256 };
    Accept::new(tenant.clone(), "note.txt", key, body)
}

pub(crate) fn sha256(text: &str) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::digest(text.as_bytes()).into()
}

/// A batch of chunks of a run.
pub(crate) fn batch(
    release: &Release,
    run: RunId,
    space: SpaceId,
    language: &str,
    chunks: &[(u32, &str, [f32; DIMENSIONS])],
) -> IndexItem {
    let embedded = |(ordinal, text, vector): &(u32, &str, [f32; DIMENSIONS])| EmbeddedChunk {
        chunk: Some(Chunk {
            ordinal: *ordinal,
            text: (*text).to_owned(),
            byte_start: u64::from(*ordinal) * 100,
            byte_end: u64::from(*ordinal) * 100 + text.len() as u64,
            char_start: u64::from(*ordinal) * 100,
            char_end: u64::from(*ordinal) * 100 + text.chars().count() as u64,
            page_first: 1,
            page_last: 2,
            heading_path: vec!["Part".to_owned(), format!("Section {ordinal}")],
            token_count: 3,
            content_hash: Bytes::from_static(&[7; 32]),
            table_header: if *ordinal == 1 { "| gauge | level |".to_owned() } else { String::new() },
        }),
        vector_f16: vector_bytes(vector),
    };
    IndexItem {
        release: release.clone(),
        run,
        space,
        language: language.to_owned(),
        chunks: chunks.iter().map(embedded).collect(),
    }
}

pub(crate) fn vector_bytes(vector: &[f32]) -> Bytes {
    vector.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect::<Vec<u8>>().into()
}

/// A unit vector along one axis.
pub(crate) fn axis(place: usize) -> [f32; DIMENSIONS] {
    let mut vector = [0.0; DIMENSIONS];
    vector[place % DIMENSIONS] = 1.0;
    vector
}

pub(crate) fn seal(run: RunId, total: u32) -> Seal {
    Seal {
        run,
        manifest: format!("manifest of {run}").into_bytes(),
        chunk_total: total,
        detected_type: "text/plain".into(),
        encoding: Some("utf-8".into()),
        encoding_confidence: None,
        missing: Vec::new(),
        language: "en".into(),
        pages: Some(2),
    }
}

impl Database {
    pub(crate) fn release_of(accepted: &Accepted) -> Release {
        accepted.release.as_ref().expect("the acceptance wrote a release").release()
    }

    /// Takes an accepted version to ready with these texts as its chunks.
    pub(crate) async fn finish(&self, accepted: &Accepted, language: &str, texts: &[&str]) -> RunId {
        self.finish_release(&Self::release_of(accepted), language, texts).await
    }

    /// The same for a release.
    pub(crate) async fn finish_release(&self, release: &Release, language: &str, texts: &[&str]) -> RunId {
        let run = RunId::new();
        self.store.begin_extraction(release).await.unwrap().expect("the release is current");
        let total = u32::try_from(texts.len()).unwrap();
        assert_eq!(self.store.seal(release, &seal(run, total)).await.unwrap(), Sealed::First);
        let chunks: Vec<_> = (0..).zip(texts).map(|(n, text)| (n, *text, axis(n as usize))).collect();
        let item = batch(release, run, self.space, language, &chunks);
        assert_eq!(self.store.index(&[item]).await.unwrap(), [IndexAnswer::Written { ready: true }]);
        run
    }

    /// A document that is ready.
    pub(crate) async fn ready(&self, tenant: &TenantId, language: &str, texts: &[&str]) -> DocumentId {
        let accepted = self.store.accept(&upload(tenant, &texts.join("\n"))).await.unwrap();
        self.finish(&accepted, language, texts).await;
        accepted.document
    }

    /// A document that is ready in a space of as many dimensions.
    pub(crate) async fn ready_in(&self, tenant: &TenantId, space: SpaceId, texts: &[&str]) -> DocumentId {
        let accepted = self.store.accept(&upload(tenant, &texts.join("\n"))).await.unwrap();
        let (release, run) = (Self::release_of(&accepted), RunId::new());
        let total = u32::try_from(texts.len()).unwrap();
        assert_eq!(self.store.seal(&release, &seal(run, total)).await.unwrap(), Sealed::First);
        let chunks: Vec<_> = (0..).zip(texts).map(|(n, text)| (n, *text, axis(n as usize))).collect();
        let item = batch(&release, run, space, "en", &chunks);
        assert_eq!(self.store.index(&[item]).await.unwrap(), [IndexAnswer::Written { ready: true }]);
        accepted.document
    }

    pub(crate) async fn state(&self, document: DocumentId) -> State {
        self.store.status(&self.acme, document).await.unwrap().unwrap().state
    }

    /// One value, read as the owner of the server, whom row-level security does not bind.
    pub(crate) fn value(&self, sql: &str) -> String {
        self.raw.run(sql).first().and_then(|row| row.first().cloned().flatten()).unwrap_or_default()
    }
}
