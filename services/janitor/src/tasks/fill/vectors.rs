//! The vectors of chunks that a space lacks: those that the tenant has in it already, and those that its model makes.

use std::{collections::HashMap, time::Duration};

use riacho_domain::{TenantId, embedding_input, input_hash, sealed_title};
use riacho_models::{
    Call, Error as ModelError, Kind, Model, Reached, embed_some, estimate_tokens, to_f16_le,
};
use riacho_service::{check_model, spend::Owner};
use riacho_store::{Gap, GapChunk, Purpose, Space, SpaceState};

use crate::{filler::Course, job::Job};

/// The pause where a provider says no other, and while it is away.
const AWAY: Duration = Duration::from_secs(2);
/// The longest pause of one that is at its limit: its limiter sends nothing too early.
const LIMITED: Duration = Duration::from_secs(5);
/// The pause after what only a person can mend.
const BROKEN: Duration = Duration::from_secs(10);
/// After so many failures in a row, with a model that works, the texts are tried one by one.
const DOUBTFUL: u32 = 3;

/// Why nothing can be embedded at the moment, and for how long to wait.
pub(super) struct Trouble {
    pub(super) text: String,
    pub(super) pause: Duration,
}

/// What was made of a gap's first chunks.
pub(super) struct Made {
    /// A vector of each; none where the model refuses it.
    pub(super) vectors: Vec<Option<Vec<u8>>>,
    /// Why it does.
    pub(super) refused: Option<String>,
}

/// Where a chunk's vector comes from.
enum Source<'g> {
    /// The tenant has the content in the space already.
    Stored(&'g [u8]),
    /// It is made of this text of the batch.
    Text(usize),
}

/// Texts that have to be embedded, each content of a tenant once.
#[derive(Default)]
struct Wanted<'g> {
    texts: Vec<String>,
    owners: Vec<Owner>,
    places: HashMap<(&'g TenantId, [u8; 32]), usize>,
}

impl<'g> Wanted<'g> {
    /// The place of a text.
    fn place(&mut self, tenant: &'g TenantId, hash: [u8; 32], text: String) -> usize {
        *self.places.entry((tenant, hash)).or_insert_with(|| {
            self.owners.push(Owner { tenant: tenant.clone(), tokens: estimate_tokens(&text) as u64 });
            self.texts.push(text);
            self.texts.len() - 1
        })
    }
}

/// A vector of a text, or why the model refuses it.
type Vector = Result<Vec<f32>, ModelError>;

/// Makes vectors of the gaps' chunks, of the first ones as far as one call of the model reaches: what follows is for the
/// next step, so that little is lost when something goes wrong. What was made before a trouble is kept.
pub(super) async fn make(
    job: &Job<'_>,
    space: &Space,
    course: &mut Course,
    gaps: &[Gap],
) -> (Vec<Made>, Option<Trouble>) {
    let mut wanted = Wanted::default();
    let sources: Vec<_> = gaps.iter().map(|gap| sources(gap, &mut wanted)).collect();
    let (vectors, trouble) = if wanted.texts.is_empty() {
        (Vec::new(), None)
    } else {
        match embed(job, space, course, &wanted).await {
            Ok(embedded) => embedded,
            Err(trouble) => (Vec::new(), Some(trouble)),
        }
    };
    (made_of(gaps, sources, &vectors), trouble)
}

/// Finds a source for each chunk, and adds the texts that have to be embedded. None: nobody knows what was embedded of the
/// chunks.
fn sources<'g>(gap: &'g Gap, wanted: &mut Wanted<'g>) -> Option<Vec<Source<'g>>> {
    let title = sealed_title(&gap.manifest)?;
    let source = |chunk: &'g GapChunk| {
        let text = embedding_input(title, &chunk.heading_path, &chunk.table_header, &chunk.text);
        let hash = input_hash(&text);
        match &chunk.known {
            // Another build may have hashed something else.
            Some(vector) if chunk.content_hash == hash => Source::Stored(vector),
            _ => Source::Text(wanted.place(&gap.tenant, hash, text)),
        }
    };
    Some(gap.chunks.iter().map(source).collect())
}

/// What was made of each gap, up to the first chunk whose text has no vector yet.
fn made_of(gaps: &[Gap], sources: Vec<Option<Vec<Source<'_>>>>, vectors: &[Vector]) -> Vec<Made> {
    let mut all = Vec::with_capacity(gaps.len());
    for (gap, sources) in gaps.iter().zip(sources) {
        let made = made(gap, sources, vectors);
        let (count, wanted) = (made.vectors.len(), gap.chunks.len());
        if count > 0 || wanted == 0 {
            all.push(made);
        }
        if count < wanted {
            break;
        }
    }
    all
}

