//! Fills embedding spaces with vectors of stored chunks, each with its own model, until none is missing.
//!
//! What is missing stands in PostgreSQL, and a vector is written in the transaction that says so: this
//! may end at any moment. A space that is searched already is filled first, and without a limit: what
//! it lacks would have been embedded on its way, had it been live in time.

use std::{
    cmp::Reverse,
    collections::HashMap,
    time::{Duration, Instant},
};

use metrics::counter;
use riacho_domain::{TenantId, embedding_input, input_hash, sealed_title};
use riacho_models::{
    Call, Error as ModelError, Kind, Model, Reached, embed_some, estimate_tokens, to_f16_le,
};
use riacho_service::spend::Owner;
use riacho_store::{Filling, Gap, GapChunk, Purpose, Space, SpaceState};

use crate::{
    Error,
    filler::{BATCH, Course},
    job::Job,
    metrics::names,
};

/// Documents that are looked at in one step, of those that were there before the space.
const SEED: u32 = 1_000;
/// The pause where a provider says no other, and while it is away.
const AWAY: Duration = Duration::from_secs(2);
/// The pause after what only a person can mend.
const BROKEN: Duration = Duration::from_secs(10);
/// After so many failures in a row, with a model that works, the texts are tried one by one.
const DOUBTFUL: u32 = 3;
/// The longest wait for the rate; a new rate counts after it.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What a step came to.
enum Step {
    /// Something was done; there may be more.
    Done,
    /// The rate allows nothing yet.
    Wait(Duration),
    /// There is nothing to do, or nothing can be done now.
    Idle,
}

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let store = &job.janitor.store;
    if job.dry_run {
        for missing in store.missing(None).await?.values() {
            job.add("chunks", missing.chunks);
        }
        return Ok(());
    }
    while job.goes_on() {
        let mut spaces = store.spaces().await?;
        spaces.retain(|space| space.state != SpaceState::Retired);
        spaces.sort_by_key(|space| Reverse(urgency(space.state)));
        let (mut is_done, mut wait) = (false, None::<Duration>);
        for space in &spaces {
            let step = tokio::select! {
                step = step(job, space) => step?,
                // Nothing that was begun is lost by not waiting for the model.
                () = job.stopped() => return Ok(()),
            };
            match step {
                Step::Done => is_done = true,
                Step::Wait(time) => wait = Some(wait.map_or(time, |wait| wait.min(time))),
                Step::Idle => {}
            }
        }
        match wait.filter(|_| !is_done) {
            Some(wait) => tokio::select! {
                () = tokio::time::sleep(wait.min(LONGEST_WAIT)) => {}
                () = job.stopped() => {}
            },
            None if is_done => {}
            None => break,
        }
    }
    Ok(())
}

const fn urgency(state: SpaceState) -> u8 {
    match state {
        SpaceState::Live => 2,
        SpaceState::Standby => 1,
        SpaceState::Building | SpaceState::Retired => 0,
    }
}

async fn step(job: &Job<'_>, space: &Space) -> Result<Step, Error> {
    let store = &job.janitor.store;
    if !space.is_seeded {
        let is_seeded = store.seed_space(space.id, SEED).await?;
        if is_seeded {
            tracing::info!(
                space = space.id,
                model = space.model,
                "all documents were looked at for a new space"
            );
        }
        return Ok(Step::Done);
    }
    let mut courses = job.janitor.filler.courses().await;
    let course = courses.entry(space.id).or_default();
    let now = Instant::now();
    let rate = space.per_second.unwrap_or(job.config().fill_per_second);
    if course.is_paused(now) || rate == 0 {
        return Ok(Step::Idle);
    }
    let limit = match space.state {
        SpaceState::Live => BATCH,
        _ => match course.bucket.allowance(rate, now) {
            Ok(chunks) => chunks,
            Err(wait) => return Ok(Step::Wait(wait)),
        },
    };
    let gaps = store.gaps(space.id, limit).await?;
    if gaps.is_empty() {
        course.mark = None;
        if std::mem::take(&mut course.is_filling) {
            tracing::info!(
                space = space.id,
                model = space.model,
                "nothing is missing in the embedding space"
            );
        }
        tell(job, space, None).await?;
        return Ok(Step::Idle);
    }
    course.is_filling = true;
    if course.mark.is_none() {
        course.mark = store.fill_mark(space.id).await?;
    }
    fill(job, space, course, &gaps).await
}

async fn fill(job: &Job<'_>, space: &Space, course: &mut Course, gaps: &[Gap]) -> Result<Step, Error> {
    let store = &job.janitor.store;
    let fillings = match make(job, space, course, gaps).await {
        Ok(fillings) => fillings,
        Err(Trouble { text, pause }) => {
            course.paused_until = Some(Instant::now() + pause);
            tell(job, space, Some(&text)).await?;
            return Ok(Step::Idle);
        }
    };
    course.failures = 0;
    let asked: usize = gaps.iter().map(|gap| gap.chunks.len()).sum();
    course.bucket.take(u32::try_from(asked).unwrap_or(u32::MAX));
    let filled = match store.fill(space.id, &fillings).await {
        // It was given up meanwhile.
        Err(riacho_store::Error::Conflict(_)) => return Ok(Step::Idle),
        filled => filled?,
    };
    counter!(names::SPACE_FILLED, "state" => space.state.as_str()).increment(filled.vectors);
    job.add("chunks", filled.vectors);
    job.add("documents", filled.documents);
    tell(job, space, None).await?;
    if let Some(mark) = course.mark
        && store.reach_mark(space.id, &mark).await?
    {
        course.mark = None;
    }
    Ok(Step::Done)
}

