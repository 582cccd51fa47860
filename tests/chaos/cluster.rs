//! Three replicas over a private PostgreSQL, each with a way of its own to it, and a model server.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use sea_orm::{ConnectionTrait as _, DatabaseConnection, Statement};

use super::wire::Wire;
use crate::support::plain;
use crate::support::process::{Folder, Mock, Service};
use crate::support::schema::EventSchema;

/// A turn asks a model beside a superstep of its own, may ask the user, and asks the model again. What it leaves in the state
/// tells how often each part ran.
const GRAPH: &str = "\
format: 1
input:
  pause: {type: boolean, default: false}
state:
  messages: messages
  turns: {type: integer, merge: add}
  log: {type: [string], merge: append}
start: count
nodes:
  count: {kind: set, set: {turns: 1, log: \"['count']\"}, next: {all: [left, right]}}
  left: {kind: llm, text: Be brief., history: {last: 1}, into: log, next: check}
  right: {kind: set, set: {log: \"['right']\"}, next: check}
  check: {kind: route, next: [{when: input.pause, to: confirm}, {else: answer}]}
  confirm: {kind: ask, question: Go on?, next: answer}
  answer: {kind: llm, text: Be brief., history: {last: 1}, reply: true, next: end}
output: [turns, log]
";

/// How often a client tries anew: a replica that dies looks like a model that failed.
const RETRY: &str = "stubborn: {attempts: 20, first: 20ms, max: 300ms, for: [any]}";

/// A server of its own in a folder of its own.
pub(crate) struct Postgres {
    folder: PathBuf,
    programs: PathBuf,
    pub(crate) port: u16,
}

/// How a server is stopped.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stop {
    /// Connections are closed, and a last checkpoint is written.
    Fast,
    /// As if the power had failed: the next start recovers.
    Immediate,
}

impl Postgres {
    /// Makes and starts one; `disk` is where its files go.
    pub(crate) fn start(disk: &Path) -> Self {
        let found = std::fs::read_dir("/usr/lib/postgresql").unwrap();
        let mut found: Vec<PathBuf> = found.map(|version| version.unwrap().path().join("bin")).collect();
        found.retain(|programs| programs.join("initdb").exists());
        found.sort();
        let programs = found.pop().expect("no PostgreSQL server is installed");
        let folder = disk.join("data");
        std::fs::create_dir(&folder).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Self { folder, programs, port };
        if nix::unistd::geteuid().is_root() {
            let folder = [server.folder.as_path(), disk];
            let status = Command::new("chown").arg("postgres").args(folder).status().unwrap();
            assert!(status.success());
        }
        server
            .run("initdb", &["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]);
        server.go();
        server
    }

    /// Runs one of its programs on its folder, as a user that it accepts: it refuses root.
    fn run(&self, program: &str, args: &[&str]) -> bool {
        let mut command = Command::new(self.programs.join(program));
        command.arg("-D").arg(&self.folder).args(args);
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if nix::unistd::geteuid().is_root() {
            let id = |flag: &str| {
                let out = Command::new("id").args([flag, "postgres"]).output().unwrap();
                String::from_utf8(out.stdout).unwrap().trim().parse::<u32>().unwrap()
            };
            command.uid(id("-u")).gid(id("-g"));
        }
        command.status().unwrap().success()
    }

    /// Starts it, again and again while its disk is full.
    pub(crate) fn go(&self) {
        let options = format!(
            "-p {} -h 127.0.0.1 -k {} -c max_connections=80 -c superuser_reserved_connections=3",
            self.port,
            self.folder.display()
        );
        let log = self.folder.join("server.log");
        let patience = Instant::now() + Duration::from_mins(1);
        while !self.run("pg_ctl", &["-l", log.to_str().unwrap(), "-w", "-t", "60", "-o", &options, "start"]) {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            assert!(Instant::now() < patience, "PostgreSQL does not start: {log}");
        }
    }

    pub(crate) fn stop(&self, how: Stop) {
        let mode = match how {
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        self.run("pg_ctl", &["-m", mode, "-w", "stop"]);
    }

    /// Returns its address for a user, without a way in between.
    pub(crate) fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop(Stop::Immediate);
    }
}

/// A folder on a file system of a fixed size, where this is asked for; it needs root.
struct Disk {
    folder: Folder,
    mounted: bool,
}

impl Disk {
    fn new(small: bool) -> Self {
        let folder = Folder::new();
        if small {
            let mut mount = Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", "size=400m", "tmpfs"]).arg(folder.path());
            assert!(
                mount.status().unwrap().success(),
                "a disk that can be full is a mount, which needs root"
            );
        }
        Self { folder, mounted: small }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // The folder is removed after it.
            let _ignored = Command::new("umount").arg("-l").arg(self.folder.path()).status();
        }
    }
}

/// One replica, which comes and goes.
pub(crate) struct Replica {
    pub(crate) name: String,
    pub(crate) wire: Wire,
    pub(crate) service: Mutex<Option<Service>>,
}

/// All that runs. The order of the fields is that of their end.
pub(crate) struct Cluster {
    pub(crate) replicas: Vec<Replica>,
    /// Where those that run listen.
    bases: RwLock<Vec<Option<String>>>,
    _mock: Mock,
    pub(crate) http: reqwest::Client,
    pub(crate) schema: EventSchema,
    folder: Folder,
    pub(crate) postgres: Postgres,
    disk: Disk,
}

impl Cluster {
    /// Starts all of it; with a small disk, it can be filled.
    pub(crate) async fn start(replicas: usize, small_disk: bool) -> Self {
        graphloom::egress::install_crypto();
        let disk = Disk::new(small_disk);
        let postgres = Postgres::start(disk.folder.path());
        let admin = plain(&postgres.url("postgres", "postgres")).await;
        for statement in ["create role service login createrole", "create database chaos owner service"] {
            admin.execute_unprepared(statement).await.unwrap();
        }
        admin.close().await.unwrap();
        let mock = Mock::start();
        let folder = Folder::new();
        let project = format!(
            "format: 1\ndefault_model: mock\nretries: {{{RETRY}}}\nmodels:\n  mock: {{provider: openai, model: mock, \
             base_url: \"{}/v1\", retry: stubborn}}\n",
            mock.base
        );
        folder.write("graphs/project.yaml", &project);
        folder.write("graphs/chat.yaml", GRAPH);
        // No run is to blame for the deaths here.
        folder.write("graphloom.toml", "[limits]\ncrashes = 1000\n");
        let mut all = Vec::new();
        for n in 1..=replicas {
            let wire = Wire::to(postgres.port).await;
            all.push(Replica { name: format!("r{n}"), wire, service: Mutex::new(None) });
        }
        let http = reqwest::Client::builder().no_proxy().connect_timeout(Duration::from_secs(2));
        let mut cluster = Self {
            bases: RwLock::new(vec![None; replicas]),
            replicas: all,
            _mock: mock,
            http: http.build().unwrap(),
            schema: EventSchema::new(serde_json::Value::Null),
            folder,
            postgres,
            disk,
        };
        for n in 0..replicas {
            cluster.restart(n);
        }
        let document = cluster.http.get(format!("{}/openapi.json", cluster.base(0))).send().await.unwrap();
        cluster.schema = EventSchema::new(document.json().await.unwrap());
        cluster
    }

    /// Starts a replica, under its name of before.
    pub(crate) fn restart(&self, n: usize) {
        let replica = &self.replicas[n];
        let url = format!("postgres://service@127.0.0.1:{}/chaos", replica.wire.port);
        let service = tokio::task::block_in_place(|| Service::start(&self.folder, &url, &replica.name));
        self.bases.write().unwrap()[n] = Some(service.base.clone());
        *replica.service.lock().unwrap() = Some(service);
    }

    /// Kills a replica with -9.
    pub(crate) fn kill(&self, n: usize) {
        self.bases.write().unwrap()[n] = None;
        if let Some(mut service) = self.replicas[n].service.lock().unwrap().take() {
            service.process.crash();
        }
    }

    /// Returns the address of a replica, or of one that runs.
    pub(crate) fn base(&self, n: usize) -> String {
        let bases = self.bases.read().unwrap();
        let own = bases[n % bases.len()].clone();
        own.or_else(|| bases.iter().flatten().next().cloned())
            .unwrap_or_else(|| "http://127.0.0.1:9".to_owned())
    }

    /// Returns a connection that no fault touches.
    pub(crate) async fn database(&self) -> DatabaseConnection {
        plain(&self.postgres.url("postgres", "chaos")).await
    }

    /// Returns the rows of a query as the texts of their first column.
    pub(crate) async fn select(&self, query: &str) -> Vec<String> {
        let db = self.database().await;
        let statement = Statement::from_string(sea_orm::DbBackend::Postgres, query);
        let rows = db.query_all_raw(statement).await.unwrap();
        db.close().await.unwrap();
        rows.iter().map(|row| row.try_get_by_index::<String>(0).unwrap()).collect()
    }

    /// Returns a file whose growth fills the disk of the database.
    pub(crate) fn ballast(&self) -> Option<PathBuf> {
        self.disk.mounted.then(|| self.disk.folder.path().join("ballast"))
    }

    /// Returns the resident memory of each replica that runs, in MiB.
    pub(crate) fn memory(&self) -> Vec<u64> {
        let services = self.replicas.iter().map(|replica| replica.service.lock().unwrap());
        services
            .filter_map(|service| service.as_ref().map(|service| service.process.resident() >> 20))
            .collect()
    }

    /// Returns what the replicas logged, for a failure's report.
    pub(crate) fn logs(&self) -> String {
        let mut all = String::new();
        for file in std::fs::read_dir(self.folder.path()).unwrap().flatten() {
            if file.path().extension().is_some_and(|end| end == "log") {
                let text = std::fs::read_to_string(file.path()).unwrap_or_default();
                let odd = text.lines().filter(|line| line.contains("ERROR") || line.contains("panick"));
                all.extend(odd.map(|line| format!("{}: {line}\n", file.file_name().display())));
            }
        }
        all
    }
}
