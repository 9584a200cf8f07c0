//! Search and indexing over many tenants, on a private PostgreSQL: the store's own calls, beside raw pgvector and COPY.
//!
//! A benchmark of `riacho-store`, and not a part of `riacho-bench`, which knows a deployment from outside only.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a command-line program: its output is its purpose

#[allow(unused_imports)] // of its tests, which run with riacho-bench
#[path = "../src/figures.rs"]
mod figures;

mod fill;
mod raw;
mod tenants;
mod texts;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Parser;
use riacho_domain::TenantId;
use riacho_local::{Options as ServerOptions, Runtime, Servers};
use riacho_models::{Config as ModelConfig, Kind, Model};
use riacho_store::{Config, Filter, Mode, Role, SearchRequest, Space, Store, ensure_live_space, migrate};

use self::{
    figures::Figures,
    fill::Fill,
    raw::{Raw, Way},
    texts::Texts,
};

/// Chunks between two rates.
const BRACKET: u64 = 100_000;
/// Rows that are copied to find the limit.
const COPIED: u64 = 20_000;
/// Similarities of the same vectors differ by as much from one plan to another.
const EQUAL: f64 = 1e-6;

/// Filters of vector searches: a name, the filter, and the same in SQL.
const FILTERS: [(&str, &str, &str); 3] = [
    ("vector_equal", r#"{"kind": "k3"}"#, "metadata->>'kind' = 'k3'"),
    ("vector_range", r#"{"day": {"gte": 5, "lt": 8}}"#, "(metadata->>'day')::int BETWEEN 5 AND 7"),
    (
        "vector_combined",
        r#"{"and": [{"kind": {"in": ["k1", "k2"]}}, {"not": {"day": {"lt": 3}}}]}"#,
        "metadata->>'kind' IN ('k1', 'k2') AND (metadata->>'day')::int >= 3",
    ),
];

/// What to fill, and how often to search.
#[derive(Parser)]
#[command(name = "search", about = "Measures search and indexing over many tenants")]
struct Options {
    /// Chunks of all tenants together, about.
    #[arg(long, default_value_t = 1_000_000)]
    chunks: u64,
    /// Tenants; the smallest has 10 chunks.
    #[arg(long, default_value_t = 1_000)]
    tenants: usize,
    /// Chunks of the largest tenant.
    #[arg(long, default_value_t = 100_000)]
    largest: u32,
    /// Searches of each kind, in each class of tenants.
    #[arg(long, default_value_t = 200)]
    queries: u64,
    /// A folder with `.txt`, `.md` or `.jsonl` files whose sentences make the chunks, for example `docs`.
    #[arg(long)]
    texts: PathBuf,
    /// Keep the database in this folder: what is filled once is only searched the next time.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The servers and the store of a run.
struct Bench {
    store: Store,
    janitor: Store,
    config: Config,
    space: Space,
    model: Arc<dyn Model>,
    texts: Texts,
    tenants: Vec<TenantId>,
    sizes: Vec<u32>,
    raw: Raw,
    is_filled: bool,
    // Stopped before its folder is removed.
    _servers: Servers,
    _directory: Directory,
}

/// The folder of the database.
struct Directory {
    path: PathBuf,
    is_kept: bool,
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(run(&options))?.print(options.json);
    Ok(())
}

impl Directory {
    fn of(options: &Options) -> Directory {
        let passing = std::env::temp_dir().join(format!("riacho-bench-search-{}", std::process::id()));
        let is_kept = options.data_dir.is_some();
        Directory { path: options.data_dir.clone().unwrap_or(passing), is_kept }
    }
}

/// Fills a database, builds the index, and searches.
async fn run(options: &Options) -> anyhow::Result<Figures> {
    let bench = Bench::start(options).await?;
    let mut figures = Figures::default();
    if !bench.is_filled {
        bench.fill(&mut figures).await?;
        bench.copy(&mut figures).await?;
    }
    bench.index(&mut figures).await?;
    for (class, places) in bench.classes() {
        eprintln!("searching {} tenants of the class {class}", places.len());
        bench.search(class, &places, options.queries, &mut figures).await?;
    }
    Ok(figures)
}

impl Bench {
    async fn start(options: &Options) -> anyhow::Result<Bench> {
        let texts = Texts::read(&options.texts)?;
        let directory = Directory::of(options);
        let servers =
            Servers::start(&directory.path, &ServerOptions { redis: false, ..ServerOptions::default() })
                .await?;
        let url = servers.database_url().context("PostgreSQL was not started")?;
        let config = Config { statement_timeout_ms: 600_000, ..Config::for_url(&url) };
        migrate::migrate(&config).await?;
        let mut models = ModelConfig::default();
        models.local.directory = Some(Runtime::find().wordllama_dir()?);
        let model = riacho_models::load(&models)?;
        let space = ensure_live_space(&config, model.id(), u32::try_from(model.dimensions())?).await?;
        let store = Store::connect(&config, Role::Service).await?;
        let janitor = Store::connect(&config, Role::Janitor).await?;
        let sizes = tenants::sizes(options.tenants, options.largest, options.chunks);
        let named: Vec<TenantId> =
            (0..sizes.len()).map(|place| format!("tenant-{place}").parse()).collect::<Result<_, _>>()?;
        let is_filled = janitor.tenants().await?.len() >= sizes.len();
        if !is_filled {
            for tenant in &named {
                janitor.create_tenant(tenant, "").await?;
            }
        }
        let raw = Raw::connect(&url, space.id).await?;
        Ok(Bench {
            store,
            janitor,
            config,
            space,
            model,
            texts,
            tenants: named,
            sizes,
            raw,
            is_filled,
            _servers: servers,
            _directory: directory,
        })
    }

    async fn fill(&self, figures: &mut Figures) -> anyhow::Result<()> {
        let fill = Fill {
            store: &self.store,
            space: &self.space,
            model: &*self.model,
            texts: &self.texts,
            tenants: &self.tenants,
        };
        let (mut rows, mut bracket, mut in_bracket) = (0, Duration::ZERO, 0);
        let mut rates = Vec::new();
        for wanted in tenants::documents(&self.sizes).chunks(1_000) {
            let (written, took) = fill.write(wanted).await?;
            rows += written;
            in_bracket += written;
            bracket += took;
            if in_bracket >= BRACKET {
                rates.push((in_bracket as f64 / bracket.as_secs_f64()).round());
                eprintln!("{rows} chunks, {} a second in the last {in_bracket}", rates[rates.len() - 1]);
                (bracket, in_bracket) = (Duration::ZERO, 0);
            }
        }
        figures.add("chunks", rows);
        figures.add("tenants", self.tenants.len());
        figures.add("index_rows_per_s", rates.clone());
        if let (Some(first), Some(last)) = (rates.first(), rates.last()) {
            figures.add_number("index_rate_last_to_first", last / first);
        }
        Ok(())
    }

    /// Measures the limit of writing.
    async fn copy(&self, figures: &mut Figures) -> anyhow::Result<()> {
        let ways = ["copy_rows_per_s", "copy_into_all_indexes_rows_per_s", "copy_into_live_hnsw_rows_per_s"];
        for (name, rate) in ways.iter().zip(self.raw.copy(COPIED).await?) {
            figures.add_number(name, rate);
        }
        Ok(())
    }

    /// What the janitor does for large tenants.
    async fn index(&self, figures: &mut Figures) -> anyhow::Result<()> {
        eprintln!("building the indexes");
        let built = self.janitor.build_indexes(&self.config, self.space.id).await?;
        figures.add("indexes", built.len());
        figures.add("indexed_vectors", built.iter().map(|built| built.vectors).sum::<u64>());
        figures.add_number(
            "index_build_s",
            built.iter().map(|built| built.took.as_secs_f64()).fold(0.0, |a, b| a + b),
        );
        let start = Instant::now();
        figures.add("tenants_with_counted_words", self.janitor.count_words().await?);
        figures.add_number("count_words_s", start.elapsed().as_secs_f64());
        if built.is_empty() { Ok(()) } else { self.raw.run("VACUUM ANALYZE").await }
    }

    /// The tenants by size.
    fn classes(&self) -> BTreeMap<&'static str, Vec<usize>> {
        let mut classes: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (place, size) in self.sizes.iter().enumerate() {
            let class = match size {
                0..1_000 => "small",
                1_000..10_000 => "middle",
                10_000..50_000 => "large",
                _ => "largest",
            };
            classes.entry(class).or_default().push(place);
        }
        classes
    }

    async fn search(
        &self,
        class: &str,
        places: &[usize],
        queries: u64,
        figures: &mut Figures,
    ) -> anyhow::Result<()> {
        let mut seen = Seen::default();
        for number in 0..queries {
            let place = places[usize::try_from(number * 7919)? % places.len()];
            let query = self.texts.query(number);
            let vector = self.model.embed(vec![query.clone()], Kind::Query).await?.vectors.remove(0);
            // The exact answer brings the tenant's vectors into memory; which of the two comes first changes from query to query.
            let exact = self.exact(place, &vector, None).await?.0;
            let raw = if number % 2 == 0 { Some(self.raw_time(place, &vector).await?) } else { None };
            for mode in [Mode::Vector, Mode::Keyword, Mode::Hybrid] {
                let (similar, took) = self.ask(place, &query, &vector, mode, None).await?;
                seen.time(mode.as_str(), took);
                if mode == Mode::Vector {
                    seen.recall(mode.as_str(), &exact, &similar);
                    let raw = match raw {
                        Some(raw) => raw,
                        None => self.raw_time(place, &vector).await?,
                    };
                    seen.ratios.push(took.as_secs_f64() / raw.as_secs_f64());
                    seen.time("raw", raw);
                }
            }
            for (name, json, condition) in FILTERS {
                let filter = Filter::parse(&serde_json::from_str(json)?)?;
                let (similar, took) = self.ask(place, &query, &vector, Mode::Vector, Some(filter)).await?;
                seen.recall(name, &self.exact(place, &vector, Some(condition)).await?.0, &similar);
                seen.time(name, took);
            }
        }
        figures.add(&format!("{class}_tenants"), places.len());
        seen.write(class, figures);
        Ok(())
    }

    /// The similarities of the hits of a search, and the time that it took.
    async fn ask(
        &self,
        place: usize,
        query: &str,
        vector: &[f32],
        mode: Mode,
        filter: Option<Filter>,
    ) -> anyhow::Result<(Vec<f64>, Duration)> {
        let mut request = SearchRequest::new(self.tenants[place].clone(), query);
        request.mode = mode;
        request.vector = (mode != Mode::Keyword).then(|| vector.to_vec());
        request.filter = filter;
        let start = Instant::now();
        let hits = self.store.search(&request).await?;
        let took = start.elapsed();
        Ok((hits.iter().filter_map(|hit| hit.parts.similarity).collect(), took))
    }

    async fn exact(
        &self,
        place: usize,
        vector: &[f32],
        condition: Option<&str>,
    ) -> anyhow::Result<(Vec<f64>, Duration)> {
        self.raw.nearest(Way::Exact, self.tenants[place].as_str(), vector, condition).await
    }

    /// The time of the better raw query: all rows of a small tenant, the index for a large one.
    async fn raw_time(&self, place: usize, vector: &[f32]) -> anyhow::Result<Duration> {
        let way = if self.sizes[place] <= self.config.exact_search_rows { Way::Exact } else { Way::Index };
        Ok(self.raw.nearest(way, self.tenants[place].as_str(), vector, None).await?.1)
    }
}

/// What was seen of the searches in a class of tenants.
#[derive(Default)]
struct Seen {
    times: BTreeMap<String, Vec<Duration>>,
    /// The sum of the shares of the ten nearest that were found, and their number.
    recall: BTreeMap<String, (f64, u32)>,
    /// The fewest hits in place of those that there are.
    missing: usize,
    ratios: Vec<f64>,
}

impl Seen {
    fn time(&mut self, name: &str, took: Duration) {
        self.times.entry(name.to_owned()).or_default().push(took);
    }

    fn recall(&mut self, name: &str, exact: &[f64], found: &[f64]) {
        let Some(last) = exact.last() else { return };
        self.missing = self.missing.max(exact.len().saturating_sub(found.len()));
        let right = found.iter().filter(|similarity| **similarity >= last - EQUAL).count().min(exact.len());
        let (sum, count) = self.recall.entry(name.to_owned()).or_default();
        *sum += right as f64 / exact.len() as f64;
        *count += 1;
    }

    fn write(mut self, class: &str, figures: &mut Figures) {
        self.ratios.sort_by(f64::total_cmp);
        let median = self.ratios.get(self.ratios.len() / 2).copied().unwrap_or_default();
        figures.add_number(&format!("{class}_vector_times_raw"), median);
        figures.add(&format!("{class}_hits_missing_at_most"), self.missing);
        for (name, (sum, count)) in self.recall {
            figures.add_number(&format!("{class}_{name}_recall_at_10"), sum / f64::from(count));
        }
        for (name, times) in self.times {
            figures.add_latencies(&format!("{class}_{name}"), times);
        }
    }
}
