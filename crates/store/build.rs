//! Lists the migrations, so that a new file is compiled in by being there.

use std::{env, error::Error, fmt::Write as _, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let manifest = env::var("CARGO_MANIFEST_DIR")?;
    let folder = Path::new(&manifest).join("../../schemas/postgres").canonicalize()?;
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut files: Vec<_> =
        fs::read_dir(&folder)?.collect::<Result<Vec<_>, _>>()?.iter().map(fs::DirEntry::path).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "sql"));
    files.sort();
    let mut list = String::from("&[\n");
    for path in files {
        let name = path.file_stem().and_then(|stem| stem.to_str()).ok_or("a file name that is not UTF-8")?;
        let (number, title) = name.split_once('_').ok_or("a migration is called NNNN_name.sql")?;
        let number: i32 = number.parse()?;
        println!("cargo::rerun-if-changed={}", path.display());
        writeln!(list, "    (\"V{number}__{title}\", include_str!({:?})),", path.display().to_string())?;
    }
    list.push(']');
    fs::write(Path::new(&env::var("OUT_DIR")?).join("migrations.rs"), list)?;
    Ok(())
}
