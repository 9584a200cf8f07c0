//! The configuration of the one binary: the sections of all services in one file.

use std::path::Path;

use riacho_models::Provider;
use riacho_service::{
    CoreConfig,
    config::{ConfigError, HttpConfig, LogConfig, LogFormat, Sources, is_set, load},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    cli::{self, Global},
    data_dir::DataDir,
};

/// Where uploads to the local store stand when nothing else is said.
const OBJECTS: &str = ".riacho/data/objects";

/// All sections. Each is also its service's own type; unknown keys are errors.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Redis: the road between the stages.
    pub(crate) redis: riacho_streams::Config,
    /// PostgreSQL: the truth.
    pub(crate) database: riacho_store::Config,
    /// The store of originals and texts.
    pub(crate) objects: riacho_objects::Config,
    /// The embedding model.
    pub(crate) models: riacho_models::Config,
    /// How stages read, retry and stop.
    pub(crate) stage: riacho_stage::RunnerConfig,
    /// What each tenant may use.
    pub(crate) limits: riacho_store::Limits,
    /// Logs.
    pub(crate) log: LogConfig,
    /// Traces, and the collector they are exported to.
    pub(crate) traces: riacho_traces::Config,
    /// Where the services listen.
    pub(crate) http: HttpConfig,
    /// The HTTP interface and the intake of producers' events.
    pub(crate) gateway: riacho_ingest_gateway::Config,
    /// Originals to text and chunks.
    pub(crate) extractor: riacho_extractor::Config,
    /// Chunks to vectors.
    pub(crate) embedder: riacho_embedder::Config,
    /// Vectors to rows.
    pub(crate) indexer: riacho_indexer::Config,
    /// The scheduled tasks.
    pub(crate) janitor: riacho_janitor::Config,
}

impl Config {
    /// The sections that every service needs.
    pub(crate) fn core(&self) -> CoreConfig {
        CoreConfig {
            redis: self.redis.clone(),
            database: self.database.clone(),
            objects: self.objects.clone(),
            models: self.models.clone(),
            stage: self.stage.clone(),
            limits: self.limits,
            log: self.log.clone(),
            traces: self.traces.clone(),
            http: self.http.clone(),
        }
    }
}

impl Config {
    /// What no section can see alone.
    fn check(&self) -> Result<(), ConfigError> {
        let invalid = |key: &str, message: String| ConfigError::Invalid {
            origin: "configuration".to_owned(),
            key: key.to_owned(),
            message,
        };
        let (taken, parsed) = (self.gateway.max_upload_bytes, self.extractor.parser.limits.max_file_bytes);
        if taken > parsed {
            // Such a file would be accepted, and then fail.
            let message = format!("{taken} is more than `extractor.parser.limits.max_file_bytes`, {parsed}");
            return Err(invalid("gateway.max_upload_bytes", message));
        }
        let addresses =
            [("http.listen", Some(&self.http.listen)), ("http.ops_listen", self.http.ops_listen.as_ref())];
        for (key, address) in addresses {
            if let Some(address) = address.filter(|address| !is_address(address)) {
                return Err(invalid(key, format!("`{address}` is no HOST:PORT")));
            }
        }
        let networks = riacho_service::outward::networks(&self.http.outbound_allow);
        networks.map_err(|wrong| invalid("http.outbound_allow", wrong))?;
        let lanes = self.stage.lanes.check();
        lanes.map_err(|(key, wrong)| invalid(&format!("stage.lanes.{key}"), wrong.to_owned()))?;
        self.traces.check().map_err(|(key, wrong)| invalid(&format!("traces.{key}"), wrong))?;
        let gateway = self.gateway.check();
        gateway.map_err(|(key, wrong)| invalid(&format!("gateway.{key}"), wrong))?;
        let janitor = self.janitor.check();
        janitor.map_err(|(key, wrong)| invalid(&format!("janitor.{key}"), wrong))?;
        self.database.check().map_err(|(key, error)| invalid(key, error.to_string()))?;
        self.redis.check().map_err(|error| invalid("redis.url", error.to_string()))?;
        let s3 = &self.objects.s3;
        let endpoints = [
            ("objects.s3.endpoint", s3.endpoint.as_ref()),
            ("objects.s3.public_endpoint", s3.public_endpoint.as_ref()),
        ];
        for (key, endpoint) in endpoints {
            let Some(Err(error)) = endpoint.map(|endpoint| Url::parse(endpoint)) else { continue };
            return Err(invalid(key, error.to_string()));
        }
        Ok(())
    }
}

