//! How many chunks a second the store writes: `cargo run --release -p riacho-store --example index_rate`.
//!
//! Documents of ten chunks of about 1 KB with vectors of 256 values, in batches as the indexer makes
//! them, from the given number of writers, on a private PostgreSQL.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss)]

use std::time::Instant;

use rand::{Rng, SeedableRng, rngs::StdRng};
use riacho_domain::{RunId, TenantId};
use riacho_local::testing;
use riacho_proto::v1::{Chunk, EmbeddedChunk};
use riacho_store::{Accept, Body, Config, IndexItem, Role, Seal, Store, ensure_space, migrate};

const DIMENSIONS: usize = 256;
const CHUNKS: u32 = 10;

fn words(random: &mut StdRng, accents: bool) -> String {
    let mut text = String::with_capacity(1_100);
    while text.len() < 1_000 {
        // Few words are frequent and many are rare, as in texts.
        let rank = (random.random::<f64>().powi(4) * 20_000.0) as u32;
        let stem = ["wat", "riv", "pump", "val", "stre", "for", "gran"][(rank % 7) as usize];
        let end = if accents { "ação" } else { "tion" };
        text.push_str(&format!("{stem}{rank}{end} "));
        text.push_str(["the ", "of ", "and ", ""][random.random_range(0..4)]);
    }
    text
}

fn item(
    random: &mut StdRng,
    release: riacho_store::Release,
    run: RunId,
    space: u32,
    language: &str,
) -> IndexItem {
    let chunks = (0..CHUNKS).map(|ordinal| {
        let text = words(random, language == "pt");
        let vector: Vec<u8> = (0..DIMENSIONS)
            .flat_map(|_| half::f16::from_f32(random.random_range(-0.1..0.1)).to_le_bytes())
            .collect();
        EmbeddedChunk {
            chunk: Some(Chunk {
                ordinal,
                text,
                heading_path: vec!["Part one".into()],
                content_hash: vec![1; 32].into(),
                ..Chunk::default()
            }),
            vector_f16: vector.into(),
        }
    });
    IndexItem { release, run, space, language: language.into(), chunks: chunks.collect() }
}

async fn documents(
    store: &Store,
    tenant: &TenantId,
    space: u32,
    seed: u64,
    count: usize,
    language: &str,
) -> Vec<IndexItem> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        let body = Body::Stored { size: 1, sha256: random.random() };
        let accept = Accept::new(tenant.clone(), "x.txt", "t/acme/originals/x", body);
        let release = store.accept(&accept).await.unwrap().release.unwrap().release();
        let run = RunId::new();
        let seal = Seal {
            run,
            manifest: vec![0; 500],
            chunk_total: CHUNKS,
            detected_type: String::new(),
            encoding: None,
            encoding_confidence: None,
            missing: Vec::new(),
            language: language.into(),
            pages: None,
        };
        store.seal(&release, &seal).await.unwrap();
        items.push(item(&mut random, release, run, space, language));
    }
    items
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let count: usize = arguments.next().map_or(1_000, |text| text.parse().unwrap());
    let writers: usize = arguments.next().map_or(1, |text| text.parse().unwrap());
    let batch: usize = arguments.next().map_or(50, |text| text.parse().unwrap());
    let language = arguments.next().unwrap_or_else(|| "en".into());
    let database = testing::postgres().create_database();
    let config = Config::for_url(&database.owner_url());
    migrate::migrate(&config).await.unwrap();
    let space = ensure_space(&config, "bench", 256).await.unwrap().id;
    let janitor = Store::connect(&config, Role::Janitor).await.unwrap();
    let tenant: TenantId = "acme".parse().unwrap();
    janitor.create_tenant(&tenant, "acme").await.unwrap();
    let store = Store::connect(&config, Role::Service).await.unwrap();
    let start = Instant::now();
    let mut parts = Vec::new();
    for writer in 0..writers {
        parts.push(documents(&store, &tenant, space, writer as u64, count / writers, &language).await);
    }
    let accepted = start.elapsed().as_secs_f64();
    println!("accept + seal: {:.2} ms a document", accepted * 1_000.0 / count as f64);
    let start = Instant::now();
    let tasks: Vec<_> = parts
        .into_iter()
        .map(|items| {
            let store = store.clone();
            tokio::spawn(async move {
                for items in items.chunks(batch) {
                    store.index(items).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let took = start.elapsed().as_secs_f64();
    println!(
        "index: {:.0} chunks/s in {took:.1} s, {count} documents",
        (count as u32 * CHUNKS) as f64 / took
    );
}
