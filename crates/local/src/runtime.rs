//! Where the programs and files of the runtime are.
//!
//! A directory named in `RIACHO_RUNTIME_DIR` is the only place when it is set. Otherwise programs on the PATH are
//! taken when they have what is needed, then the private runtime directories in their order.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Error, Result};

/// The major version of PostgreSQL that the schema is written for and the setup brings.
pub(crate) const POSTGRES_MAJOR: u32 = 18;
/// Streams need commands of this version of Redis; Valkey reports its own, higher one.
const REDIS_MAJOR: u32 = 7;

/// The places in which runtime files are looked for.
#[derive(Debug, Clone)]
pub struct Runtime {
    roots: Vec<PathBuf>,
    use_path: bool,
}

impl Runtime {
    /// The runtime of this machine: see the module's description for the order.
    #[must_use]
    pub fn find() -> Runtime {
        if let Some(dir) = env::var_os("RIACHO_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
            return Runtime::at(dir);
        }
        let starts = [env::current_dir().ok(), env::current_exe().ok()];
        let mut roots: Vec<PathBuf> = Vec::new();
        for start in starts.iter().flatten() {
            roots.extend(start.ancestors().map(|dir| dir.join(".riacho/runtime")).find(|dir| dir.is_dir()));
        }
        roots.push(PathBuf::from("/usr/local/lib/riacho"));
        roots.extend(env::home_dir().map(|home| home.join(".local/share/riacho/runtime")));
        roots.dedup();
        Runtime { roots, use_path: true }
    }

    /// The runtime in one directory and nowhere else.
    #[must_use]
    pub fn at(dir: impl Into<PathBuf>) -> Runtime {
        Runtime { roots: vec![dir.into()], use_path: false }
    }

    /// The redis-server, or a Valkey server under that name.
    pub fn redis_server(&self) -> Result<PathBuf> {
        if self.use_path
            && let Some(found) = on_path("redis-server").filter(|path| redis_fits(path))
        {
            return Ok(found);
        }
        self.file("bin/redis-server", "redis-server")
    }

    /// The directory with `postgres` and `initdb` of a PostgreSQL that has pgvector.
    pub fn postgres_bin(&self) -> Result<PathBuf> {
        if self.use_path
            && let Some(found) = on_path("postgres").as_deref().and_then(postgres_that_fits)
        {
            return Ok(found);
        }
        self.file("postgres/share/extension/vector.control", "PostgreSQL 18 with pgvector")?;
        let server = self.file("postgres/bin/postgres", "PostgreSQL 18 with pgvector")?;
        // The account that root steps down to may reach the real place, but not the link that leads there.
        let server = server.canonicalize().map_err(Error::io("find", &server))?;
        Ok(parent(&server))
    }

    /// The pdfium library.
    pub fn pdfium_path(&self) -> Result<PathBuf> {
        self.file("pdfium/libpdfium.so", "libpdfium.so")
    }

    /// The directory with `model.safetensors` and `tokenizer.json` of the static embedding model.
    pub fn wordllama_dir(&self) -> Result<PathBuf> {
        self.model_dir("wordllama-256")
    }

    /// The directory with `model.safetensors` and `tokenizer.json` of a local embedding model, by its name.
    pub fn model_dir(&self, name: &str) -> Result<PathBuf> {
        let what = format!("the model {name}");
        if !is_file_name(name) {
            return Err(Error::Missing {
                what,
                looked: "no place, since it is no name of a directory".to_owned(),
            });
        }
        self.file(&format!("models/{name}/tokenizer.json"), &format!("the tokenizer of {what}"))?;
        Ok(parent(&self.file(&format!("models/{name}/model.safetensors"), &what)?))
    }

    fn file(&self, relative: &str, what: &str) -> Result<PathBuf> {
        let found = self.roots.iter().map(|root| root.join(relative)).find(|path| path.exists());
        found.ok_or_else(|| {
            let places = self.roots.iter().map(|root| root.display().to_string());
            let path = self.use_path.then(|| "the PATH".to_owned());
            Error::Missing {
                what: what.to_owned(),
                looked: path.into_iter().chain(places).collect::<Vec<_>>().join(", "),
            }
        })
    }
}

