//! The stage on real servers: an original becomes chunks on the embedder's stream, or a reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "ocr/drawing.rs"]
#[allow(dead_code)] // pictures are drawn, and none is written to a file
mod drawing;

use std::path::PathBuf;

use futures::TryStreamExt;
use riacho_domain::{Lane, ReasonCode, RunId, StageName, State, content_hash};
use riacho_extractor::{Config, ocr, pool};
use riacho_local::testing::Reply;
use riacho_objects::{Key, Prefix};
use riacho_proto::v1::{ChunksCut, envelope::Payload};
use riacho_stage::{Context, Event, Failure, Outcome, Runner, Stage};
use riacho_store::{Accepted, ListDocuments, Release, ReleaseCaps, Role, Seal, Sealed};
use riacho_testkit::{Deployment, eventually};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// The service, and a stage in the embedder's place that keeps what arrives.
struct Running {
    deployment: Deployment,
    arrived: mpsc::UnboundedReceiver<ChunksCut>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

struct Keeper(mpsc::UnboundedSender<ChunksCut>);

impl Stage for Keeper {
    fn name(&self) -> StageName {
        StageName::Embed
    }

    async fn run(&self, event: Event, _: &Context) -> Result<Outcome, Failure> {
        let Payload::ChunksCut(chunks) = event.payload else { panic!("not chunks") };
        self.0.send(chunks).unwrap();
        Ok(Outcome::Failed(ReasonCode::Empty))
    }
}

fn config() -> Config {
    let parser = pool::Config {
        processes: 1,
        command: vec![PathBuf::from(env!("CARGO_BIN_EXE_riacho-parse-child"))],
        ..pool::Config::default()
    };
    let pdfium = riacho_local::Runtime::find().pdfium_path().ok();
    // Whether tesseract is installed must make no difference here.
    let ocr = ocr::Config { enabled: false, ..ocr::Config::default() };
    Config { parser, pdfium, ocr, batch_chunks: 4, urgent_batches: 1, ..Config::default() }
}

impl Running {
    async fn start(deployment: Deployment) -> Running {
        let stop = CancellationToken::new();
        let core = deployment.core().unwrap();
        let resources = deployment.resources(Role::Stage).unwrap();
        let (keeper, arrived) = mpsc::unbounded_channel();
        let runner = Runner::new(deployment.streams.clone(), deployment.objects.clone(), core.stage.clone());
        let mut tasks = Vec::new();
        let stopped = stop.clone();
        tasks.push(tokio::spawn(async move {
            riacho_extractor::run(config(), &core, resources, stopped).await.unwrap();
        }));
        let stopped = stop.clone();
        tasks.push(tokio::spawn(async move {
            runner.run_stage(std::sync::Arc::new(Keeper(keeper)), stopped).await.unwrap();
        }));
        Running { deployment, arrived, stop, tasks }
    }

    /// All batches of a document of so many chunks.
    async fn batches(&mut self, chunks: usize) -> Vec<ChunksCut> {
        let mut batches: Vec<ChunksCut> = Vec::new();
        while batches.iter().map(|batch| batch.chunks.len()).sum::<usize>() < chunks {
            batches.push(self.arrived.recv().await.unwrap());
        }
        batches.sort_by_key(|batch| batch.batch);
        batches
    }

    async fn fails(&self, filename: &str, content: impl Into<bytes::Bytes>) -> (String, String) {
        let accepted = self.deployment.submit(filename, content).await.unwrap();
        let error = self.deployment.reaches(accepted.document, State::Failed).await.error.unwrap();
        (error.code, error.message)
    }

