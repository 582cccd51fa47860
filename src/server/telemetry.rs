//! What Prometheus reads at `/metrics`.
//!
//! Invariant: labels are names of ours, never texts of a request.

use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing::warn;

use crate::engine::Engine;
use crate::store::{Counts, HookCounts, StoreError};

/// Seconds until the head of a response, from fast reads to whole runs.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 120.0];

/// How long the database may take to count.
const PATIENCE: Duration = Duration::from_secs(2);

static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Begins to collect; what was counted before is lost. Calling it again changes nothing.
pub fn install() {
    handle();
}

fn handle() -> Option<&'static PrometheusHandle> {
    let install = || {
        let handle =
            PrometheusBuilder::new().set_buckets(&BUCKETS).and_then(PrometheusBuilder::install_recorder);
        match handle {
            Ok(handle) => {
                describe();
                Some(handle)
            }
            Err(error) => {
                // Somebody who embeds the service collects already.
                warn!(%error, "Metrics go elsewhere; `/metrics` is empty.");
                None
            }
        }
    };
    HANDLE.get_or_init(install).as_ref()
}

fn describe() {
    metrics::describe_counter!(
        "graphloom_http_requests_total",
        "Requests answered, by operation and class of status."
    );
    metrics::describe_histogram!(
        "graphloom_http_response_seconds",
        metrics::Unit::Seconds,
        "Seconds until the head of the response."
    );
    metrics::describe_counter!("graphloom_unauthorized_total", "Requests whose sender is not known.");
    metrics::describe_counter!(
        "graphloom_unknown_master_keys_total",
        "Looks for keys of a tenant that no master key of this process opens."
    );
    metrics::describe_gauge!("graphloom_streams_open", "Streams that are open.");
    metrics::describe_gauge!("graphloom_runs_active", "Runs that this process owns.");
    metrics::describe_gauge!("graphloom_memory_bytes", "Memory that this process uses.");
    metrics::describe_gauge!("graphloom_memory_limit_bytes", "Memory that it may use.");
    metrics::describe_counter!("graphloom_runs_accepted_total", "Runs accepted.");
    metrics::describe_gauge!("graphloom_runs", "Runs of all processes, by state.");
    metrics::describe_gauge!(
        "graphloom_webhooks",
        "What webhooks are told, of all processes, as long as it is kept: queued, delivered, or given up (failed)."
    );
    metrics::describe_counter!(
        "graphloom_webhook_deliveries_total",
        "Tries to tell a webhook: delivered, failed, or given up with the last try."
    );
    metrics::describe_counter!(
        "graphloom_attempts_given_up_total",
        "What runs were at that were given up, by graph and node."
    );
    metrics::describe_counter!(
        "graphloom_quarantined_total",
        "Runs taken alone, since they may be what killed their last process."
    );
    metrics::describe_counter!(
        "graphloom_tail_looks_total",
        "Looks for news of the runs of other processes that are followed here."
    );
    metrics::describe_counter!(
        "graphloom_foreign_databases_total",
        "Connections given up because another server answered, or one that is behind."
    );
    metrics::describe_gauge!(
        "graphloom_model_calls",
        "Calls of models that are under way, or wait for others."
    );
    metrics::describe_counter!("graphloom_model_calls_total", "Calls of models that came to an end.");
    metrics::describe_counter!(
        "graphloom_model_cost_nano_usd_total",
        "What calls of models cost by their price, in billionths of a dollar."
    );
    metrics::describe_counter!("graphloom_events_sent_total", "Events written to streams.");
    metrics::describe_counter!(
        "graphloom_reloads_total",
        "Changes of the project: swapped, refused for its errors, or failed to be stored."
    );
    metrics::describe_gauge!(
        "graphloom_reload_findings",
        "Errors of the project in the folder, while what was served before goes on; 0 when it is served."
    );
}

/// Notes how many runs wait, work and were given up, in the whole database. Without it the last numbers stay.
pub(super) async fn count(engine: &Engine) {
    let counts = async { Ok::<_, StoreError>((engine.counts().await?, engine.hook_counts().await?)) };
    match tokio::time::timeout(PATIENCE, counts).await {
        Ok(Ok((counts, hooks))) => {
            let Counts { queued, delayed, running, interrupted, dead } = counts;
            let states = [
                ("queued", queued),
                ("delayed", delayed),
                ("running", running),
                ("interrupted", interrupted),
                ("dead", dead),
            ];
            for (state, runs) in states {
                metrics::gauge!("graphloom_runs", "state" => state).set(runs as f64);
            }
            let HookCounts { queued, delivered, failed } = hooks;
            for (state, hooks) in [("queued", queued), ("delivered", delivered), ("failed", failed)] {
                metrics::gauge!("graphloom_webhooks", "state" => state).set(hooks as f64);
            }
        }
        Ok(Err(error)) => warn!(%error, "The runs cannot be counted."),
        Err(_) => warn!("The runs cannot be counted: the database does not answer."),
    }
}

/// Writes what was collected.
pub(super) fn render() -> String {
    handle().map(PrometheusHandle::render).unwrap_or_default()
}

/// Folds collected samples for ever, so that they take no room when nobody reads them.
pub(super) async fn keep_up() {
    let mut tick = tokio::time::interval(Duration::from_secs(5));
    loop {
        tick.tick().await;
        if let Some(handle) = handle() {
            handle.run_upkeep();
        }
    }
}
