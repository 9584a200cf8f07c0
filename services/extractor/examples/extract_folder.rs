//! Extracts every file of a folder through the pool, and prints what became of each.
//!
//!     cargo run -p riacho-extractor --example extract_folder -- FOLDER [PDFIUM] [OUTPUT]
#![allow(clippy::print_stdout)] // a program for a terminal

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode, time::Instant};

use riacho_extractor::{
    Error, child,
    chunk::{self, Settings},
    pool::{Config, Pool},
    wire::SUBCOMMAND,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|argument| argument == SUBCOMMAND) {
        return child::main();
    }
    let runtime = tokio::runtime::Runtime::new();
    match runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(&arguments))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[String]) -> anyhow::Result<()> {
    let folder = PathBuf::from(arguments.get(1).map_or(".", String::as_str));
    let pdfium_library = arguments.get(2).map(PathBuf::from);
    let output = arguments.get(3).map(PathBuf::from);
    let pool = Pool::new(Config { pdfium_library, ..Config::default() })?;
    pool.warm().await?;
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for path in files(&folder)? {
        let name = path.strip_prefix(&folder).unwrap_or(&path).display().to_string();
        let bytes = std::fs::read(&path)?;
        let start = Instant::now();
        let result = pool.parse(riacho_domain::Lane::Bulk, &name, bytes.into(), |_, _| {}).await;
        let ms = start.elapsed().as_secs_f64() * 1000.0;
        let ending = match &result {
            Ok(extracted) => {
                let outline = &extracted.outline;
                let chunks = chunk::cut(extracted, &name, &Settings::default())?;
                println!(
                    "{name}\t{}\t{ms:.1} ms\t{} bytes\t{} chunks\t{} pages\t{} missing\t{} headings\t{}\t{}",
                    outline.detected_type,
                    extracted.text.len(),
                    chunks.len(),
                    outline.pages.len(),
                    extracted.missing_pages(),
                    outline.headings.len(),
                    outline.language.as_deref().unwrap_or("-"),
                    outline.encoding.as_deref().unwrap_or("-"),
                );
                if let Some(output) = &output {
                    std::fs::create_dir_all(output)?;
                    let file = output.join(name.replace('/', "_"));
                    std::fs::write(file.with_added_extension("text"), &extracted.text)?;
                    let listed: Vec<String> = chunks
                        .iter()
                        .map(|chunk| {
                            let text = &extracted.text[chunk.bytes.clone()];
                            format!("{chunk:?}\n{text}\n=====\n")
                        })
                        .collect();
                    std::fs::write(file.with_added_extension("chunks"), listed.concat())?;
                }
                "ok".to_owned()
            }
            Err(Error::Document(failure)) => {
                println!("{name}\t{failure}\t{ms:.1} ms");
                failure.reason.to_string()
            }
            Err(error) => anyhow::bail!("{name}: {error}"),
        };
        *reasons.entry(ending).or_default() += 1;
    }
    for (reason, count) in reasons {
        println!("{count:5}  {reason}");
    }
    Ok(())
}

fn files(folder: &std::path::Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    found.sort();
    Ok(found)
}