    async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

fn release_of(deployment: &Deployment, accepted: &Accepted) -> Release {
    let plan = accepted.release.as_ref().unwrap();
    assert_eq!(plan.tenant, deployment.tenant);
    plan.release()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_becomes_chunks_that_are_slices_of_the_stored_text() {
    let mut running = Running::start(Deployment::start().await.unwrap()).await;
    let bytes = include_bytes!("../../../docs/examples/station-handbook.pdf").as_slice();
    let accepted = running.deployment.submit("handbook.pdf", bytes).await.unwrap();
    let status = running.deployment.reaches(accepted.document, State::Embedding).await;
    let total = status.progress.chunks_total.unwrap() as usize;
    let batches = running.batches(total).await;
    assert!(batches.len() > 1 && batches.iter().all(|batch| batch.chunks.len() <= 4));
    let run: RunId = batches[0].run.parse().unwrap();
    let key = Key::text(&running.deployment.tenant, accepted.document, accepted.version, run);
    let text = running.deployment.objects.get(&key, 1 << 20).await.unwrap();
    for (ordinal, chunk) in batches.iter().flat_map(|batch| &batch.chunks).enumerate() {
        assert_eq!(chunk.ordinal as usize, ordinal);
        assert_eq!(chunk.text.as_bytes(), &text[chunk.byte_start as usize..chunk.byte_end as usize]);
        assert_eq!(
            chunk.content_hash,
            content_hash(&batches[0].title, &chunk.heading_path, &chunk.table_header, &chunk.text).to_vec()
        );
        assert!(chunk.page_first >= 1 && !chunk.heading_path.is_empty());
    }
    assert_eq!((batches[0].language.as_str(), batches[0].space), ("en", running.deployment.space.id));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_document_goes_on_in_the_next_lower_lane() {
    let running = Running::start(Deployment::start().await.unwrap()).await;
    let bytes = include_bytes!("../../../docs/examples/station-handbook.pdf").as_slice();
    let accepted = running.deployment.submit("handbook.pdf", bytes).await.unwrap();
    running.deployment.reaches(accepted.document, State::Embedding).await;
    let keys = running.deployment.streams.keys();
    let added = |lane| {
        let info =
            running.deployment.redis().command(&["XINFO", "STREAM", &keys.work(0, StageName::Embed, lane)]);
        let fields = info.list();
        let at =
            fields.iter().position(|field| matches!(field, Reply::Text(name) if name == "entries-added"));
        fields[at.unwrap() + 1].int()
    };
    let urgent = i64::try_from(config().urgent_batches).unwrap();
    // The last batch goes a moment after the seal.
    eventually(|| async { (added(Lane::Bulk) > 0).then_some(()) }).await;
    assert_eq!(added(Lane::Interactive), urgent);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_without_text_ends_failed_with_its_reason() {
    let running = Running::start(Deployment::start().await.unwrap()).await;
    assert_eq!(running.fails("a.txt", " \n ").await.0, ReasonCode::Empty.as_str());
    assert_eq!(running.fails("a.png", &b"\x89PNG\r\n\x1a\n"[..]).await.0, ReasonCode::NeedsOcr.as_str());
    let (code, message) = running.fails("a.pdf", &b"%PDF-1.7 no structure"[..]).await;
    assert_eq!(code, ReasonCode::Corrupt.as_str());
    assert!(message.starts_with("the PDF is damaged"), "{message}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_goes_on_without_the_pages_that_cannot_be_read_and_its_status_names_them() {
    use drawing::{Content, drawn, pdf};
    let running = Running::start(Deployment::start().await.unwrap()).await;
    let pages = [Content::Text("The first page is printed."), Content::Scan(drawn(&["The second is not."]))];
    let accepted = running.deployment.submit("mixed.pdf", pdf(&pages)).await.unwrap();
    let status = running.deployment.reaches(accepted.document, State::Embedding).await;
    let [missing] = status.missing.as_slice() else { panic!("{:?}", status.missing) };
    assert_eq!((missing.reason.code.as_str(), missing.pages.as_slice()), ("needs_ocr", &[(2, 2)][..]));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attachments_of_a_message_become_documents_of_their_own() {
    let running = Running::start(Deployment::start().await.unwrap()).await;
    let part = |name: &str, body: &str| {
        format!(
            "--b\r\nContent-Type: text/plain\r\nContent-Disposition: attachment; filename={name}\r\n\r\n{body}\r\n"
        )
    };
    let head = "From: a@b\r\nSubject: Levels\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n";
    let mail = format!("{head}{}{}--b--\r\n", part("one.txt", "the first file"), part("two.txt", " "));
    let accepted = running.deployment.submit("levels.eml", mail).await.unwrap();
    running.deployment.reaches(accepted.document, State::Embedding).await;
    let (store, tenant) = (&running.deployment.store, &running.deployment.tenant);
    let list = ListDocuments { parent: Some(accepted.document), ..ListDocuments::default() };
    let mut attached = store.documents(tenant, &list).await.unwrap().items;
    attached.sort_by(|a, b| a.filename.cmp(&b.filename));
    let [one, two] = attached.as_slice() else { panic!("{attached:?}") };
    assert_eq!((one.filename.as_str(), one.size), ("one.txt", Some(14)));
    // They wait for the janitor, which is this test.
    for plan in running.deployment.janitor.release_waiting(10, ReleaseCaps::default()).await.unwrap() {
        running.deployment.release(&plan).await.unwrap();
    }
    running.deployment.reaches(one.id, State::Embedding).await;
    let failed = running.deployment.reaches(two.id, State::Failed).await;
    assert_eq!(failed.error.unwrap().code, ReasonCode::Empty.as_str());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_accepted_of_attachments_is_stored() {
    let deployment = Deployment::start().await.unwrap();
    let part = |body: &str| {
        format!(
            "--b\r\nContent-Type: text/plain\r\nContent-Disposition: attachment; filename=a.txt\r\n\r\n{body}\r\n"
        )
    };
    let head = "From: a@b\r\nSubject: Levels\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n";
    let mail = format!("{head}{}{}{}--b--\r\n", part("one"), part("two"), part("three"));
    let accepted = deployment.submit("levels.eml", mail).await.unwrap();
    // The first was accepted before, and after one more there is no room.
    deployment.sql("UPDATE document_versions SET attached = '{1}', below = 499");
    let running = Running::start(deployment).await;
    running.deployment.reaches(accepted.document, State::Embedding).await;
    let (objects, tenant) = (&running.deployment.objects, &running.deployment.tenant);
    let stored: Vec<_> =
        objects.list(&Prefix::attachments(tenant, accepted.document)).try_collect().await.unwrap();
    let [only] = stored.as_slice() else { panic!("{stored:?}") };
    assert_eq!(objects.get(&only.key, 100).await.unwrap(), "two");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_original_that_is_gone_or_changed_is_told_apart() {
    let deployment = Deployment::start().await.unwrap();
    let gone = deployment.submit("gone.txt", "one text").await.unwrap();
    let changed = deployment.submit("changed.txt", "another text").await.unwrap();
    let key = |accepted: &Accepted| {
        let plan = accepted.release.as_ref().unwrap();
        Key::parse_for_tenant(&plan.tenant, &plan.object_key).unwrap()
    };
    deployment.objects.delete(&key(&gone)).await.unwrap();
    deployment.objects.put(&key(&changed), "tampered bytes".into()).await.unwrap();
    let running = Running::start(deployment).await;
    for (accepted, reason) in [(gone, ReasonCode::OriginalGone), (changed, ReasonCode::HashMismatch)] {
        let status = running.deployment.reaches(accepted.document, State::Failed).await;
        assert_eq!(status.error.unwrap().code, reason.as_str());
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_run_is_handed_on_again_and_nothing_is_cut_anew() {
    let deployment = Deployment::start().await.unwrap();
    let accepted = deployment.submit("notes.txt", "These bytes are not looked at any more.").await.unwrap();
    // Another delivery has stored and sealed a run of a text that only it knows.
    let release = release_of(&deployment, &accepted);
    let run = RunId::new();
    let text = "The sealed text.\n\nIts second paragraph.";
    let key = Key::text(&deployment.tenant, accepted.document, accepted.version, run);
    deployment.objects.put(&key, text.into()).await.unwrap();
    let extracted = riacho_extractor::extracted::Extracted { text: text.into(), ..Default::default() };
    let chunks = riacho_extractor::chunk::cut(&extracted, "sealed", &Default::default()).unwrap();
    let manifest =
        riacho_extractor::manifest::Manifest { title: "sealed".into(), language: "en".into(), chunks };
    deployment.store.begin_extraction(&release).await.unwrap().unwrap();
    let seal = Seal {
        run,
        manifest: manifest.encode(),
        chunk_total: 1,
        detected_type: "text/plain".into(),
        encoding: None,
        encoding_confidence: None,
        missing: Vec::new(),
        language: "en".into(),
        pages: None,
    };
    assert_eq!(deployment.store.seal(&release, &seal).await.unwrap(), Sealed::First);
    let mut running = Running::start(deployment).await;
    let batches = running.batches(1).await;
    assert_eq!((batches[0].run.parse(), batches[0].chunks[0].text.as_str()), (Ok(run), text));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_document_is_dropped_without_a_trace() {
    let deployment = Deployment::start().await.unwrap();
    let cancelled = deployment.submit("one.txt", "a text that nobody wants").await.unwrap();
    deployment.store.cancel(&deployment.tenant, cancelled.document).await.unwrap();
    let wanted = deployment.submit("two.txt", "a text that is wanted").await.unwrap();
    let mut running = Running::start(deployment).await;
    assert_eq!(running.batches(1).await[0].chunks[0].text, "a text that is wanted");
    running.deployment.reaches(wanted.document, State::Embedding).await;
    eventually(|| async {
        let figures = running.deployment.streams.figures(StageName::Extract, &[0]).await;
        figures.is_ok_and(|figures| figures.backlog == 0)
    })
    .await;
    running.deployment.reaches(cancelled.document, State::Cancelled).await;
    assert!(running.arrived.try_recv().is_err());
    running.stop().await;
}
