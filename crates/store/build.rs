//! Lists the migrations, so that a new file is compiled in by being there.

use std::{env, error::Error, fmt::Write as _, fs, path::Path};

const FOLDER: &str = "../../schemas/postgres";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={FOLDER}");
    let mut names = Vec::new();
    for entry in fs::read_dir(FOLDER)? {
        let name = entry?.file_name().into_string().map_err(|_| "a file name that is not UTF-8")?;
        names.extend(name.strip_suffix(".sql").map(str::to_owned));
    }
    names.sort();
    let mut list = String::from("&[\n");
    for name in names {
        let (number, title) = name.split_once('_').ok_or("a migration is called NNNN_name.sql")?;
        let number: i32 = number.parse()?;
        // Relative to the package: checkouts that share a target directory share this list.
        writeln!(
            list,
            "(\"V{number}__{title}\", include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/{FOLDER}/{name}.sql\"))),"
        )?;
    }
    list.push(']');
    fs::write(Path::new(&env::var("OUT_DIR")?).join("migrations.rs"), list)?;
    Ok(())
}
