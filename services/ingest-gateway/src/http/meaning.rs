//! The meaning of a query: its vector in the live space, and in the fallback space where that is needed.

use std::time::Instant;

use riacho_domain::{SpaceId, TenantId};
use riacho_models::{Embeddings, Error as ModelError, Kind, Series, estimate_tokens};
use riacho_store::{Purpose, Space, Spent};
use riacho_traces::attributes;

use super::{App, problem::Problem, search::SearchMode, trace::Within};

/// What a search goes on with: the query's vector and its space, where it is searched by meaning.
pub(super) struct Meaning {
    pub(super) mode: SearchMode,
    pub(super) vector: Option<Vec<f32>>,
    pub(super) space: Option<SpaceId>,
    pub(super) warnings: Vec<String>,
}

impl Meaning {
    /// Embeds the query where that is asked for. A hybrid search whose query cannot be embedded goes on by words.
    pub(super) async fn of(
        (app, within): (&App, Within),
        tenant: &TenantId,
        query: &str,
        asked: SearchMode,
    ) -> Result<Meaning, Problem> {
        let words = |warnings| Meaning { mode: SearchMode::Keyword, vector: None, space: None, warnings };
        if asked == SearchMode::Keyword {
            return Ok(words(Vec::new()));
        }
        let live = async {
            let space = app.live_space().await?;
            let space = space.ok_or_else(|| Problem::unavailable("no embedding space is live"))?;
            Ok((embed((app, within), tenant, query, &space, "live").await?, space.id))
        };
        match live.await {
            Ok((vector, space)) => {
                Ok(Meaning { mode: asked, vector: Some(vector), space: Some(space), warnings: Vec::new() })
            }
            Err(problem) if asked == SearchMode::Vector => Err(problem),
            Err(problem) => Ok(words(vec![format!("searched by keywords only: {}", problem.detail())])),
        }
    }

    /// The query's vector in the fallback space. A hybrid search whose query cannot be embedded there looks by words
    /// alone for the documents that only that space has, and says so.
    pub(super) async fn in_fallback(
        &mut self,
        (app, within): (&App, Within),
        tenant: &TenantId,
        query: &str,
        space: &Space,
    ) -> Result<riacho_store::Fallback, Problem> {
        match embed((app, within), tenant, query, space, "fallback").await {
            Ok(vector) => Ok(riacho_store::Fallback::Vector(space.id, vector)),
            Err(problem) if self.mode == SearchMode::Vector => Err(problem),
            Err(problem) => {
                let what = "documents that the live embedding space lacks were searched by keywords only";
                self.warnings.push(format!("{what}: {}", problem.detail()));
                Ok(riacho_store::Fallback::Ignored)
            }
        }
    }
}

/// The query's vector in a space. `which` one it is says why, where that cannot be had.
async fn embed(
    (app, within): (&App, Within),
    tenant: &TenantId,
    query: &str,
    space: &Space,
    which: &str,
) -> Result<Vec<f32>, Problem> {
    let model = app.models().of(&space.model, space.dimensions).ok_or_else(|| {
        Problem::unavailable(format!(
            "the model of the {which} embedding space is not configured at this gateway"
        ))
    })?;
    // A turn at a provider's limits that leaves no time for the request is not taken.
    let time = app.config().query_embedding_timeout();
    let mut series = Series::until(Some(Instant::now() + time));
    let answer = async {
        app.check_model(&**model, space.id).await?;
        model.embed_next(vec![query.to_owned()], Kind::Query, &mut series).await
    };
    let mut span = within.call("embeddings", || {
        [
            (attributes::GEN_AI_OPERATION, "embeddings".into()),
            (attributes::GEN_AI_MODEL, model.id().to_owned().into()),
            (attributes::TENANT, tenant.to_string().into()),
            (attributes::COUNT, 1.into()),
        ]
    });
    let (reason, problem) = match tokio::time::timeout(time, answer).await {
        Ok(Ok(embeddings)) => {
            drop(span);
            return noted(app, tenant, query, (model.id(), embeddings));
        }
        Ok(Err(error)) if error.is_about_the_text() => {
            ("provider_refused", Problem::field("query", "the embedding model refuses it"))
        }
        Ok(Err(ModelError::TurnTooFar { .. })) => {
            ("limit", Problem::unavailable("the embedding provider is at its limit"))
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "a query could not be embedded");
            ("unavailable", Problem::unavailable("the embedding model is not available"))
        }
        Err(_) => ("timeout", Problem::unavailable("the embedding model did not answer in time")),
    };
    span.fail(reason);
    Err(problem)
}

/// The vector of a query, once what it cost is noted.
fn noted(
    app: &App,
    tenant: &TenantId,
    query: &str,
    (model, embeddings): (&str, Embeddings),
) -> Result<Vec<f32>, Problem> {
    let tokens = if embeddings.tokens > 0 { embeddings.tokens } else { estimate_tokens(query) as u64 };
    let spent = Spent { texts: 1, tokens, requests: 1, money_nanos: 0 };
    app.ledger().note(tenant, model, Purpose::Queries, spent);
    let vector = embeddings.vectors.into_iter().next();
    vector.ok_or_else(|| Problem::internal(&"the model answered no vector"))
}