/// The files of a local model are those of the runtime where nothing else is said.
fn find_files(model: &mut riacho_models::Config, runtime: &riacho_local::Runtime) {
    if model.local.directory.is_none() {
        let named =
            Some(model.model.as_str()).filter(|name| model.provider == Provider::Local && !name.is_empty());
        model.local.directory =
            named.map_or_else(|| runtime.wordllama_dir(), |name| runtime.model_dir(name)).ok();
    }
}

/// Whether a text can be listened on, as far as its form tells.
pub(crate) fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bare = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
    let plain_port = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    !host.is_empty() && bare && plain_port && port.parse::<u16>().is_ok()
}

/// The sources of a configuration, with what is known only here filled in where nothing sets it.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    sources: Sources,
}

impl Settings {
    /// The file, the environment and the flags of this process.
    pub(crate) fn new(global: &Global) -> Settings {
        let mut sources = Sources::from_process(global.config.clone());
        sources.overrides.clone_from(&global.set);
        if let Some(format) = global.log_format {
            let format = if format == cli::LogFormat::Json { LogFormat::Json } else { LogFormat::Text };
            sources.overrides.push(("log.format".into(), name_of(format).into()));
        }
        if global.quiet {
            sources.overrides.push(("log.filter".into(), "warn".into()));
        }
        Settings { sources }
    }

    /// Adds what the running `up` of a data directory has chosen, so that a command finds its servers.
    pub(crate) fn with_running(mut self, data_dir: &DataDir) -> Result<Settings, ConfigError> {
        for (key, value) in data_dir.running().map(|running| running.settings).unwrap_or_default() {
            self.set_default(&key, &value)?;
        }
        Ok(self)
    }

    /// Whether the file, the environment or a flag sets a key.
    pub(crate) fn has(&self, key: &str) -> Result<bool, ConfigError> {
        is_set::<Config>(&self.sources, key)
    }

    /// Forgets which servers and which object store the sources name.
    pub(crate) fn leave_out_servers(&mut self) {
        self.sources.leave_out(&[
            "redis.url",
            "redis.tls_ca_file",
            "database.url",
            "database.migrate_url",
            "database.janitor_url",
            "database.read_url",
            "database.tls_ca_file",
            "objects",
        ]);
    }

    /// Sets a key, whatever the other sources say.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.sources.overrides.push((key.to_owned(), value.to_owned()));
    }

    /// Sets a key that no source sets; says whether it did.
    pub(crate) fn set_default(&mut self, key: &str, value: &str) -> Result<bool, ConfigError> {
        let free = !self.has(key)?;
        if free {
            self.set(key, value);
        }
        Ok(free)
    }

    /// The configuration, with the programs and models of the runtime directory where nothing names others.
    pub(crate) fn load(mut self) -> Result<Config, ConfigError> {
        self.set_default("objects.directory", OBJECTS)?;
        let runtime = riacho_local::Runtime::find();
        if let Ok(path) = runtime.pdfium_path() {
            self.set_default_path("extractor.pdfium", &path)?;
        }
        let mut config: Config = load(&self.sources)?;
        let models = &mut config.models;
        find_files(models, &runtime);
        models.spaces.values_mut().for_each(|model| find_files(model, &runtime));
        config.check()?;
        Ok(config)
    }

    fn set_default_path(&mut self, key: &str, path: &Path) -> Result<bool, ConfigError> {
        self.set_default(key, &path.to_string_lossy())
    }
}

const fn name_of(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Json => "json",
        LogFormat::Text => "text",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_fit_each_other() {
        let config = Config::default();
        assert!(config.check().is_ok());
        assert_eq!(config.gateway.max_upload_bytes, config.extractor.parser.limits.max_file_bytes);
    }

    #[test]
    fn memory_in_which_nothing_can_be_unpacked_is_refused() {
        let mut config = Config::default();
        config.gateway.bulk.unpack_memory_bytes = 128 << 20;
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains("gateway.bulk.unpack_memory_bytes") && error.contains("268435456"), "{error}");
    }

    #[test]
    fn an_address_is_told_by_its_form() {
        for good in ["127.0.0.1:0", "[::1]:8000", "localhost:80", "0.0.0.0:65535"] {
            assert!(is_address(good), "{good}");
        }
        for wrong in ["", "foo", ":80", "127.0.0.1:", "127.0.0.1:99999", "::1:80", "h:+80", "http://h:80"] {
            assert!(!is_address(wrong), "{wrong}");
        }
    }
}
