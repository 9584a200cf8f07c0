//! Measures durable writes to the local store: objects a second and their times.
//!
//!     cargo run --release -p riacho-objects --example writes [DIRECTORY]
//!
//! Each object is 20 KB and synced to the disk with its directory; a text has three directories of
//! its own, an original has none.
#![allow(clippy::print_stdout)]

use std::{
    env,
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use riacho_domain::{DocumentId, RunId, TenantId, UploadId};
use riacho_objects::{Config, Key, Objects, Prefix};

const OBJECTS: usize = 1000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory =
        env::args_os().nth(1).map_or_else(|| PathBuf::from("target/objects-example"), PathBuf::from);
    let config = Config { directory: Some(directory), ..Config::default() };
    let objects = Objects::connect(&config).await?;
    let tenant: TenantId = "example".parse()?;
    for writers in [1, 8, 32] {
        measure("originals", &objects, writers, || Key::original(&tenant, UploadId::new())).await?;
        measure("texts", &objects, writers, || Key::text(&tenant, DocumentId::new(), 1, RunId::new()))
            .await?;
        objects.delete_prefix(&Prefix::tenant(&tenant)).await?;
    }
    Ok(())
}

async fn measure(
    name: &str,
    objects: &Objects,
    writers: usize,
    key: impl Fn() -> Key,
) -> Result<(), Box<dyn std::error::Error>> {
    let bytes = Bytes::from(vec![42; 20_000]);
    let start = Instant::now();
    let writes = (0..OBJECTS).map(|_| {
        let (key, bytes) = (key(), bytes.clone());
        async move {
            let start = Instant::now();
            objects.put(&key, bytes).await.map(|_| start.elapsed())
        }
    });
    let results: Vec<_> = stream::iter(writes).buffer_unordered(writers).collect().await;
    let elapsed = start.elapsed().as_secs_f64();
    let mut times = results.into_iter().collect::<Result<Vec<Duration>, _>>()?;
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
    let rate = OBJECTS as f64 / elapsed;
    println!("{writers:2} writers, {name}: {rate:.0}/s, p50 {:.2} ms, p99 {:.2} ms", at(50), at(99));
    Ok(())
}
