//! Writes all that a tenant has stored into a folder.

use std::{fs, io::Write, path::Path};

use anyhow::{Context as _, bail};
use futures::StreamExt;
use riacho_domain::TenantId;
use riacho_objects::{Error, Key, Objects};
use riacho_store::{Document, ListDocuments, Role, Store, Window};
use serde_json::json;

use super::super::{Context, store_failure};

/// Rows read at a time.
const PAGE: u32 = 200;

/// What was written.
#[derive(Debug, Default, serde::Serialize)]
struct Written {
    documents: u64,
    originals: u64,
    texts: u64,
    files: u64,
}

/// `documents.jsonl` has a line for each document; `originals/` and `texts/` the files that its lines name. `files.jsonl` and `files/`
/// are the same for files that were uploaded by themselves.
pub(super) async fn run(context: &Context, tenant: &TenantId, folder: &Path) -> anyhow::Result<()> {
    let store = context.store(Role::Service).await?;
    let objects = Objects::connect(&context.config()?.objects).await?;
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} is not empty", folder.display());
    }
    for part in ["originals", "texts", "files"] {
        fs::create_dir_all(folder.join(part)).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut list = fs::File::create(folder.join("documents.jsonl"))?;
    let mut written = Written::default();
    let mut cursor = None;
    loop {
        let query = ListDocuments { cursor, limit: PAGE, ..ListDocuments::default() };
        let page = store.documents(tenant, &query).await.map_err(store_failure)?;
        for document in &page.items {
            let line = one(&store, &objects, tenant, document, folder, &mut written).await?;
            writeln!(list, "{line}")?;
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    list.sync_all()?;
    written.files = files(&store, &objects, tenant, folder).await?;
    context.output.result(&written, || {
        let Written { documents, originals, texts, files } = written;
        let counted =
            format!("{documents} documents, {originals} originals, {texts} texts and {files} files");
        format!("{counted} in {}", folder.display())
    });
    Ok(())
}

/// Writes the files that were uploaded by themselves, and answers how many.
async fn files(store: &Store, objects: &Objects, tenant: &TenantId, folder: &Path) -> anyhow::Result<u64> {
    let mut list = fs::File::create(folder.join("files.jsonl"))?;
    let mut window = Window { ascending: true, after: None, before: None, limit: PAGE };
    let mut written = 0;
    loop {
        let part = store.list_files(tenant, None, &window).await.map_err(store_failure)?;
        for file in &part.items {
            let name = format!("files/{}{}", file.id, extension(&file.filename));
            if save(objects, &file.object_key, &folder.join(&name)).await? {
                let line = json!({
                    "id": file.id, "filename": file.filename, "content_type": file.content_type, "size": file.size,
                    "purpose": file.purpose, "created_at": file.created_at, "expires_at": file.expires_at, "file": name,
                });
                writeln!(list, "{line}")?;
                written += 1;
            }
        }
        window.after = part.items.last().map(|file| file.id);
        if !part.has_more {
            break;
        }
    }
    list.sync_all()?;
    Ok(written)
}

/// Writes a document's files, and gives its line.
async fn one(
    store: &Store,
    objects: &Objects,
    tenant: &TenantId,
    document: &Document,
    folder: &Path,
    written: &mut Written,
) -> anyhow::Result<serde_json::Value> {
    let id = document.id;
    let mut line = line_of(document);
    if let Some(original) = store.original(tenant, id, None).await.map_err(store_failure)? {
        let name = format!("originals/{id}{}", extension(&original.filename));
        if original.purged_at.is_none() && save(objects, &original.object_key, &folder.join(&name)).await? {
            line["original"] = json!(name);
            written.originals += 1;
        }
    }
    if let Some(text) = store.text_of(tenant, id, None).await.map_err(store_failure)? {
        let name = format!("texts/{id}.md");
        let key = Key::text(tenant, id, text.version, text.run);
        if save(objects, key.as_str(), &folder.join(&name)).await? {
            line["text"] = json!(name);
            written.texts += 1;
        }
    }
    written.documents += 1;
    Ok(line)
}

fn line_of(document: &Document) -> serde_json::Value {
    json!({
        "id": document.id, "external_id": document.external_id, "collection": document.collection_name,
        "filename": document.filename, "content_type": document.content_type, "size": document.size,
        "metadata": document.metadata, "version": document.version, "live_version": document.live_version,
        "state": document.state, "error": document.error.as_ref().map(|reason| &reason.code),
        "language": document.language, "pages": document.pages,
        "created_at": document.created_at, "updated_at": document.updated_at, "expires_at": document.expires_at,
    })
}

/// Copies an object into a file; says whether there was one.
async fn save(objects: &Objects, key: &str, file: &Path) -> anyhow::Result<bool> {
    let mut download = match objects.get_stream(&Key::parse(key)?, None).await {
        Err(Error::NotFound { .. }) => return Ok(false),
        download => download?,
    };
    let mut file = fs::File::create(file)?;
    while let Some(part) = download.body.next().await {
        file.write_all(&part?)?;
    }
    Ok(true)
}

/// The extension of a stored file name, if it is a plain one.
fn extension(filename: &str) -> String {
    let extension =
        Path::new(filename).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let plain = !extension.is_empty()
        && extension.len() <= 10
        && extension.bytes().all(|b| b.is_ascii_alphanumeric());
    if plain { format!(".{extension}") } else { String::new() }
}
