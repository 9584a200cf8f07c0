//! Lists the sample documents of `docs/examples`, to be compiled in.

use std::{env, fs, io, path::PathBuf};

/// The formats of sample documents; other files of the folder are examples of something else.
const FORMATS: [&str; 12] =
    ["pdf", "docx", "pptx", "xlsx", "odt", "html", "md", "txt", "csv", "eml", "epub", "rtf"];

fn main() -> io::Result<()> {
    let folder =
        PathBuf::from(env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?).join("../../docs/examples");
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut samples = Vec::new();
    for entry in fs::read_dir(folder.canonicalize()?)? {
        let path = entry?.path();
        let format = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if path.is_file() && FORMATS.contains(&format) && name != "README.md" {
            samples.push((name, path));
        }
    }
    samples.sort();
    let list: String =
        samples.iter().map(|(name, path)| format!("    ({name:?}, include_bytes!({path:?})),\n")).collect();
    let code = format!(
        "/// Name and bytes of each sample.\npub(crate) static SAMPLES: &[(&str, &[u8])] = &[\n{list}];\n"
    );
    fs::write(PathBuf::from(env::var("OUT_DIR").map_err(io::Error::other)?).join("samples.rs"), code)
}
