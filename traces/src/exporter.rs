//! The way to the collector.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry_otlp::{ExporterBuildError, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tonic::transport::{Certificate, ClientTlsConfig};

use crate::environment::Asked;

/// Why there is no way to the collector.
#[derive(Debug, thiserror::Error)]
pub enum ExporterError {
    /// No thread for it.
    #[error("cannot start threads for them: {0}")]
    Threads(std::io::Error),
    /// Whom to trust.
    #[error("cannot read OTEL_EXPORTER_OTLP_CERTIFICATE={path}: {error}")]
    Certificates {
        /// The file.
        path: String,
        /// The system's words.
        error: std::io::Error,
    },
    /// What the exporter says.
    #[error("{0}")]
    Build(#[from] ExporterBuildError),
}

/// An exporter that says in the log when spans do not arrive, and when they do again.
#[derive(Debug)]
pub(crate) struct Told {
    exporter: opentelemetry_otlp::SpanExporter,
    endpoint: String,
    /// Spans that did not arrive since the last ones that did.
    lost: AtomicU64,
}

impl Told {
    /// Call this on a runtime: the connection lives there.
    pub(crate) fn new(asked: &Asked) -> Result<Self, ExporterError> {
        let mut builder = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(&asked.endpoint);
        if asked.endpoint.starts_with("https://") {
            let mut tls = ClientTlsConfig::new().with_native_roots();
            if let Some(path) = &asked.certificates {
                let pem =
                    std::fs::read(path).map_err(|error| ExporterError::Certificates { path: path.clone(), error })?;
                tls = tls.ca_certificate(Certificate::from_pem(pem));
            }
            builder = builder.with_tls_config(tls);
        }
        Ok(Self { exporter: builder.build()?, endpoint: asked.endpoint.clone(), lost: AtomicU64::new(0) })
    }
}

impl SpanExporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        let done = self.exporter.export(batch).await;
        match &done {
            Ok(()) => {
                let lost = self.lost.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    tracing::info!(lost, "the collector takes spans again");
                }
            }
            Err(error) => {
                // Once for each time it goes away.
                if self.lost.fetch_add(count, Ordering::Relaxed) == 0 {
                    tracing::warn!("spans do not reach the collector at {}: {error}", self.endpoint);
                }
            }
        }
        done
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
