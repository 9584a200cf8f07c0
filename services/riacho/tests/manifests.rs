//! The command lines, variables and files of the Kubernetes manifests, given to the real binary as a cluster would.
//!
//! What only a cluster has (images, limits, networks) is checked by k8s/tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use riacho_local::testing::{self, TestDatabase, TestPostgres, TestServers, Topology};
use riacho_testkit::{
    process::{self, Process, command, free_port},
    s3::S3,
    within,
};
use serde_json::Value;
use support::{RIACHO, cluster::PATIENCE, errors_of, workspace};
use tempfile::TempDir;

const TOKEN: &str = "a-token-of-this-test";

/// The objects of an overlay.
fn render(overlay: &str) -> Vec<Value> {
    let root = workspace();
    let output = Command::new(root.join(".riacho/venv/bin/python"))
        .arg("-B")
        .arg(root.join("k8s/tests/render.py"))
        .arg(overlay)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", errors_of(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|one| one.as_str().unwrap().to_owned()).collect()
}

/// A rendered overlay with the servers that its secrets and variables are to name here.
struct Deployed {
    objects: Vec<Value>,
    /// The content of the Secret, by key.
    secrets: BTreeMap<&'static str, String>,
    /// What is another here than in a cluster: addresses and directories.
    here: Vec<(String, String)>,
    dir: TempDir,
}

/// A container as a process: its words, and its environment with files in place of mounted secrets.
struct Program {
    words: Vec<String>,
    env: Vec<(String, String)>,
}

