//! Embedding spaces, to look at.

use axum::{Json, extract::State};
use riacho_store::{Missing, Space, SpaceState};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    auth::{Caller, Read},
    problem::Problem,
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

/// A model with its dimensions, and the vectors made with it.
#[derive(Debug, Serialize, ToSchema)]
struct SpaceBody {
    /// Its id.
    id: u32,
    /// The model.
    model: String,
    /// Values of a vector.
    dimensions: u32,
    /// `live`: it is searched; `building`: it is filled beside the live one; `standby`: it was live, and is kept complete;
    /// `fallback`: documents go there whose tenants go on over their budget; `retired`: it is not used any more.
    state: &'static str,
    /// Share of the tenant's documents that have all their vectors in it, 0 to 1; absent while nobody knows, and of a space
    /// that is retired or the fallback.
    progress: Option<f64>,
    /// Documents of the tenant that lack vectors in it.
    missing_documents: u64,
    /// Chunks of the tenant that lack vectors in it.
    missing_chunks: u64,
}

/// All spaces.
#[derive(Debug, Serialize, ToSchema)]
struct SpacesBody {
    /// The spaces.
    spaces: Vec<SpaceBody>,
}

/// List embedding spaces.
#[utoipa::path(get, path = "/api/v1/spaces", tag = "spaces", responses((status = 200, description = "All spaces.", body = SpacesBody)))]
async fn list(State(app): State<App>, caller: Caller<Read>) -> Result<Json<SpacesBody>, Problem> {
    let store = app.store();
    let (spaces, missing) = (store.spaces().await?, store.missing(Some(&caller.tenant)).await?);
    let documents = match missing.is_empty() {
        true => 0,
        false => store.live_documents(&caller.tenant).await?,
    };
    let body = |space: Space| {
        let lacks = missing.get(&space.id).copied().unwrap_or_default();
        SpaceBody {
            id: space.id,
            progress: progress(&space, lacks, documents),
            model: space.model,
            dimensions: space.dimensions,
            state: space.state.as_str(),
            missing_documents: lacks.documents,
            missing_chunks: lacks.chunks,
        }
    };
    Ok(Json(SpacesBody { spaces: spaces.into_iter().map(body).collect() }))
}

fn progress(space: &Space, lacks: Missing, documents: u64) -> Option<f64> {
    if !space.is_seeded || matches!(space.state, SpaceState::Retired | SpaceState::Fallback) {
        return None;
    }
    // A document may come between the two counts.
    let documents = documents.max(lacks.documents).max(1);
    #[allow(clippy::cast_precision_loss)] // a share for people
    Some(1.0 - lacks.documents as f64 / documents as f64)
}
