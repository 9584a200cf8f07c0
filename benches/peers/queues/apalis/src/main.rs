//! apalis-redis. Usage: apalis-peer enqueue KIND COUNT | publish COUNT GAP_MS | work fast|one|default
//!
//! The kinds of payloads are described in ../../python/handler.py.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{env, fs, process};

use apalis::prelude::*;
use apalis_redis::{Config, RedisStorage};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until};

type Storage = RedisStorage<String>;

const CHUNK: usize = 100;
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const HOLD: Duration = Duration::from_secs(3600);

struct Seen {
    count: usize,
    first: u64,
    latencies: Vec<String>,
}

static SEEN: Mutex<Seen> = Mutex::new(Seen { count: 0, first: 0, latencies: Vec::new() });

/// Nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share.
fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (time.tv_sec * 1_000_000_000 + time.tv_nsec) as u64
}

fn payload(kind: &str) -> String {
    let mut text = format!("{kind} {} ", now());
    text.extend(std::iter::repeat_n('x', 200 - text.len()));
    text
}

async fn job(text: String) -> Result<(), BoxDynError> {
    let started = now();
    let mut words = text.split(' ');
    let (kind, sent) = (words.next().unwrap_or(""), words.next().unwrap_or("0").parse::<u64>()?);
    if kind == "mark" || kind == "hold" {
        let path = env::var("PEER_MARKS")?;
        writeln!(
            fs::OpenOptions::new().append(true).create(true).open(path)?,
            "{} {started}",
            process::id()
        )?;
        if kind == "hold" {
            sleep(HOLD).await;
        }
        return Ok(());
    }
    let mut seen = SEEN.lock().unwrap();
    seen.count += 1;
    if seen.count == 1 {
        seen.first = started;
    }
    if kind == "idle" {
        seen.latencies.push((started - sent).to_string());
    }
    if seen.count == env::var("PEER_EXPECT")?.parse::<usize>()? {
        report(kind, &seen)?;
    }
    Ok(())
}

fn report(kind: &str, seen: &Seen) -> Result<(), BoxDynError> {
    let mut text = String::new();
    if kind == "idle" {
        write!(text, "{{\"latencies_ns\": [{}]}}", seen.latencies.join(", "))?;
    } else {
        write!(text, "{{\"first_ns\": {}, \"last_ns\": {}}}", seen.first, now())?;
    }
    let path = env::var("PEER_REPORT")?;
    fs::write(format!("{path}.new"), text)?;
    fs::rename(format!("{path}.new"), path)?;
    Ok(())
}

async fn send(mut storage: Storage, command: &str, arguments: &[String]) -> Result<(), BoxDynError> {
    if command == "publish" {
        let (count, gap) = (arguments[0].parse::<u32>()?, Duration::from_millis(arguments[1].parse()?));
        let start = Instant::now();
        for n in 0..count {
            sleep_until(start + gap * n).await;
            storage.push(payload("idle")).await?;
        }
        return Ok(());
    }
    let mut left = arguments[1].parse::<usize>()?;
    while left > 0 {
        let size = left.min(CHUNK);
        storage.push_bulk((0..size).map(|_| payload(&arguments[0])).collect()).await?;
        left -= size;
    }
    Ok(())
}

/// Wakes the worker at an interval. The library's own interval arms its timer anew only when it is polled again,
/// which at times is not before the next heartbeat.
struct Every(Interval);

impl PollStrategy for Every {
    fn poll_drive(&mut self, cx: &mut Context<'_>, _: &PollSnapshot) -> Poll<Option<()>> {
        let mut due = Poll::Pending;
        while self.0.poll_tick(cx).is_ready() {
            due = Poll::Ready(Some(()));
        }
        due
    }
}

/// Polls at an interval: the library (1.0.0) puts every new job among the scheduled ones, for which nothing wakes
/// a worker, so that a job would wait for the next heartbeat, up to 30 s.
async fn work(storage: Storage, mode: &str) -> Result<(), BoxDynError> {
    let worker = WorkerBuilder::new(format!("worker-{}", process::id()));
    // How many jobs are fetched at once, and how many run at once.
    let size = match mode {
        "fast" => 100,
        "one" => 1,
        _ => return Ok(worker.backend(storage).build(job).run().await?),
    };
    let config = storage.get_config().clone().batch_size(size);
    let mut interval = interval(POLL_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let storage = storage.with_config(config).poll_with_strategy(Every(interval));
    Ok(worker.backend(storage).concurrency(size).build(job).run().await?)
}

#[tokio::main]
async fn main() -> Result<(), BoxDynError> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let url = format!("redis://127.0.0.1:{}/", env::var("PEER_PORT")?);
    let config = Config::default().queue("peer");
    let storage = RedisStorage::new(apalis_redis::connect(url).await?).with_config(config);
    match arguments[0].as_str() {
        "work" => work(storage, &arguments[1]).await,
        command => send(storage, command, &arguments[1..]).await,
    }
}
