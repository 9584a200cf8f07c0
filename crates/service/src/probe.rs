//! Whether a model is the one that an embedding space was made with.

use riacho_domain::SpaceId;
use riacho_models::{Error, Model, from_f16_le, is_same_model, to_f16_le};
use riacho_store::Store;

/// Compares what a model makes of known texts with what is kept of the space's, before it makes vectors for the space. Where
/// nothing is kept, this model is the one from now on.
///
/// # Errors
/// `Misconfigured` for another model; what the model says, or `Transient` while the database is away.
pub async fn check_model(store: &Store, model: &dyn Model, space: SpaceId) -> Result<(), Error> {
    let kept = kept(store, space).await?;
    let made = model.probe().await?;
    let kept = match kept {
        Some(kept) => kept,
        None => {
            let keeps = store.keep_probe(space, &to_f16_le(&made)).await;
            keeps.map_err(|error| away(&error))?;
            // Somebody else may have been first.
            self::kept(store, space).await?.unwrap_or_default()
        }
    };
    compare(model, space, &made, &kept)
}

/// The same before a model makes vectors that search the space. False where nothing is kept: who only searches does not say
/// which model is right.
///
/// # Errors
/// As [`check_model`].
pub async fn check_known_model(store: &Store, model: &dyn Model, space: SpaceId) -> Result<bool, Error> {
    let Some(kept) = kept(store, space).await? else { return Ok(false) };
    compare(model, space, &model.probe().await?, &kept).map(|()| true)
}

async fn kept(store: &Store, space: SpaceId) -> Result<Option<Vec<u8>>, Error> {
    store.probe(space).await.map_err(|error| away(&error))
}

fn compare(model: &dyn Model, space: SpaceId, made: &[f32], kept: &[u8]) -> Result<(), Error> {
    if from_f16_le(kept).is_some_and(|kept| is_same_model(made, &kept)) {
        return Ok(());
    }
    let reason = format!(
        "{} makes other vectors now than those of embedding space {space}: it is another model of the same name. Configure the \
         one that the space was made with, or give this one a name of its own (models.id, models.spaces.NAME.id) and a space",
        model.id()
    );
    Err(Error::Misconfigured { reason })
}

fn away(error: &riacho_store::Error) -> Error {
    Error::Transient { reason: error.to_string() }
}