impl Program {
    fn env(&self) -> Vec<(&str, &str)> {
        self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    fn args(&self) -> Vec<&str> {
        assert_eq!(self.words[0], "riacho");
        self.words[1..].iter().map(String::as_str).collect()
    }

    fn run(&self, args: &[&str]) -> Output {
        command(Path::new(RIACHO)).args(args).envs(self.env()).output().unwrap()
    }

    fn set(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl Deployed {
    fn find(&self, kind: &str, name: &str) -> &Value {
        let found = self.objects.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    fn pod(&self, kind: &str, name: &str) -> &Value {
        &self.find(kind, name)["spec"]["template"]["spec"]
    }

    /// What a container of a pod would run with.
    fn program(&self, pod: &Value, container: &Value) -> Program {
        let mut env = Vec::new();
        for source in container["envFrom"].as_array().into_iter().flatten() {
            let data = &self.find("ConfigMap", source["configMapRef"]["name"].as_str().unwrap())["data"];
            let pairs = data.as_object().unwrap().iter();
            env.extend(pairs.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())));
        }
        let place = TempDir::new_in(self.dir.path()).unwrap().keep();
        for mount in container["volumeMounts"].as_array().unwrap() {
            self.write_secrets(pod, mount, &place);
        }
        for variable in container["env"].as_array().into_iter().flatten() {
            let (name, value) = (variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap());
            let is_file = value.starts_with("/run/secrets/");
            let value = if is_file { format!("{}{value}", place.display()) } else { value.to_owned() };
            env.push((name.to_owned(), value));
        }
        env.push(("RIACHO_DATA_DIR".to_owned(), format!("{}/none", place.display())));
        // A figure a second instead of one in five.
        env.push(("RIACHO__JANITOR__SCHEDULES__HEALTH".to_owned(), "* * * * * *".to_owned()));
        let words = [strings(&container["command"]), strings(&container["args"])].concat();
        let mut program = Program { words, env };
        for (name, value) in &self.here {
            program.set(name, value);
        }
        program
    }

    /// The files of a mounted Secret: its items, and no others.
    fn write_secrets(&self, pod: &Value, mount: &Value, place: &Path) {
        let volumes = pod["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
        for item in volume["secret"]["items"].as_array().into_iter().flatten() {
            let path = PathBuf::from(format!("{}{}", place.display(), mount["mountPath"].as_str().unwrap()));
            fs::create_dir_all(&path).unwrap();
            let content = &self.secrets[item["key"].as_str().unwrap()];
            // Whoever writes a file by hand ends it with a line feed.
            fs::write(path.join(item["path"].as_str().unwrap()), format!("{content}\n")).unwrap();
        }
    }

    /// Runs the containers of the Job, one after the other.
    fn migrate(&self) {
        let pod = self.pod("Job", "migrate");
        let steps = [&pod["initContainers"], &pod["containers"]];
        for container in steps.into_iter().flat_map(|list| list.as_array().unwrap()) {
            let program = self.program(pod, container);
            let output = program.run(&program.args());
            assert!(output.status.success(), "{:?}: {}", program.words, errors_of(&output));
        }
    }

    /// Starts a Deployment's container with free ports in place of those that a pod has for itself.
    fn start(&self, name: &str) -> Service {
        let pod = self.pod("Deployment", name);
        let container = pod["containers"][0].clone();
        let mut program = self.program(pod, &container);
        let mut addresses = BTreeMap::new();
        for (port, variable) in [("http", "RIACHO__HTTP__LISTEN"), ("ops", "RIACHO__HTTP__OPS_LISTEN")] {
            let listens_on = program.value(variable).unwrap().rsplit_once(':').unwrap().1.to_owned();
            for declared in container["ports"].as_array().unwrap().iter().filter(|one| one["name"] == port) {
                assert_eq!(declared["containerPort"].to_string(), listens_on, "{name}: port {port}");
            }
            let address = format!("127.0.0.1:{}", free_port().unwrap());
            program.set(variable, &address);
            addresses.insert(port, format!("http://{address}"));
        }
        let checked = program.run(&["config", "check"]);
        assert!(checked.status.success(), "{name}: {}", errors_of(&checked));
        let process = Process::spawn(RIACHO, &program.args(), &program.env()).unwrap();
        Service { name: name.to_owned(), container, program, addresses, process }
    }
}

/// A Deployment's container as a running process.
struct Service {
    name: String,
    container: Value,
    program: Program,
    addresses: BTreeMap<&'static str, String>,
    process: Process,
}

impl Service {
    /// Waits until all probes of the manifest answer.
    async fn is_ready(&self) {
        let client = process::client("").unwrap();
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let get = &self.container[probe]["httpGet"];
            let url = &self.addresses[get["port"].as_str().unwrap()];
            let url = format!("{url}{}", get["path"].as_str().unwrap());
            within(PATIENCE, || async {
                let answer = client.get(&url).send().await.map_err(|error| error.to_string());
                let ready = answer.and_then(|a| a.error_for_status().map_err(|error| error.to_string()));
                ready.map_err(|error| format!("{}: {error}\n{}", self.name, self.process.log()))
            })
            .await;
        }
    }

    /// Runs a command beside the service, and gives what it prints.
    fn json(&self, args: &[&str]) -> Vec<Value> {
        let output = self.program.run(&[args, &["--json"]].concat());
        assert!(output.status.success(), "{}: {args:?}: {}", self.name, errors_of(&output));
        support::json_lines(&output)
    }

    /// Waits until the figure that scalers ask Prometheus for is so.
    async fn shows_backlog(&self, stage: &str, is_so: impl Fn(f64) -> bool) {
        let name = format!("riacho_stage_backlog{{stage=\"{stage}\"}} ");
        within(PATIENCE, || async {
            let shown = self.metrics(TOKEN).await.text().await.unwrap();
            let figure =
                shown.lines().find_map(|line| line.strip_prefix(&name)).map(|text| text.parse().unwrap());
            if figure.is_some_and(&is_so) {
                Ok(())
            } else {
                Err(format!("{name}{figure:?}\n{}", self.process.log()))
            }
        })
        .await;
    }

    async fn metrics(&self, token: &str) -> reqwest::Response {
        let client = process::client(token).unwrap();
        client.get(format!("{}/metrics", self.addresses["ops"])).send().await.unwrap()
    }
}

/// A client of a gateway with a document on its way.
struct Document {
    client: reqwest::Client,
    url: String,
}

impl Document {
    async fn upload(gateway: &Service, key: &str) -> Document {
        let client = process::client(key).unwrap();
        let url = format!("{}/api/v1/documents", gateway.addresses["http"]);
        let request = client.post(format!("{url}?filename=lock.md")).header("content-type", "text/markdown");
        let answer = request.body("# Lock\n\nThe barge passed the lock at six.\n").send().await.unwrap();
        assert_eq!(answer.status(), 202);
        let id = answer.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
        Document { client, url: format!("{url}/{id}/status") }
    }

    async fn becomes_ready(&self, services: &[Service]) {
        let logs = || services.iter().map(|s| s.process.log()).collect::<String>();
        within(PATIENCE, || async {
            let answer = self.client.get(&self.url).send().await.unwrap();
            let status: Value = answer.json().await.unwrap();
            if status["state"] == "ready" { Ok(()) } else { Err(format!("{status}\n{}", logs())) }
        })
        .await;
    }
}

/// The stages, and the Deployment that works on each.
const STAGES: [(&str, &str); 3] = [("extract", "extractor"), ("embed", "embedder"), ("index", "indexer")];

/// Everything of an overlay from the migration to the last stop, with stages that start one by one, as scalers start them
/// from zero when there is something for them.
async fn works(deployed: &Deployed, partitions: usize) -> Vec<Service> {
    deployed.migrate();
    let mut services = vec![deployed.start("gateway"), deployed.start("janitor")];
    for service in &services {
        service.is_ready().await;
    }
    // A person's commands, in the pods that have the login for them.
    let active = services[1].json(&["partitions", "list"]);
    assert_eq!(active.iter().filter(|partition| partition["active"] == true).count(), partitions);
    services[1].json(&["tenant", "create", "default"]);
    let key = services[0].json(&["key", "create"])[0]["secret"].as_str().unwrap().to_owned();

    let document = Document::upload(&services[0], &key).await;
    for (stage, name) in STAGES {
        services[1].shows_backlog(stage, |backlog| backlog > 0.0).await;
        let service = deployed.start(name);
        service.is_ready().await;
        services.push(service);
    }
    document.becomes_ready(&services).await;
    for (stage, _) in STAGES {
        services[1].shows_backlog(stage, |backlog| backlog == 0.0).await;
    }
    // What only somebody with rights over tables could refuse.
    for task in ["index", "purge", "housekeep"] {
        services[1].json(&["janitor", "run", task]);
    }
    services
}

async fn stop(services: Vec<Service>) {
    for mut service in services {
        let status = service.process.stop().await.unwrap();
        assert!(status.success(), "{}: {status}\n{}", service.name, service.process.log());
    }
}

fn secrets(database: &dyn Fn(&str) -> String, redis: String) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("database-url", database("riacho_gateway")),
        ("database-read-url", database("riacho_gateway")),
        ("database-janitor-url", database("riacho_tasks")),
        ("database-migrate-url", database("riacho_owner")),
        ("redis-url", redis),
        ("signing-secret", "0123456789abcdef0123456789abcdef".to_owned()),
        ("metrics-token", TOKEN.to_owned()),
    ])
}

