//! Servers that are programs: they are spoken to by their standard input and output.
//!
//! Invariant: a program gets the environment that is given to it, and of this process's what no program can do without; it
//! does not outlive its connection.

use std::io;
use std::process::Stdio;

use rmcp::RoleClient;
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Take};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tracing::debug;

use super::wire::MAX_MESSAGE;
use crate::egress::Secret;

/// What a program inherits: where programs and homes are, the language, the time.
const INHERITED: [&str; 9] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR"];
/// The longest line of its own words that is logged.
const MAX_LINE: u64 = 4096;

/// A program that runs.
pub(super) struct Program {
    name: String,
    /// Killed when it is dropped.
    child: Child,
    said: AsyncRwTransport<RoleClient, ChildStdout, ChildStdin>,
    /// What it says besides; nothing when it has closed that.
    log: Option<Take<BufReader<ChildStderr>>>,
    line: Vec<u8>,
}

impl Program {
    /// Starts a program.
    pub(super) fn start(command: &[String], env: &[(String, Secret)]) -> io::Result<Self> {
        let (name, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        // No settings, but what the system gives to every child.
        let inherited = INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        let mut child = Command::new(name)
            .args(arguments)
            .env_clear()
            .envs(inherited)
            .envs(env.iter().map(|(name, value)| (name, value.expose())))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            // What stops the service by the keyboard leaves the programs to it.
            .process_group(0)
            .spawn()?;
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let (output, input) = child.stdout.take().zip(child.stdin.take()).ok_or_else(gone)?;
        let log = child.stderr.take().map(|log| BufReader::new(log).take(MAX_LINE));
        let said = AsyncRwTransport::new(output, input).with_max_line_length(MAX_MESSAGE);
        Ok(Self { name: name.clone(), child, said, log, line: Vec::new() })
    }

    /// Reads a line of its own words, or the beginning of a longer one; false when there are no more.
    async fn log(log: &mut Take<BufReader<ChildStderr>>, line: &mut Vec<u8>) -> bool {
        // What was read before this was dropped is kept in the line.
        let read = log.read_until(b'\n', line).await.is_ok_and(|read| read > 0);
        log.set_limit(MAX_LINE);
        read
    }
}

impl Transport<RoleClient> for Program {
    type Error = io::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = Result<(), io::Error>> + Send + 'static {
        self.said.send(message)
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        loop {
            let Some(log) = &mut self.log else { return self.said.receive().await };
            tokio::select! {
                message = self.said.receive() => return message,
                more = Self::log(log, &mut self.line) => {
                    // A program may print what it was asked: that is for nobody's eyes but a developer's.
                    let line = String::from_utf8_lossy(&self.line);
                    debug!(program = self.name, line = line.trim_end(), "An MCP server says.");
                    self.line.clear();
                    if !more {
                        self.log = None;
                    }
                }
            }
        }
    }

    async fn close(&mut self) -> Result<(), io::Error> {
        self.said.close().await?;
        // The end of its input tells it to end; what does not is killed.
        let patience = std::time::Duration::from_secs(2);
        match tokio::time::timeout(patience, self.child.wait()).await {
            Ok(ended) => ended.map(drop),
            Err(_late) => self.child.kill().await,
        }
    }
}
