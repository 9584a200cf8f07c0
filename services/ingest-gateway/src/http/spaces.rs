//! Embedding spaces, to look at.

use axum::{Json, extract::State};
use riacho_store::{Space, SpaceState};
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
    /// `building`, `live` or `retired`.
    state: &'static str,
}

/// All spaces.
#[derive(Debug, Serialize, ToSchema)]
struct SpacesBody {
    /// The spaces.
    spaces: Vec<SpaceBody>,
}

/// List embedding spaces.
#[utoipa::path(get, path = "/api/v1/spaces", tag = "spaces", responses((status = 200, description = "All spaces.", body = SpacesBody)))]
async fn list(State(app): State<App>, _: Caller<Read>) -> Result<Json<SpacesBody>, Problem> {
    let spaces = app.store().spaces().await?;
    let body = |space: Space| SpaceBody {
        id: space.id,
        model: space.model,
        dimensions: space.dimensions,
        state: match space.state {
            SpaceState::Building => "building",
            SpaceState::Live => "live",
            SpaceState::Retired => "retired",
        },
    };
    Ok(Json(SpacesBody { spaces: spaces.into_iter().map(body).collect() }))
}