/// A database whose logins are those of the production overlay.
fn database_with_logins() -> (TestPostgres, TestDatabase) {
    let postgres = testing::private_postgres();
    let database = postgres.create_database();
    let sql = fs::read_to_string(workspace().join("k8s/overlays/prod/logins.sql")).unwrap();
    let renamed = sql.replace("ALTER DATABASE riacho ", &format!("ALTER DATABASE \"{}\" ", database.name()));
    assert_ne!(sql, renamed);
    let _ = database.run(&renamed);
    (postgres, database)
}

#[tokio::test]
async fn the_development_overlay_runs_as_it_is_written() {
    let (redis, postgres) = (testing::redis(), testing::private_postgres());
    let database = postgres.create_database();
    let dir = TempDir::new().unwrap();
    let objects = dir.path().join("objects").display().to_string();
    let secrets = secrets(&|_| database.owner_url(), redis.url());
    let here = vec![("RIACHO__OBJECTS__DIRECTORY".to_owned(), objects)];
    let deployed = Deployed { objects: render("dev"), secrets, here, dir };
    stop(works(&deployed, 1).await).await;
}

#[tokio::test]
async fn the_production_overlay_runs_as_it_is_written() {
    let redis = TestServers::start(Topology::Cluster, &[]);
    let (_postgres, database) = database_with_logins();
    let s3 = S3::start().await.unwrap();
    let mut secrets = secrets(&|login| database.url_as(login), redis.url());
    secrets.insert("s3-access-key-id", s3.access_key().to_owned());
    secrets.insert("s3-secret-access-key", s3.secret_key().to_owned());
    let config = |name: &str, value: &str| (format!("RIACHO__OBJECTS__S3__{name}"), value.to_owned());
    let here = vec![
        config("ENDPOINT", &s3.endpoint()),
        config("REGION", s3.region()),
        config("BUCKET", s3.bucket()),
        config("ALLOW_HTTP", "true"),
        config("PATH_STYLE", "true"),
    ];
    let deployed = Deployed { objects: render("prod"), secrets, here, dir: TempDir::new().unwrap() };
    let services = works(&deployed, 16).await;
    for service in &services {
        assert_eq!(service.metrics("").await.status(), 401, "{}: metrics want the token", service.name);
        assert_eq!(service.metrics(TOKEN).await.status(), 200, "{}", service.name);
    }
    stop(services).await;
}

