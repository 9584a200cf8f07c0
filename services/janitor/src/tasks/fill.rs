//! Fills embedding spaces with vectors of stored chunks, each with its own model, until none is missing.
//!
//! What is missing stands in PostgreSQL, and a vector is written in the transaction that says so: this
//! may end at any moment. Each space is filled by itself, so that a model that is slow or at its limit keeps no
//! other waiting. One that is searched already has no rate: what it lacks would have been embedded on its way, had
//! it been live in time. What it lacks of a tenant that has used up a budget waits for the next one; the fallback space is not filled.

mod vectors;

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use metrics::counter;
use riacho_domain::SpaceId;
use riacho_store::{Filling, Gap, Space, SpaceState};

use self::vectors::{Made, Trouble};
use crate::{
    Error,
    filler::{BATCH, Course},
    job::Job,
    metrics::names,
};

/// Documents that are looked at in one step, of those that were there before the space.
const SEED: u32 = 1_000;
/// The longest wait for the rate; a new rate counts after it.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How often is looked, while some spaces are filled, whether others lack something now.
const LOOK: Duration = Duration::from_secs(1);

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
    if job.dry_run {
        for missing in job.janitor.store.missing(None).await?.values() {
            job.add("chunks", missing.chunks);
        }
        return Ok(());
    }
    // After a failure no space takes another step; what was begun is finished, since it may have been paid for.
    let is_over = AtomicBool::new(false);
    let (mut running, mut busy, mut failed) = (FuturesUnordered::new(), HashSet::new(), None);
    loop {
        if failed.is_none() && job.goes_on() {
            match used(job).await {
                Ok(spaces) => {
                    for id in spaces.iter().map(|space| space.id).filter(|id| busy.insert(*id)) {
                        running.push(fill_up(job, id, &is_over).map(move |ended| (id, ended)));
                    }
                }
                Err(error) => failed = Some(error),
            }
        }
        let look = tokio::time::sleep(LOOK);
        tokio::pin!(look);
        loop {
            is_over.store(failed.is_some(), Ordering::Relaxed);
            tokio::select! {
                ended = running.next() => {
                    let Some((id, ended)) = ended else { return failed.map_or(Ok(()), Err) };
                    busy.remove(&id);
                    failed = failed.or(ended.err());
                }
                () = &mut look => break,
            }
        }
    }
}

/// The spaces that are to be filled.
async fn used(job: &Job<'_>) -> Result<Vec<Space>, Error> {
    let mut spaces = job.janitor.store.spaces().await?;
    spaces.retain(|space| !matches!(space.state, SpaceState::Fallback | SpaceState::Retired));
    Ok(spaces)
}

/// Fills a space for as long as there is something to do.
async fn fill_up(job: &Job<'_>, id: SpaceId, is_over: &AtomicBool) -> Result<(), Error> {
    while job.goes_on() && !is_over.load(Ordering::Relaxed) {
        // State and rate may have changed.
        let Some(space) = used(job).await?.into_iter().find(|space| space.id == id) else { break };
        let step = tokio::select! {
            step = step(job, &space) => step?,
            // Nothing that was begun is lost by not waiting for the model.
            () = job.stopped() => break,
        };
        match step {
            Step::Done => {}
            Step::Wait(wait) => tokio::select! {
                () = tokio::time::sleep(wait.min(LONGEST_WAIT)) => {}
                () = job.stopped() => {}
            },
            Step::Idle => break,
        }
    }
    Ok(())
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
    let course = &mut *job.janitor.filler.course(space.id).await;
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
                "nothing more is to be filled into the embedding space"
            );
        }
        tell(job, space, None).await?;
        return Ok(Step::Idle);
    }
    course.is_filling = true;
    if course.mark.is_none() {
        course.mark = store.fill_mark(space.id).await?;
    }
    fill(job, space, course, gaps).await
}

/// Makes vectors of chunks and writes them, as far as the model came.
async fn fill(job: &Job<'_>, space: &Space, course: &mut Course, mut gaps: Vec<Gap>) -> Result<Step, Error> {
    let store = &job.janitor.store;
    let (made, trouble) = vectors::make(job, space, course, &gaps).await;
    let (mut asked, mut reached) = (0, 0);
    for (gap, made) in gaps.iter_mut().zip(&made) {
        gap.cut(made.vectors.len());
        asked += gap.chunks.len();
        reached += 1;
    }
    gaps.truncate(reached);
    course.bucket.take(u32::try_from(asked).unwrap_or(u32::MAX));
    let filling = |(gap, made)| {
        let Made { vectors, refused } = made;
        Filling { gap, vectors, refused }
    };
    let fillings: Vec<_> = gaps.iter().zip(made).map(filling).collect();
    if !fillings.is_empty() {
        let filled = match store.fill(space.id, &fillings).await {
            // It was given up meanwhile.
            Err(riacho_store::Error::Conflict(_)) => return Ok(Step::Idle),
            filled => filled?,
        };
        counter!(names::SPACE_FILLED, "state" => space.state.as_str()).increment(filled.vectors);
        job.add("chunks", filled.vectors);
        job.add("documents", filled.documents);
    }
    if let Some(Trouble { text, pause }) = trouble {
        course.paused_until = Some(Instant::now() + pause);
        tell(job, space, Some(&text)).await?;
        return Ok(Step::Idle);
    }
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
