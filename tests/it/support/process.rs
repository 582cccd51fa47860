//! Real processes for end-to-end tests: the binary, the mock provider, nginx.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value as Json;
use uuid::Uuid;

/// A folder of its own, gone when dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("gl_{}", Uuid::now_v7().simple()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Writes a file as editors do: beside it, then in its place.
    pub(crate) fn replace(&self, name: &str, text: &str) {
        self.write(&format!("{name}~"), text);
        std::fs::rename(self.0.join(format!("{name}~")), self.0.join(name)).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ignored = std::fs::remove_dir_all(&self.0);
    }
}

/// A process that ends with the test.
pub(crate) struct Process(Child);

impl Process {
    /// Takes a process that was started.
    pub(crate) fn of(child: Child) -> Self {
        Self(child)
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Asks it to read its project again.
    pub(crate) fn hang_up(&self) {
        self.signal(Signal::SIGHUP);
    }

    /// Stops it in its tracks.
    pub(crate) fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Returns the bytes of memory that it occupies.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Waits for its end, and says whether it called it a success.
    pub(crate) fn wait(&mut self) -> bool {
        self.0.wait().unwrap().success()
    }

    /// Ends it as a crash would.
    pub(crate) fn crash(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Reads lines of standard output until one begins with `start`, and returns its rest; `None` at the end.
    fn line(&mut self, start: &str) -> Option<String> {
        let mut out = BufReader::new(self.0.stdout.as_mut().unwrap());
        let mut line = String::new();
        while out.read_line(&mut line).unwrap() > 0 {
            if let Some(rest) = line.trim_end().strip_prefix(start) {
                return Some(rest.to_owned());
            }
            line.clear();
        }
        None
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ignored = self.0.kill();
        let _ignored = self.0.wait();
    }
}

/// Returns the command of an example.
pub(crate) fn example(name: &str) -> Command {
    // Cargo names no variable for examples, but they stand beside the tests.
    let tests = std::env::current_exe().unwrap();
    let path = tests.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(path.exists(), "`cargo build --example {name}` makes {}", path.display());
    Command::new(path)
}

/// A running mock provider.
pub(crate) struct Mock {
    _process: Process,
    /// `http://127.0.0.1:PORT`.
    pub(crate) base: String,
}

impl Mock {
    pub(crate) fn start() -> Self {
        let process = example("mock_provider")
            .args(["--port", "0", "--with-parent"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut process = Process(process);
        let base = process.line("listening on ").unwrap();
        Self { _process: process, base }
    }

    /// Returns every call that came, oldest first.
    pub(crate) async fn calls(&self, http: &reqwest::Client) -> Vec<Json> {
        let body: Json = http.get(format!("{}/calls", self.base)).send().await.unwrap().json().await.unwrap();
        body["calls"].as_array().unwrap().clone()
    }
}

/// A running service.
pub(crate) struct Service {
    pub(crate) process: Process,
    /// `http://127.0.0.1:PORT`.
    pub(crate) base: String,
    log: PathBuf,
}

impl Service {
    /// Starts the binary on the project in a folder, and waits until it listens.
    pub(crate) fn start(folder: &Folder, database_url: &str, instance: &str) -> Self {
        Self::start_with(folder, database_url, instance, &[])
    }

    /// The same with variables of its environment.
    pub(crate) fn start_with(
        folder: &Folder,
        database_url: &str,
        instance: &str,
        env: &[(&str, &str)],
    ) -> Self {
        let log = folder.path().join(format!("{instance}-{}.log", Uuid::now_v7().simple()));
        let mut command = binary(folder);
        command
            .args(["serve", "--bind", "127.0.0.1:0", "--instance", instance])
            .args(["--database-url", database_url])
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap());
        let mut process = Process(command.spawn().unwrap());
        let base = process.line("graphloom listens on ");
        let base = base.unwrap_or_else(|| panic!("{}", std::fs::read_to_string(&log).unwrap()));
        Self { process, base, log }
    }

    /// Returns `host:port`.
    pub(crate) fn address(&self) -> &str {
        self.base.strip_prefix("http://").unwrap()
    }

    /// Returns what it logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{} logged:\n{}", self.base, self.log());
        }
    }
}

/// Returns the command `graphloom` for the project in a folder; no setting of the caller's gets in.
pub(crate) fn binary(folder: &Folder) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_graphloom"));
    command.current_dir(folder.path()).arg("--graphs").arg(folder.path().join("graphs"));
    for name in [
        "DATABASE_URL",
        "GRAPHLOOM_DATABASE_URL",
        "GRAPHLOOM_CONFIG",
        "GRAPHLOOM_LOG",
        "GRAPHLOOM_WATCH",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    ] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// A running nginx with its default buffering.
pub(crate) struct Nginx {
    _process: Process,
    _folder: Folder,
    /// `http://127.0.0.1:PORT`.
    pub(crate) base: String,
}

impl Nginx {
    /// Starts it before a service, and waits until it listens.
    pub(crate) fn start(service: &Service) -> Self {
        let folder = Folder::new();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let text = std::fs::read_to_string("tests/nginx/nginx.conf").unwrap();
        let here = folder.path().display().to_string();
        let text = text.replace("@LISTEN@", &free).replace("@UPSTREAM@", service.address());
        folder.write("nginx.conf", &text.replace("@DIR@", &here));
        let process = Command::new("nginx")
            .args(["-e", &format!("{here}/error.log"), "-p", &here, "-c", &format!("{here}/nginx.conf")])
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| {
                panic!("nginx: {e}; `scripts/test` installs it, so does `apt-get install nginx`")
            });
        let mut process = Process(process);
        while std::net::TcpStream::connect(&free).is_err() {
            let ended = process.0.try_wait().unwrap();
            let log = std::fs::read_to_string(folder.path().join("error.log")).unwrap_or_default();
            assert!(ended.is_none(), "nginx ended: {log}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Self { _process: process, _folder: folder, base: format!("http://{free}") }
    }
}