/// The command lines and variables of the platforms' templates, as far as they are known before a platform fills them in.
#[tokio::test]
async fn templates_of_platforms_and_settings_in_documents_can_be_used() {
    let root = workspace();
    let listed = Command::new(root.join(".riacho/venv/bin/python"))
        .arg("-B")
        .arg(root.join("k8s/tests/platforms.py"))
        .output()
        .unwrap();
    assert!(listed.status.success(), "{}", errors_of(&listed));
    let programs: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap();
    assert!(programs.len() > 10, "{programs:?}");
    for program in programs {
        let env: Vec<(String, String)> = program["env"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, value)| value.is_string() && !name.ends_with("_FILE"))
            .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
            .collect();
        let help = [strings(&program["args"]), vec!["--help".to_owned()]].concat();
        for args in [help, vec!["config".to_owned(), "check".to_owned()]] {
            let output = command(Path::new(RIACHO)).args(&args).envs(env.clone()).output().unwrap();
            assert!(output.status.success(), "{}: {args:?}: {}", program["name"], errors_of(&output));
        }
    }
    let dir = TempDir::new().unwrap();
    let mut checked = 0;
    for page in fs::read_dir(root.join("docs/operations")).unwrap().map(|entry| entry.unwrap().path()) {
        let text = if page.is_file() { fs::read_to_string(&page).unwrap() } else { String::new() };
        for block in text.split("```toml\n").skip(1) {
            let file = dir.path().join("riacho.toml");
            // A file of a secret that stands there on a server, and not here.
            let lines =
                block.split("```").next().unwrap().lines().filter(|line| !line.starts_with("api_key_file"));
            fs::write(&file, lines.collect::<Vec<_>>().join("\n")).unwrap();
            let output =
                command(Path::new(RIACHO)).args(["config", "check", "--config"]).arg(&file).output().unwrap();
            assert!(output.status.success(), "{}: {}", page.display(), errors_of(&output));
            checked += 1;
        }
    }
    assert!(checked >= 3, "{checked}");
}
