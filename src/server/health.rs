//! Whether the service takes work.
//!
//! Invariant: a project that cannot be served does not make the service less ready: what is served goes on.

use std::sync::Arc;

use poem::Request;
use poem_openapi::{Enum, Object, OpenApi};

use super::front::peer;
use super::problem::Problem;
use super::view::{Answer, Time};
use super::{App, Tag};
use crate::engine::{Finding, Stale};

/// The operations on the service itself.
pub(super) struct Health(pub(super) Arc<App>);

/// A service that takes work.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub(super) struct Readiness {
    /// Always the same: a service that is not ready answers a problem.
    status: ReadyStatus,
    /// Why the graphs in the project folder are not those that are served; absent when they are.
    stale: Option<StaleView>,
}

/// The status of a service that takes work.
#[derive(Debug, Clone, Copy, Enum)]
#[oai(rename_all = "snake_case")]
enum ReadyStatus {
    /// It takes work.
    Ready,
}

/// A project that could not be taken over; what was served before goes on.
#[derive(Debug, Object)]
#[oai(rename = "StaleProject", skip_serializing_if_is_none)]
struct StaleView {
    /// Since when.
    since: Time,
    /// Why, in one sentence.
    reason: String,
    /// How many errors the project has.
    errors: u64,
    /// The first of them, for those who may read `/metrics`.
    findings: Option<Vec<FindingView>>,
}

/// An error of the project.
#[derive(Debug, Object)]
#[oai(rename = "Finding")]
struct FindingView {
    /// Its stable code.
    code: String,
    /// What is wrong.
    message: String,
    /// The file.
    file: String,
    /// The line, from 1.
    line: u64,
    /// The column in code points, from 1.
    column: u64,
}

#[OpenApi(tag = "Tag::Service")]
impl Health {
    /// Says whether the service takes work
    ///
    /// After a change of the project that has errors, what was served goes on: the answer is the same, and says so in
    /// `stale`.
    #[oai(path = "/ready", method = "get", operation_id = "ready")]
    async fn ready(&self, request: &Request) -> Result<Answer<Readiness>, Problem> {
        self.0.engine.ready().await?;
        let settings = &self.0.settings;
        let stale = self.0.engine.stale().map(|stale| {
            // Names in a project are its author's business.
            let trusted =
                settings.open_metrics || settings.auth.identify(peer(request), request.headers()).is_ok();
            view(&stale, trusted)
        });
        Ok(Answer(Readiness { status: ReadyStatus::Ready, stale }))
    }
}

fn view(stale: &Stale, trusted: bool) -> StaleView {
    let finding = |finding: &Finding| FindingView {
        code: finding.code.into(),
        message: finding.message.clone(),
        file: finding.file.clone(),
        line: finding.line as u64,
        column: finding.column as u64,
    };
    StaleView {
        since: stale.since.into(),
        reason: stale.why.clone(),
        errors: stale.errors as u64,
        findings: trusted.then(|| stale.findings.iter().map(finding).collect()),
    }
}
