//! `riacho bench bus`: what the streams and the runner do, beside what Redis can do, in one run.

use std::time::Duration;

use serde::Serialize;

use super::{
    hop::{self, Load},
    raw, redelivery,
    server::Server,
};
use crate::{cli::BenchBus, commands::Context, output};

/// How often the raw client and the runner are measured, in turn: a machine's speed changes within seconds, so that only
/// what was measured next to each other can be compared.
const ROUNDS: usize = 5;
/// How long an idle stage is watched.
const IDLE: Duration = Duration::from_secs(10);
const SECONDS_OF_A_MONTH: f64 = 30.0 * 86_400.0;

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
struct Figures {
    /// Events of each round; one at a time it is half of them, for growth twice as many.
    events: usize,
    /// Bytes of an event as it stands on the stream.
    event_bytes: usize,
    /// Events a second of a client that only pipelines the four commands of a hop. This and the rate in batches are
    /// medians over the rounds.
    raw_pipelined_per_s: f64,
    /// Processor time of Redis and of that client for an event, in microseconds.
    raw_processor_us: [f64; 2],
    /// Events a second through the runner, many in one call of the stage.
    hop_batched_per_s: f64,
    /// The same as a share of the raw client's, the median of the rounds' shares.
    hop_batched_share: f64,
    /// The share in each round.
    hop_batched_shares: Vec<f64>,
    /// Processor time of Redis and of the runner for an event, in microseconds.
    hop_batched_processor_us: [f64; 2],
    /// Events a second through the runner, one in each call of the stage, one call at a time.
    hop_single_per_s: f64,
    /// Processor time of Redis and of the runner for an event, in microseconds.
    hop_single_processor_us: [f64; 2],
    /// Commands sent for an event in batches.
    commands_batched: f64,
    /// Commands executed for an event in batches, those of scripts included.
    executed_batched: f64,
    /// Commands sent for an event, one at a time.
    commands_single: f64,
    /// Commands executed for an event one at a time, those of scripts included.
    executed_single: f64,
    /// Redis' memory for an event that waits.
    bytes_per_event: f64,
    /// From XADD to the reply of a client that only waits for it, on an idle system.
    raw_idle_p50_ms: f64,
    /// The same, of a hundred the largest but one.
    raw_idle_p99_ms: f64,
    /// From XADD of an event to the start of its handler on an idle system.
    idle_p50_ms: f64,
    /// The same, of a hundred the largest but one.
    idle_p99_ms: f64,
    /// Commands that one idle stage of one process sends in 30 days.
    idle_commands_a_month: f64,
    /// Kills of a worker that held an event.
    kills: usize,
    /// From the kill to the start of the next run.
    redelivery_p50_s: f64,
    /// The same, of a hundred the largest but one.
    redelivery_p99_s: f64,
    /// The longest.
    redelivery_max_s: f64,
    /// How the rate changes with partitions, consumers and backlog.
    growth: Vec<Growth>,
}

#[derive(Debug, Serialize)]
struct Growth {
    partitions: u16,
    consumers: usize,
    backlog: usize,
    hop_batched_per_s: f64,
}

pub(super) async fn run(context: &Context, options: &BenchBus) -> anyhow::Result<()> {
    let server = Server::start().await?;
    let events = options.events.max(1_000);
    let mut figures = Figures { events, event_bytes: hop::event().1.len(), ..Figures::default() };
    context.output.note(&format!("{events} events of {} bytes, one after the other:", figures.event_bytes));

    let load = Load { events, partitions: 1, consumers: 1, batched: true };
    compare(&server, load, &mut figures).await?;
    let single = hop::rate(&server, Load { events: events / 2, batched: false, ..load }).await?;
    figures.hop_single_per_s = single.per_second;
    figures.hop_single_processor_us = single.processor_us;
    (figures.commands_single, figures.executed_single) = (single.sent, single.executed);

    let millis = |waits: &[Duration]| {
        let at = |share| quantile(waits, share).as_secs_f64() * 1_000.0;
        (at(0.5), at(0.99))
    };
    let waits = raw::latencies(&server, 1_000, figures.event_bytes)?;
    (figures.raw_idle_p50_ms, figures.raw_idle_p99_ms) = millis(&waits);
    let waits = hop::latencies(&server, 1_000).await?;
    (figures.idle_p50_ms, figures.idle_p99_ms) = millis(&waits);
    figures.idle_commands_a_month = hop::idle_commands(&server, IDLE).await? * SECONDS_OF_A_MONTH;
    if options.kills > 0 {
        let times = redelivery::times(&server, options.kills).await?;
        let seconds = |share| quantile(&times, share).as_secs_f64();
        figures.kills = times.len();
        figures.redelivery_p50_s = seconds(0.5);
        figures.redelivery_p99_s = seconds(0.99);
        figures.redelivery_max_s = seconds(1.0);
    }
    if options.growth {
        figures.growth = growth(&server, 2 * events).await?;
    }
    context.output.result(&figures, || table(&figures));
    Ok(())
}