/// Whether a name leads to nowhere else than a directory of that name.
fn is_file_name(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|file_name| file_name == name)
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}

fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}

fn redis_fits(server: &Path) -> bool {
    // "Redis server v=7.0.15 sha=.." or "Valkey server v=9.1.2 ..".
    let text = output_of(server, &["--version"]).unwrap_or_default();
    let major = text.split_once("v=").and_then(|(_, rest)| rest.split('.').next()?.parse::<u32>().ok());
    major.is_some_and(|major| major >= REDIS_MAJOR)
}

/// The program directory of a PostgreSQL on the PATH, if it has the right version and pgvector.
fn postgres_that_fits(server: &Path) -> Option<PathBuf> {
    let server = server.canonicalize().ok()?;
    let text = output_of(&server, &["--version"])?;
    let major = text.rsplit(' ').next()?.split('.').next()?.parse::<u32>().ok()?;
    let bin = parent(&server);
    let share = PathBuf::from(output_of(&bin.join("pg_config"), &["--sharedir"])?.trim());
    let complete = bin.join("initdb").is_file() && share.join("extension/vector.control").is_file();
    (major == POSTGRES_MAJOR && complete).then_some(bin)
}

fn output_of(program: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    /// Written by another process: a file that this one had open for writing while a test beside forked could not
    /// be run ("text file busy").
    fn script(path: &Path, says: &str) {
        let write = r#"mkdir -p "${1%/*}" && printf '#!/bin/sh\necho "%s"\n' "$2" >"$1" && chmod 755 "$1""#;
        let status = Command::new("/bin/sh").args(["-c", write, "write"]).arg(path).arg(says).status();
        assert!(status.unwrap().success());
    }

    #[test]
    fn a_redis_that_is_too_old_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let server = dir.path().join("redis-server");
        for (says, fits) in [
            ("Redis server v=6.2.14 sha=00000000:0", false),
            ("Redis server v=7.0.15 sha=00000000:0", true),
            ("Valkey server v=9.1.2 sha=00000000:1", true),
            ("something else", false),
        ] {
            script(&server, says);
            assert_eq!(redis_fits(&server), fits, "{says}");
        }
    }

    #[test]
    fn a_postgres_needs_its_version_and_pgvector() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().canonicalize().unwrap().join("bin");
        let share = dir.path().join("share");
        script(&bin.join("initdb"), "");
        script(&bin.join("pg_config"), share.to_str().unwrap());
        script(&bin.join("postgres"), "postgres (PostgreSQL) 18.6");
        assert_eq!(postgres_that_fits(&bin.join("postgres")), None, "without pgvector");
        fs::create_dir_all(share.join("extension")).unwrap();
        fs::write(share.join("extension/vector.control"), "").unwrap();
        assert_eq!(postgres_that_fits(&bin.join("postgres")).unwrap(), bin);
        script(&bin.join("postgres"), "postgres (PostgreSQL) 17.2 (Debian 17.2-1)");
        assert_eq!(postgres_that_fits(&bin.join("postgres")), None, "of another version");
    }

    #[test]
    fn a_runtime_has_the_library_and_the_model() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::at(dir.path());
        for (file, what) in
            [("pdfium/libpdfium.so", "libpdfium.so"), ("models/wordllama-256", "the tokenizer")]
        {
            let error = if file.ends_with("so") { runtime.pdfium_path() } else { runtime.wordllama_dir() };
            assert!(error.unwrap_err().to_string().starts_with(what));
        }
        script(&dir.path().join("pdfium/libpdfium.so"), "");
        script(&dir.path().join("models/wordllama-256/tokenizer.json"), "");
        script(&dir.path().join("models/wordllama-256/model.safetensors"), "");
        assert_eq!(runtime.pdfium_path().unwrap(), dir.path().join("pdfium/libpdfium.so"));
        assert_eq!(runtime.wordllama_dir().unwrap(), dir.path().join("models/wordllama-256"));
        assert_eq!(runtime.model_dir("wordllama-256").unwrap(), runtime.wordllama_dir().unwrap());
        for name in ["", "..", "wordllama-256/..", "/models/wordllama-256", "another"] {
            assert!(runtime.model_dir(name).is_err(), "{name}");
        }
    }
}
