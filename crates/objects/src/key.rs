//! The keys of objects. A key tells whose the object is and what it is.
//!
//! | key | object |
//! |---|---|
//! | `t/<tenant>/originals/<upload>` | the bytes as they were uploaded |
//! | `t/<tenant>/attachments/<xx>/<document>.<object>` | a file that was attached to the document, the original of another one |
//! | `t/<tenant>/texts/<xx>/<document>.<version>.<run>` | the text that a run extracted |
//! | `t/<tenant>/claims/<document>/<version>/<run>/<event>` | a payload too large for its event |
//! | `t/<tenant>/producers/<name>` | what a producer stored for its own events; the name may have several parts |
//!
//! `<xx>`, the end of the document's id, spreads attachments and texts over 256 folders. A folder for each document
//! would cost a local store more than the text in it: a new folder is made durable in its parent.

use std::{fmt, str::FromStr};

use riacho_domain::{DocumentId, RunId, TenantId, UploadId, Version};

/// The longest key. File systems take 255 bytes a part, S3 takes 1,024 in all.
const MAX_BYTES: usize = 512;

/// The most parts of the name of a producer's object.
const MAX_NAME_PARTS: usize = 8;

/// A text that is no key, or not one that may be used here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// The text has not the form of a key.
    #[error("object key {0:?} has no known form")]
    Form(String),
    /// The key belongs to another tenant.
    #[error("object key {0:?} belongs to another tenant")]
    Tenant(String),
}

impl InvalidKey {
    fn form(text: &str) -> Self {
        Self::Form(text.chars().take(120).collect())
    }
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyKind {
    /// The bytes of an upload.
    Original(UploadId),
    /// The bytes of a file that was attached to the document.
    Attachment(DocumentId, UploadId),
    /// The text that a run extracted.
    Text(DocumentId, Version, RunId),
    /// A payload too large for its event, of a run.
    Claim(DocumentId, Version, RunId),
    /// An object of a producer.
    Producer,
}

/// The key of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    text: String,
    tenant: TenantId,
    kind: KeyKind,
}

impl Key {
    /// The original of an upload.
    #[must_use]
    pub fn original(tenant: &TenantId, upload: UploadId) -> Key {
        Key {
            text: format!("t/{tenant}/originals/{upload}"),
            tenant: tenant.clone(),
            kind: KeyKind::Original(upload),
        }
    }

    /// A file that is attached to the document. It is the original of a document of its own, and goes with either.
    #[must_use]
    pub fn attachment(tenant: &TenantId, document: DocumentId, object: UploadId) -> Key {
        Key {
            text: format!("{}{object}", Prefix::attachments(tenant, document).begin),
            tenant: tenant.clone(),
            kind: KeyKind::Attachment(document, object),
        }
    }

    /// The text that a run extracted.
    #[must_use]
    pub fn text(tenant: &TenantId, document: DocumentId, version: Version, run: RunId) -> Key {
        Key {
            text: format!("{}{version}.{run}", Prefix::texts(tenant, document).begin),
            tenant: tenant.clone(),
            kind: KeyKind::Text(document, version, run),
        }
    }

    /// The payload of an event of a run.
    ///
    /// # Errors
    /// Where the event's id cannot stand in a key.
    pub fn claim(
        tenant: &TenantId,
        document: DocumentId,
        version: Version,
        run: RunId,
        event: &str,
    ) -> Result<Key, InvalidKey> {
        let text = format!("t/{tenant}/claims/{document}/{version}/{run}/{event}");
        if !is_part(event) || text.len() > MAX_BYTES {
            return Err(InvalidKey::form(&text));
        }
        Ok(Key { text, tenant: tenant.clone(), kind: KeyKind::Claim(document, version, run) })
    }

