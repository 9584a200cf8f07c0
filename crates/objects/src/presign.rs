//! Presigned uploads: a URL that lets its holder store one object, without a key of ours.
//!
//! On S3 the store signs and checks. A local store has nobody to do so, so the gateway takes the
//! upload itself and this module signs and checks with a secret of the configuration.

use std::time::Duration;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use hmac::{Hmac, KeyInit, Mac};
use object_store::{
    aws::AmazonS3,
    signer::{HeaderName, HeaderValue, Method, SignedUrlOptions, Signer},
};
use riacho_domain::{Secret, TenantId, UploadId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use url::form_urlencoded;

use crate::{Error, Key, Objects, connect::Kind, metrics::measured};

/// S3 signs for no longer.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// What is signed begins with this, so that the secret signs nothing else by accident.
const PURPOSE: &str = "riacho upload 1";

/// What a presigned upload may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresignPut {
    /// The only content type that is accepted; any where there is none.
    pub content_type: Option<String>,
    /// How long the URL is good, at most seven days.
    pub expires_in: Duration,
    /// The most bytes. S3 does not enforce it: look at the size before the upload is used.
    pub max_bytes: u64,
}

/// A presigned upload: what to send where, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Presigned {
    /// The method of the request.
    pub method: String,
    /// The URL; on a local store its path and query at the gateway.
    pub url: String,
    /// The headers that the request must have.
    pub headers: Vec<(String, String)>,
    /// When the URL stops working.
    pub expires_at: DateTime<Utc>,
}

/// The query of a presigned upload to a local store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalUploadQuery {
    /// Whose upload it is.
    pub tenant: TenantId,
    /// When the URL stops working, in seconds since 1970.
    pub expires: i64,
    /// The most bytes.
    pub max_bytes: u64,
    /// The only content type that is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The signature over all of it.
    pub signature: String,
}

/// What a checked upload may store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadGrant {
    /// Under which key.
    pub key: Key,
    /// How many bytes at most.
    pub max_bytes: u64,
}

impl Objects {
    /// Signs an upload of the original with this key.
    ///
    /// # Errors
    /// `InvalidKey` for anything but an original, `Misconfigured` where the local store has no secret.
    pub async fn presign_put(&self, key: &Key, options: &PresignPut) -> Result<Presigned, Error> {
        let expires_in = options.expires_in.min(LONGEST);
        let now = Utc::now().duration_trunc(TimeDelta::seconds(1)).unwrap_or_else(|_| Utc::now());
        let expires_at = now + expires_in;
        match &*self.kind {
            Kind::Local { signing_secret, .. } => {
                let secret = signing_secret.as_ref().ok_or_else(no_secret)?;
                sign_local(secret, key, options, expires_at)
            }
            Kind::S3 { signer, conditional_put } => {
                let mut headers = headers(options);
                if *conditional_put {
                    headers.push(("if-none-match".to_owned(), "*".to_owned()));
                }
                measured("presign", sign_s3(signer, key, headers, expires_in, expires_at)).await
            }
        }
    }

    /// Checks an upload that a gateway received for its local store. The body is still to be
    /// received, with the limit of the grant.
    ///
    /// # Errors
    /// `Refused` where anything differs from what was signed, or it is too late.
    pub fn verify_local(
        &self,
        upload: UploadId,
        query: &LocalUploadQuery,
        content_type: Option<&str>,
    ) -> Result<UploadGrant, Error> {
        let Kind::Local { signing_secret, .. } = &*self.kind else {
            return Err(Error::Refused { reason: "uploads go to the store itself" });
        };
        let secret = signing_secret.as_ref().ok_or_else(no_secret)?;
        let key = Key::original(&query.tenant, upload);
        let signature = hex::decode(&query.signature).unwrap_or_default();
        let signed = Signed { key: &key, query };
        if signed.mac(secret)?.verify_slice(&signature).is_err() {
            return Err(Error::Refused { reason: "the signature does not fit the request" });
        }
        if Utc::now().timestamp() >= query.expires {
            return Err(Error::Refused { reason: "the URL has expired" });
        }
        if query.content_type.is_some() && query.content_type.as_deref() != content_type {
            return Err(Error::Refused { reason: "the content type is not the one that was signed" });
        }
        Ok(UploadGrant { key, max_bytes: query.max_bytes })
    }
}

fn no_secret() -> Error {
    Error::Misconfigured { reason: "objects.signing_secret is not set".to_owned() }
}

/// What a local signature covers.
struct Signed<'a> {
    key: &'a Key,
    query: &'a LocalUploadQuery,
}

impl Signed<'_> {
    /// Every part is preceded by its length, so that no two requests give the same bytes.
    fn mac(&self, secret: &Secret) -> Result<Hmac<Sha256>, Error> {
        let unusable =
            |_| Error::Misconfigured { reason: "objects.signing_secret cannot be used".to_owned() };
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).map_err(unusable)?;
        let content_type = self.query.content_type.as_deref();
        let parts = [
            PURPOSE,
            "PUT",
            self.key.as_str(),
            &self.query.expires.to_string(),
            &self.query.max_bytes.to_string(),
            if content_type.is_some() { "typed" } else { "untyped" },
            content_type.unwrap_or_default(),
        ];
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        Ok(mac)
    }
}

fn sign_local(
    secret: &Secret,
    key: &Key,
    options: &PresignPut,
    expires_at: DateTime<Utc>,
) -> Result<Presigned, Error> {
    let upload = original(key)?;
    let mut query = LocalUploadQuery {
        tenant: key.tenant().clone(),
        expires: expires_at.timestamp(),
        max_bytes: options.max_bytes,
        content_type: options.content_type.clone(),
        signature: String::new(),
    };
    query.signature = hex::encode(Signed { key, query: &query }.mac(secret)?.finalize().into_bytes());
    let mut written = form_urlencoded::Serializer::new(String::new());
    written.append_pair("tenant", query.tenant.as_str());
    written.append_pair("expires", &query.expires.to_string());
    written.append_pair("max_bytes", &query.max_bytes.to_string());
    if let Some(content_type) = &query.content_type {
        written.append_pair("content_type", content_type);
    }
    written.append_pair("signature", &query.signature);
    let url = format!("/api/v1/uploads/{upload}?{}", written.finish());
    Ok(Presigned { method: "PUT".to_owned(), url, headers: headers(options), expires_at })
}

async fn sign_s3(
    signer: &AmazonS3,
    key: &Key,
    headers: Vec<(String, String)>,
    expires_in: Duration,
    expires_at: DateTime<Utc>,
) -> Result<Presigned, Error> {
    original(key)?;
    let mut signed = SignedUrlOptions::new();
    for (name, value) in &headers {
        let (name, value) = HeaderName::from_bytes(name.as_bytes())
            .ok()
            .zip(HeaderValue::from_str(value).ok())
            .ok_or(Error::Refused { reason: "the content type cannot stand in a header" })?;
        signed = signed.with_signed_header(name, value);
    }
    let url = signer
        .signed_url_opts(Method::PUT, &key.path(), expires_in, &signed)
        .await
        .map_err(|error| Error::from_store(&error))?;
    Ok(Presigned { method: "PUT".to_owned(), url: url.into(), headers, expires_at })
}

fn original(key: &Key) -> Result<UploadId, Error> {
    key.upload().ok_or_else(|| crate::InvalidKey::Form(key.to_string()).into())
}

fn headers(options: &PresignPut) -> Vec<(String, String)> {
    let content_type = options.content_type.iter();
    content_type.map(|content_type| ("content-type".to_owned(), content_type.clone())).collect()
}
