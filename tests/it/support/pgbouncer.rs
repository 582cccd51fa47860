//! A running PgBouncer in transaction mode.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use super::process::{Folder, Process};
use super::{Fresh, PASSWORD};

/// Whom it becomes where it is started by root, as which it does not run.
const NOBODY: u32 = 65534;

pub(crate) struct PgBouncer {
    _process: Process,
    _folder: Folder,
    /// The database behind it, for the role that it knows.
    pub(crate) url: String,
}

impl PgBouncer {
    /// Starts it before a database, for one role, and waits until it listens.
    pub(crate) fn start(fresh: &Fresh, role: &str) -> Self {
        let folder = Folder::new();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let server = fresh.url.rsplit_once('@').unwrap().1.rsplit_once('/').unwrap().0;
        let (host, port) = server.rsplit_once(':').unwrap_or((server, "5432"));
        let here = folder.path().display();
        folder.write("users.txt", &format!("\"{role}\" \"{PASSWORD}\"\n"));
        folder.write(
            "pgbouncer.ini",
            // Two connections for all: whoever leaves something on one of them is found out.
            &format!(
                "[databases]\n* = host={host} port={port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                 listen_port = {}\nauth_type = trust\nauth_file = {here}/users.txt\nunix_socket_dir =\n\
                 pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 200\n",
                free.port()
            ),
        );
        let mut command = Command::new("pgbouncer");
        command.arg("-q").arg(folder.path().join("pgbouncer.ini")).stdin(Stdio::null()).stdout(Stdio::null());
        if std::fs::metadata(folder.path()).unwrap().uid() == 0 {
            command.uid(NOBODY);
        }
        let path =
            std::env::join_paths([std::path::Path::new("/usr/sbin"), std::path::Path::new("/usr/bin")]);
        let process = command.env("PATH", path.unwrap()).spawn().unwrap_or_else(|e| {
            panic!("pgbouncer: {e}; `scripts/test` installs it, so does `apt-get install pgbouncer`")
        });
        let mut process = Process::of(process);
        while TcpStream::connect(free).is_err() {
            assert!(!process.has_ended(), "pgbouncer ended");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let url = fresh.url_of(role).replace(server, &free.to_string());
        Self { _process: process, _folder: folder, url }
    }
}