/// Notes why a space is not filled, or that it is.
async fn tell(job: &Job<'_>, space: &Space, trouble: Option<&str>) -> Result<(), Error> {
    if space.trouble.as_deref() == trouble {
        return Ok(());
    }
    if let Some(reason) = trouble {
        tracing::warn!(space = space.id, reason, "the embedding space is not filled");
    }
    Ok(job.janitor.store.set_fill_trouble(space.id, trouble).await?)
}

/// Why nothing can be embedded at the moment, and for how long to wait.
struct Trouble {
    text: String,
    pause: Duration,
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

/// Makes the vectors of the gaps' chunks.
async fn make<'g>(
    job: &Job<'_>,
    space: &Space,
    course: &mut Course,
    gaps: &'g [Gap],
) -> Result<Vec<Filling<'g>>, Trouble> {
    let mut wanted = Wanted::default();
    let sources: Vec<_> = gaps.iter().map(|gap| sources(gap, &mut wanted)).collect();
    let vectors =
        if wanted.texts.is_empty() { Vec::new() } else { embed(job, space, course, &wanted).await? };
    Ok(gaps.iter().zip(sources).map(|(gap, sources)| filling(gap, sources, &vectors)).collect())
}

/// Finds a source for each chunk, and adds the texts that have to be embedded. None: nobody knows what was embedded of the
/// chunks.
fn sources<'g>(gap: &'g Gap, wanted: &mut Wanted<'g>) -> Option<Vec<Source<'g>>> {
    let title = sealed_title(&gap.manifest)?;
    let source = |chunk: &'g GapChunk| {
        let text = embedding_input(title, &chunk.heading_path, &chunk.text);
        let hash = input_hash(&text);
        match &chunk.known {
            // Another build may have hashed something else.
            Some(vector) if chunk.content_hash == hash => Source::Stored(vector),
            _ => Source::Text(wanted.place(&gap.tenant, hash, text)),
        }
    };
    Some(gap.chunks.iter().map(source).collect())
}

fn filling<'g>(
    gap: &'g Gap,
    sources: Option<Vec<Source<'_>>>,
    vectors: &[Result<Vec<f32>, String>],
) -> Filling<'g> {
    let Some(sources) = sources else {
        let why = "its manifest is of a form that this build does not know";
        let refused = (!gap.chunks.is_empty()).then(|| why.to_owned());
        return Filling { gap, vectors: vec![None; gap.chunks.len()], refused };
    };
    let mut refused = None;
    let vector = |source| match source {
        Source::Stored(vector) => Some(vector.to_vec()),
        Source::Text(place) => match vectors.get(place) {
            Some(Ok(vector)) => Some(to_f16_le(vector)),
            other => {
                let why = other.and_then(|made| made.as_ref().err().cloned());
                refused.get_or_insert_with(|| why.unwrap_or_else(|| "no vector was made of it".to_owned()));
                None
            }
        },
    };
    let vectors = sources.into_iter().map(vector).collect();
    Filling { gap, vectors, refused }
}

/// A vector for each text, or why the model refuses it.
async fn embed(
    job: &Job<'_>,
    space: &Space,
    course: &mut Course,
    wanted: &Wanted<'_>,
) -> Result<Vec<Result<Vec<f32>, String>>, Trouble> {
    let models = job.janitor.filler.models().await;
    let models = models.map_err(|error| Trouble { text: error.to_string(), pause: BROKEN })?;
    let model = models.of(&space.model, space.dimensions).ok_or_else(|| Trouble {
        text: format!(
            "no configured model of the janitor is {} with {} dimensions",
            space.model, space.dimensions
        ),
        pause: BROKEN,
    })?;
    let trouble = |error: &ModelError| Trouble { text: error.to_string(), pause: pause(error) };
    if !course.is_verified {
        model.verify().await.map_err(|error| trouble(&error))?;
        course.is_verified = true;
    }
    let is_doubtful = course.failures >= DOUBTFUL;
    let reached = match is_doubtful {
        true => singly(&**model, &wanted.texts).await,
        false => embed_some(&**model, &wanted.texts, Kind::Passage, None).await,
    };
    let ledger = &job.janitor.filler.ledger;
    ledger.note_calls(model.id(), purpose(space.state), &wanted.owners, &reached.calls);
    // What cannot be written now is written with the next one's.
    ledger.write().await;
    if let Some(error) = reached.ended {
        // A model that embeds known texts has trouble with these.
        let is_transient = matches!(error, ModelError::Transient { .. });
        if !is_doubtful && is_transient && model.verify().await.is_ok() {
            course.failures += 1;
        }
        return Err(trouble(&error));
    }
    let vectors = reached.vectors.into_iter().map(|one| match one {
        Some(made) => made.map_err(|error| error.to_string()),
        None => Err("a text has no vector".to_owned()),
    });
    Ok(vectors.collect())
}

/// What the live space lacks was on its way at a switch: its documents would have been embedded for it.
const fn purpose(state: SpaceState) -> Purpose {
    match state {
        SpaceState::Live => Purpose::Documents,
        SpaceState::Building | SpaceState::Standby | SpaceState::Retired => Purpose::Spaces,
    }
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
                return reached;
            }
        }
    }
    // Where all failed, it is the model that went away.
    if reached.calls.is_empty() {
        reached.ended = model.verify().await.err();
    }
    reached
}

fn pause(error: &ModelError) -> Duration {
    match error {
        ModelError::RateLimited { retry_after } => retry_after.unwrap_or(AWAY),
        ModelError::Transient { .. } | ModelError::Interrupted => AWAY,
        _ => BROKEN,
    }
}