    /// An object of a producer, under the producer's own name for it.
    ///
    /// # Errors
    /// Where the name cannot stand in a key.
    pub fn producer(tenant: &TenantId, name: &str) -> Result<Key, InvalidKey> {
        let text = format!("t/{tenant}/producers/{name}");
        let parts = name.split('/').count();
        if parts > MAX_NAME_PARTS || text.len() > MAX_BYTES || !name.split('/').all(is_part) {
            return Err(InvalidKey::form(&text));
        }
        Ok(Key { text, tenant: tenant.clone(), kind: KeyKind::Producer })
    }

    /// Reads a key from a row of ours. For keys from outside there is [`Key::parse_for_tenant`].
    ///
    /// # Errors
    /// Where the text is not exactly what a constructor makes.
    pub fn parse(text: &str) -> Result<Key, InvalidKey> {
        let invalid = || InvalidKey::form(text);
        if text.len() > MAX_BYTES {
            return Err(invalid());
        }
        let (tenant, rest) =
            text.strip_prefix("t/").and_then(|rest| rest.split_once('/')).ok_or_else(invalid)?;
        let tenant: TenantId = tenant.parse().map_err(|_| invalid())?;
        let key = match rest.split_once('/').ok_or_else(invalid)? {
            ("originals", upload) => Key::original(&tenant, upload.parse().map_err(|_| invalid())?),
            ("attachments", rest) => {
                let name = rest.split_once('/').map_or("", |(_, name)| name);
                let (document, object) = name.split_once('.').ok_or_else(invalid)?;
                let document = document.parse().map_err(|_| invalid())?;
                Key::attachment(&tenant, document, object.parse().map_err(|_| invalid())?)
            }
            ("texts", rest) => {
                let name = rest.split_once('/').map_or("", |(_, name)| name);
                match run_of(name, '.').ok_or_else(invalid)? {
                    (document, version, run, None) => Key::text(&tenant, document, version, run),
                    _ => return Err(invalid()),
                }
            }
            ("claims", rest) => {
                let (document, version, run, event) = run_of(rest, '/').ok_or_else(invalid)?;
                Key::claim(&tenant, document, version, run, event.ok_or_else(invalid)?)?
            }
            ("producers", name) => Key::producer(&tenant, name)?,
            _ => return Err(invalid()),
        };
        // An id has several spellings; a key has one.
        if key.text == text { Ok(key) } else { Err(invalid()) }
    }