fn made(gap: &Gap, sources: Option<Vec<Source<'_>>>, vectors: &[Vector]) -> Made {
    let Some(sources) = sources else {
        let why = "its manifest is of a form that this build does not know";
        let refused = (!gap.chunks.is_empty()).then(|| why.to_owned());
        return Made { vectors: vec![None; gap.chunks.len()], refused };
    };
    let mut made = Made { vectors: Vec::with_capacity(sources.len()), refused: None };
    for source in sources {
        let vector = match source {
            Source::Stored(vector) => Some(vector.to_vec()),
            Source::Text(place) => match vectors.get(place) {
                Some(Ok(vector)) => Some(to_f16_le(vector)),
                Some(Err(error)) => {
                    made.refused.get_or_insert_with(|| error.to_string());
                    None
                }
                None => break,
            },
        };
        made.vectors.push(vector);
    }
    made
}

/// A vector for each of the first texts, and what kept the model from making more.
async fn embed(
    job: &Job<'_>,
    space: &Space,
    course: &mut Course,
    wanted: &Wanted<'_>,
) -> Result<(Vec<Vector>, Option<Trouble>), Trouble> {
    let models = job.janitor.filler.models().await;
    let models = models.map_err(|error| Trouble { text: error.to_string(), pause: BROKEN })?;
    let model = models.of(&space.model, space.dimensions).ok_or_else(|| Trouble {
        text: format!(
            "no configured model of the janitor is {} with {} dimensions",
            space.model, space.dimensions
        ),
        pause: BROKEN,
    })?;
    if !course.is_verified {
        model.verify().await.map_err(|error| trouble(&error))?;
        let fits = check_model(&job.janitor.store, &**model, space.id).await;
        fits.map_err(|error| trouble(&error))?;
        course.is_verified = true;
    }
    let texts = &wanted.texts[..of_one_call(&**model, &wanted.texts)];
    let is_doubtful = course.failures >= DOUBTFUL;
    let reached = match is_doubtful {
        true => singly(&**model, texts).await,
        false => embed_some(&**model, texts, Kind::Passage, None).await,
    };
    let ledger = &job.janitor.filler.ledger;
    ledger.note_calls(model.id(), purpose(space.state), &wanted.owners, &reached.calls);
    // What cannot be written now is written with the next one's.
    ledger.write().await;
    let vectors: Vec<Vector> = reached.vectors.into_iter().map_while(|vector| vector).collect();
    if !vectors.is_empty() {
        course.failures = 0;
    }
    // A model that embeds known texts has trouble with these.
    if let Some(ModelError::Transient { .. }) = reached.ended
        && !is_doubtful
        && model.verify().await.is_ok()
    {
        course.failures += 1;
    }
    Ok((vectors, reached.ended.as_ref().map(trouble)))
}

/// What the live space lacks was on its way at a switch, or came when a budget was used up: its documents would have been
/// embedded for it.
const fn purpose(state: SpaceState) -> Purpose {
    match state {
        SpaceState::Live => Purpose::Documents,
        SpaceState::Building | SpaceState::Standby | SpaceState::Fallback | SpaceState::Retired => {
            Purpose::Spaces
        }
    }
}

/// How many of the texts go into one call of the model, at least one.
fn of_one_call(model: &dyn Model, texts: &[String]) -> usize {
    let (mut tokens, most) = (0, model.max_batch_tokens());
    let fits = |text: &&String| {
        tokens += estimate_tokens(text);
        tokens <= most
    };
    let count = texts.iter().take_while(fits).count();
    count.min(model.max_batch_items()).max(1)
}

/// Embeds texts one by one; those that fail again are refused, so that they hold up no other.
async fn singly(model: &dyn Model, texts: &[String]) -> Reached {
    let mut reached = Reached { vectors: vec![None; texts.len()], calls: Vec::new(), ended: None };
    for (place, text) in texts.iter().enumerate() {
        match model.embed(vec![text.clone()], Kind::Passage).await {
            Ok(made) => {
                reached.calls.push(Call { texts: place..place + 1, tokens: made.tokens });
                reached.vectors[place] = made.vectors.into_iter().next().map(Ok);
            }
            Err(error @ (ModelError::Transient { .. } | ModelError::Rejected { .. })) => {
                reached.vectors[place] = Some(Err(error));
            }
            Err(error) => {
                reached.ended = Some(error);
                break;
            }
        }
    }
    // Where all failed, it is the model that went away.
    if reached.calls.is_empty()
        && let Err(error) = model.verify().await
    {
        return Reached { vectors: Vec::new(), ended: Some(error), ..reached };
    }
    reached
}

fn trouble(error: &ModelError) -> Trouble {
    let pause = match error {
        ModelError::RateLimited { retry_after } => retry_after.unwrap_or(AWAY).min(LIMITED),
        ModelError::TurnTooFar { wait } => (*wait).min(LIMITED),
        ModelError::Transient { .. } | ModelError::Interrupted => AWAY,
        _ => BROKEN,
    };
    Trouble { text: error.to_string(), pause }
}