/// The raw client and the runner in batches, in turn.
async fn compare(server: &Server, load: Load, figures: &mut Figures) -> anyhow::Result<()> {
    let (mut raw, mut batched) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // Each is first as often as the other, nearly: what one leaves to do in the background meets both.
        for is_raw in [round % 2 == 0, round % 2 == 1] {
            if is_raw {
                server.flush()?;
                raw.push(raw::rate(server, load.events, figures.event_bytes)?);
            } else {
                batched.push(hop::rate(server, load).await?);
            }
        }
    }
    let processor = |of: &[[f64; 2]]| [0, 1].map(|at| median(of.iter().map(|each| each[at])));
    figures.raw_pipelined_per_s = median(raw.iter().map(|(rate, _)| *rate));
    figures.raw_processor_us = processor(&raw.iter().map(|(_, micros)| *micros).collect::<Vec<_>>());
    figures.hop_batched_per_s = median(batched.iter().map(|rate| rate.per_second));
    figures.hop_batched_processor_us =
        processor(&batched.iter().map(|rate| rate.processor_us).collect::<Vec<_>>());
    figures.commands_batched = median(batched.iter().map(|rate| rate.sent));
    figures.executed_batched = median(batched.iter().map(|rate| rate.executed));
    figures.bytes_per_event = median(batched.iter().map(|rate| rate.bytes));
    let shares = batched.iter().zip(&raw).map(|(rate, (raw, _))| rate.per_second / raw);
    figures.hop_batched_shares = shares.collect();
    figures.hop_batched_share = median(figures.hop_batched_shares.iter().copied());
    Ok(())
}

fn median(of: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = of.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// The rate with more partitions, more consumers and a longer backlog.
async fn growth(server: &Server, events: usize) -> anyhow::Result<Vec<Growth>> {
    let base = Load { events, partitions: 1, consumers: 1, batched: true };
    let mut loads = Vec::new();
    for partitions in [1, 4, 16] {
        loads.extend([1, 2, 4, 8].map(|consumers| Load { partitions, consumers, ..base }));
    }
    loads.extend([10_000, 100_000, 1_000_000].map(|events| Load { events, ..base }));
    let mut growth = Vec::new();
    for load in loads {
        let hop_batched_per_s = hop::rate(server, load).await?.per_second;
        let Load { partitions, consumers, events: backlog, .. } = load;
        growth.push(Growth { partitions, consumers, backlog, hop_batched_per_s });
    }
    Ok(growth)
}

/// The value below which a share of the sorted values lies.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let at = ((sorted.len().max(1) - 1) as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or_default()
}

fn processor([redis, client]: [f64; 2]) -> String {
    format!(" ({redis:.1} + {client:.1} us of Redis + client each)")
}

fn percents(shares: &[f64]) -> String {
    shares.iter().map(|share| format!("{:.0}", share * 100.0)).collect::<Vec<_>>().join(", ")
}

fn table(figures: &Figures) -> String {
    let row = |what: &str, value: String| vec![what.to_owned(), value];
    let mut rows = vec![
        row(
            "raw client, the four commands pipelined",
            format!("{:.0} events/s{}", figures.raw_pipelined_per_s, processor(figures.raw_processor_us)),
        ),
        row(
            "runner, in batches",
            format!(
                "{:.0} events/s{}, {:.0}% of the raw client ({})",
                figures.hop_batched_per_s,
                processor(figures.hop_batched_processor_us),
                figures.hop_batched_share * 100.0,
                percents(&figures.hop_batched_shares)
            ),
        ),
        row(
            "runner, one at a time",
            format!("{:.0} events/s{}", figures.hop_single_per_s, processor(figures.hop_single_processor_us)),
        ),
        row(
            "commands for an event, in batches",
            format!("{:.3} sent, {:.2} executed", figures.commands_batched, figures.executed_batched),
        ),
        row(
            "commands for an event, one at a time",
            format!("{:.2} sent, {:.2} executed", figures.commands_single, figures.executed_single),
        ),
        row("memory of Redis for an event that waits", format!("{:.0} bytes", figures.bytes_per_event)),
        row(
            "from XADD to the reply of a raw client, idle",
            format!("p50 {:.2} ms, p99 {:.2} ms", figures.raw_idle_p50_ms, figures.raw_idle_p99_ms),
        ),
        row(
            "from XADD to the handler, idle",
            format!("p50 {:.2} ms, p99 {:.2} ms", figures.idle_p50_ms, figures.idle_p99_ms),
        ),
        row(
            "commands of an idle stage in 30 days",
            format!("{:.1} million", figures.idle_commands_a_month / 1e6),
        ),
    ];
    if figures.kills > 0 {
        rows.push(row(
            &format!("run again after kill -9 ({} kills)", figures.kills),
            format!(
                "p50 {:.2} s, p99 {:.2} s, largest {:.2} s",
                figures.redelivery_p50_s, figures.redelivery_p99_s, figures.redelivery_max_s
            ),
        ));
    }
    rows.extend(figures.growth.iter().map(|growth| {
        row(
            &format!(
                "in batches, {} partitions, {} consumers, backlog {}",
                growth.partitions, growth.consumers, growth.backlog
            ),
            format!("{:.0} events/s", growth.hop_batched_per_s),
        )
    }));
    output::table(&["what", "measured"], rows)
}
