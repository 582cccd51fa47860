//! Sends spans to a collector: OTLP as protobuf over HTTP.
//!
//! Invariant: runs never wait for it. Spans go into a queue of a fixed length, and what does not fit is dropped; a thread and
//! a runtime of its own send them.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::trace::TracerProvider;
use opentelemetry::{KeyValue, global};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tokio::runtime::{Handle, Runtime};
use tracing::level_filters::LevelFilter;
use tracing::{Subscriber, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use super::TARGET;
use crate::egress::{self, Client, ERROR_BODY_LIMIT, Method, Target, Url};

/// Where traces go. What else the standard variables say (the sampler, headers, attributes, limits), the SDK reads by itself.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The address that spans are posted to.
    pub endpoint: Url,
    /// How long the collector may take to answer.
    pub timeout: Duration,
    /// The name of the service, unless the variables name it.
    pub service: Option<&'static str>,
    /// The name of this process among its replicas.
    pub instance: String,
    /// Whoever is called learns the trace.
    pub propagates: bool,
}

/// Why there are no traces.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The HTTP client cannot be made.
    #[error(transparent)]
    Client(#[from] egress::Error),
    /// The runtime cannot be made.
    #[error("cannot start the runtime of the exporter: {0}")]
    Runtime(std::io::Error),
    /// The SDK refuses what the variables say.
    #[error("the variables of OpenTelemetry cannot work: {0}")]
    Sdk(String),
}

/// Sends spans until it is closed.
pub struct Exporter {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    runtime: Runtime,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").finish_non_exhaustive()
    }
}

impl Exporter {
    /// Begins to send what [`layer`](Self::layer) makes.
    pub fn start(settings: &Settings) -> Result<Self, ExportError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("traces")
            .enable_all()
            .build()
            .map_err(ExportError::Runtime)?;
        // The operator names the collector, so it may be a private host.
        let allow = vec![Target::of(&settings.endpoint)?];
        let client = Client::new(egress::Settings { allow, ..egress::Settings::default() });
        client.prepare()?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Post { client, timeout: settings.timeout, runtime: runtime.handle().clone() })
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(settings.endpoint.as_str())
            .with_timeout(settings.timeout)
            .build()
            .map_err(|error| ExportError::Sdk(error.to_string()))?;
        let attributes = [
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", settings.instance.clone()),
        ];
        let mut resource = Resource::builder().with_attributes(attributes);
        if let Some(name) = settings.service {
            resource = resource.with_service_name(name);
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        let tracer = provider.tracer("graphloom");
        if settings.propagates {
            global::set_text_map_propagator(TraceContextPropagator::new());
        }
        Ok(Self { provider, tracer, runtime })
    }

    /// Returns what turns spans of this program into spans of OpenTelemetry, and lets nothing else through: what is logged
    /// may hold words of users.
    pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + use<S> {
        let ours = filter_fn(|found| found.is_span() && found.target() == TARGET);
        tracing_opentelemetry::layer()
            .with_tracer(self.tracer.clone())
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_level(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(ours.with_max_level_hint(LevelFilter::INFO))
    }

    /// Sends what is left, for no longer than this. It blocks.
    pub fn close(self, patience: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(patience) {
            warn!(%error, "Some spans were not sent.");
        }
        self.runtime.shutdown_background();
    }
}

/// Posts by the one outbound client.
#[derive(Debug)]
struct Post {
    client: Client,
    timeout: Duration,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for Post {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let (client, url) = (self.client.clone(), Url::parse(&head.uri.to_string())?);
        // The SDK asks from a thread without a runtime, whose clocks are there only within a task.
        let timeout = self.timeout;
        let post = async move {
            let answer = client.send(Method::POST, &url, head.headers, body.to_vec()).await?;
            let (status, headers) = (answer.status(), answer.headers());
            Ok::<_, egress::Error>((status, headers, answer.read_start(ERROR_BODY_LIMIT).await))
        };
        let sent = self.runtime.spawn(async move { tokio::time::timeout(timeout, post).await });
        let (status, headers, body) = sent.await???;
        let mut response = Response::builder().status(status);
        for (name, value) in &headers {
            response = response.header(name, value);
        }
        Ok(response.body(Bytes::from(body))?)
    }
}