    /// Reads a key that came from outside, for a tenant.
    ///
    /// # Errors
    /// Where it is no key, or one of another tenant.
    pub fn parse_for_tenant(tenant: &TenantId, text: &str) -> Result<Key, InvalidKey> {
        let key = Key::parse(text)?;
        if key.tenant == *tenant { Ok(key) } else { Err(InvalidKey::Tenant(key.text)) }
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whose the object is.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// What the object is.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The upload, of an original.
    #[must_use]
    pub fn upload(&self) -> Option<UploadId> {
        match self.kind {
            KeyKind::Original(upload) => Some(upload),
            _ => None,
        }
    }

    /// The document, version and run, of a text or a claim.
    #[must_use]
    pub fn run(&self) -> Option<(DocumentId, Version, RunId)> {
        match self.kind {
            KeyKind::Text(document, version, run) | KeyKind::Claim(document, version, run) => {
                Some((document, version, run))
            }
            KeyKind::Original(_) | KeyKind::Attachment(..) | KeyKind::Producer => None,
        }
    }

    pub(crate) fn path(&self) -> object_store::path::Path {
        object_store::path::Path::from(self.text.as_str())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Document, version and run with `between` between them, and what follows.
fn run_of(text: &str, between: char) -> Option<(DocumentId, Version, RunId, Option<&str>)> {
    let mut parts = text.splitn(4, between);
    let document = DocumentId::from_str(parts.next()?).ok()?;
    let version = parts.next()?.parse().ok()?;
    let run = RunId::from_str(parts.next()?).ok()?;
    Some((document, version, run, parts.next()))
}

/// Whether the text can be one part of a key: nothing that a file system or a URL reads in another way.
fn is_part(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-=@+".contains(&b);
    !text.is_empty() && text.len() <= 255 && text != "." && text != ".." && text.bytes().all(fits)
}

/// The common beginning of the keys of many objects of one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    /// What is listed: stores list whole parts of keys only.
    folder: String,
    /// How the keys begin.
    begin: String,
}

impl Prefix {
    /// All in a folder.
    fn folder(folder: String) -> Prefix {
        Prefix { begin: format!("{folder}/"), folder }
    }

    /// All that a tenant has.
    #[must_use]
    pub fn tenant(tenant: &TenantId) -> Prefix {
        Self::folder(format!("t/{tenant}"))
    }

    /// All originals of a tenant.
    #[must_use]
    pub fn originals(tenant: &TenantId) -> Prefix {
        Self::folder(format!("t/{tenant}/originals"))
    }

    /// The files attached to a document.
    #[must_use]
    pub fn attachments(tenant: &TenantId, document: DocumentId) -> Prefix {
        Self::spread(tenant, "attachments", document)
    }

    /// The texts of a document.
    #[must_use]
    pub fn texts(tenant: &TenantId, document: DocumentId) -> Prefix {
        Self::spread(tenant, "texts", document)
    }

    /// All of a kind that a document has, in a folder that it shares with others.
    fn spread(tenant: &TenantId, kind: &str, document: DocumentId) -> Prefix {
        let folder = format!("t/{tenant}/{kind}/{:02x}", document.0.as_bytes()[15]);
        Prefix { begin: format!("{folder}/{document}."), folder }
    }

    /// The texts of a version.
    #[must_use]
    pub fn texts_of_version(tenant: &TenantId, document: DocumentId, version: Version) -> Prefix {
        let Prefix { folder, begin } = Self::texts(tenant, document);
        Prefix { folder, begin: format!("{begin}{version}.") }
    }

    /// The claims of a document.
    #[must_use]
    pub fn claims(tenant: &TenantId, document: DocumentId) -> Prefix {
        Self::folder(format!("t/{tenant}/claims/{document}"))
    }

    /// The claims of a version.
    #[must_use]
    pub fn claims_of_version(tenant: &TenantId, document: DocumentId, version: Version) -> Prefix {
        Self::folder(format!("t/{tenant}/claims/{document}/{version}"))
    }

    /// The claims of a run.
    #[must_use]
    pub fn claims_of_run(tenant: &TenantId, document: DocumentId, version: Version, run: RunId) -> Prefix {
        Self::folder(format!("t/{tenant}/claims/{document}/{version}/{run}"))
    }

    /// The prefix as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.begin
    }

    /// Everything of everybody. Only for reading: nothing is deleted under it.
    pub(crate) fn everything() -> Prefix {
        Self::folder("t".to_owned())
    }

    /// Whether an object under [`Prefix::path`] is one of those meant.
    pub(crate) fn has(&self, location: &object_store::path::Path) -> bool {
        location.as_ref().starts_with(&self.begin)
    }

    pub(crate) fn path(&self) -> object_store::path::Path {
        object_store::path::Path::from(self.folder.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn tenant(text: &str) -> TenantId {
        text.parse().unwrap()
    }

    #[test]
    fn keys_round_trip() {
        let acme = tenant("acme");
        let (document, run) = (DocumentId::new(), RunId::new());
        let keys = [
            Key::original(&acme, UploadId::new()),
            Key::attachment(&acme, document, UploadId::new()),
            Key::text(&acme, document, 3, run),
            Key::claim(&acme, document, 3, run, "0a1b.2").unwrap(),
            Key::producer(&acme, "2026/11/report_1.pdf").unwrap(),
        ];
        for key in keys {
            assert_eq!(Key::parse(key.as_str()).as_ref(), Ok(&key));
            assert_eq!(Key::parse_for_tenant(&acme, key.as_str()), Ok(key.clone()));
            // What goes to the store is the key itself, with nothing encoded or left out.
            assert_eq!(key.path().as_ref(), key.as_str());
        }
    }

    #[test]
    fn the_key_of_another_tenant_is_refused() {
        let key = Key::original(&tenant("acme"), UploadId::new());
        let refused = Key::parse_for_tenant(&tenant("acm"), key.as_str());
        assert!(matches!(refused, Err(InvalidKey::Tenant(_))), "{refused:?}");
    }

    #[test]
    fn a_prefix_of_texts_has_those_of_its_document_and_version_only() {
        let (acme, run) = (tenant("acme"), RunId::new());
        let id = |text: &str| DocumentId::from_str(text).unwrap();
        let (document, neighbour) =
            (id("0198c1d2-0000-7000-8000-000000000001"), id("0198c1d2-0000-7000-8000-000000000101"));
        let texts = [(document, 1), (document, 2), (document, 11), (neighbour, 1)]
            .map(|(document, version)| Key::text(&acme, document, version, run));
        let had = |prefix: &Prefix| {
            assert!(texts.iter().all(|key| key.path().prefix_matches(&prefix.path())), "they share a folder");
            texts.iter().map(|key| prefix.has(&key.path())).collect::<Vec<_>>()
        };
        assert_eq!(had(&Prefix::texts(&acme, document)), [true, true, true, false]);
        assert_eq!(had(&Prefix::texts_of_version(&acme, document, 1)), [true, false, false, false]);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let id = "0198c1d2-0000-7000-8000-000000000001";
        let bad = [
            String::new(),
            "t".to_owned(),
            "t/acme".to_owned(),
            "t/acme/originals/".to_owned(),
            format!("t/acme/originals/{}", id.to_uppercase()),
            format!("t/acme/originals/{}", id.replace('-', "")),
            format!("t/acme/originals/{{{id}}}"),
            format!("t/acme/originals/{id}/x"),
            format!("t/acme/originals/{id}#1"),
            format!("/t/acme/originals/{id}"),
            format!("t//originals/{id}"),
            format!("t/Acme/originals/{id}"),
            format!("t/../originals/{id}"),
            format!("t/acme/attachments/02/{id}.{id}"),
            format!("t/acme/attachments/01/{id}"),
            format!("t/acme/attachments/01/{id}.{id}/x"),
            format!("t/acme/texts/01/{id}.1"),
            format!("t/acme/texts/02/{id}.1.{id}"),
            format!("t/acme/texts/{id}.1.{id}"),
            format!("t/acme/texts/01/{id}.01.{id}"),
            format!("t/acme/texts/01/{id}.+1.{id}"),
            format!("t/acme/texts/01/{id}.1.{id}.more"),
            format!("t/acme/texts/01/{id}.1.{id}/more"),
            format!("t/acme/claims/{id}/1/{id}"),
            format!("t/acme/claims/{id}/1/{id}/.."),
            format!("t/acme/secrets/{id}"),
            "t/acme/producers/".to_owned(),
            "t/acme/producers/../../other/originals".to_owned(),
            "t/acme/producers/a//b".to_owned(),
            "t/acme/producers/.".to_owned(),
            "t/acme/producers/ação".to_owned(),
            "t/acme/producers/a b".to_owned(),
            "t/acme/producers/a%2e%2e".to_owned(),
            "t/acme/producers/a\\b".to_owned(),
            "t/acme/producers/a\0b".to_owned(),
            format!("t/acme/producers/{}", "a".repeat(256)),
            format!("t/acme/producers/{}", ["a"; 9].join("/")),
        ];
        for text in bad {
            assert!(Key::parse(&text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_reaches_outside_its_tenant(name in "[a-z./\\\\%#~ :ã]{0,40}") {
            if let Ok(key) = Key::producer(&tenant("acme"), &name) {
                let path = std::path::Path::new(key.as_str());
                prop_assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
                prop_assert!(key.as_str().starts_with("t/acme/producers/"));
                prop_assert_eq!(key.path().to_string(), key.as_str());
            }
        }
    }
}
