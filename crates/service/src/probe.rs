//! Whether a model is the one that an embedding space was made with.

use riacho_domain::SpaceId;
use riacho_models::{Error, Model, from_f16_le, is_same_model, to_f16_le};
use riacho_store::Store;

/// Compares what a model makes of known texts with what is kept of the space's. Where nothing is kept, this model is
/// the one from now on.
///
/// # Errors
/// `Misconfigured` for another model; what the model says, or `Transient` while the database is away.
pub async fn check_model(store: &Store, model: &dyn Model, space: SpaceId) -> Result<(), Error> {
    let made = model.probe().await?;
    let kept = store.agree_on_probe(space, &to_f16_le(&made)).await;
    let kept = kept.map_err(|error| Error::Transient { reason: error.to_string() })?;
    if from_f16_le(&kept).is_some_and(|kept| is_same_model(&made, &kept)) {
        return Ok(());
    }
    let reason = format!(
        "{} makes other vectors now than those of embedding space {space}: it is another model of the same name. Configure the \
         one that the space was made with, or give this one a name of its own (models.id, models.spaces.NAME.id) and a space",
        model.id()
    );
    Err(Error::Misconfigured { reason })
}
