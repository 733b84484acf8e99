//! Counters in Prometheus' text format. They count; they hold nothing of what was asked or answered.

use axum::http::StatusCode;
use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use std::time::Duration;

const META: Metadata<'static> = Metadata::new("coffer", Level::INFO, None);
/// Upper bounds in seconds.
const BUCKETS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];

const COUNTERS: [(&str, &str); 5] = [
    ("coffer_requests_total", "Requests by route and status."),
    ("coffer_prompt_tokens_total", "Tokens of prompts."),
    ("coffer_reused_tokens_total", "Tokens of prompts that an earlier request had computed."),
    ("coffer_completion_tokens_total", "Tokens made."),
    ("coffer_abandoned_total", "Generations whose client went away or stopped reading."),
];
const HISTOGRAMS: [(&str, &str); 2] = [
    ("coffer_first_token_seconds", "Seconds from a request's submission to its first token."),
    ("coffer_request_seconds", "Seconds until the answer's head was ready."),
];
const GAUGES: [(&str, &str); 2] =
    [("coffer_active", "Sequences that are running."), ("coffer_queued", "Requests that wait for a slot.")];

/// One server's metrics; several servers in one process do not share any.
pub(crate) struct Metrics {
    recorder: PrometheusRecorder,
    /// Tokens of prompts.
    pub(crate) prompt_tokens: Counter,
    /// Tokens of prompts that an earlier request had computed.
    pub(crate) reused_tokens: Counter,
    /// Tokens made.
    pub(crate) completion_tokens: Counter,
    /// Seconds from a request's submission to its first token.
    pub(crate) first_token: Histogram,
    /// Generations whose client went away or stopped reading.
    pub(crate) abandoned: Counter,
    active: Gauge,
    queued: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let builder = PrometheusBuilder::new();
        // Only an empty list of buckets is refused.
        let recorder = match builder.set_buckets(&BUCKETS) {
            Ok(builder) => builder.build_recorder(),
            Err(_) => PrometheusBuilder::new().build_recorder(),
        };
        for (name, text) in COUNTERS {
            recorder.describe_counter(name.into(), None, text.into());
        }
        for (name, text) in HISTOGRAMS {
            recorder.describe_histogram(name.into(), None, text.into());
        }
        for (name, text) in GAUGES {
            recorder.describe_gauge(name.into(), None, text.into());
        }
        Self {
            prompt_tokens: recorder.register_counter(&Key::from_static_name("coffer_prompt_tokens_total"), &META),
            reused_tokens: recorder.register_counter(&Key::from_static_name("coffer_reused_tokens_total"), &META),
            completion_tokens: recorder.register_counter(&Key::from_static_name("coffer_completion_tokens_total"), &META),
            first_token: recorder.register_histogram(&Key::from_static_name("coffer_first_token_seconds"), &META),
            abandoned: recorder.register_counter(&Key::from_static_name("coffer_abandoned_total"), &META),
            active: recorder.register_gauge(&Key::from_static_name("coffer_active"), &META),
            queued: recorder.register_gauge(&Key::from_static_name("coffer_queued"), &META),
            recorder,
        }
    }

    /// Counts an answered request. `path` is a route, never what the client wrote.
    pub(crate) fn request(&self, path: &str, status: StatusCode, took: Duration) {
        let path = Label::new("path", path.to_owned());
        let labels = vec![path.clone(), Label::new("status", status.as_u16().to_string())];
        self.recorder.register_counter(&Key::from_parts("coffer_requests_total", labels), &META).increment(1);
        self.recorder.register_histogram(&Key::from_parts("coffer_request_seconds", vec![path]), &META).record(took);
    }

    /// Moves what was recorded into its buckets, so that memory stays small if nobody asks for the metrics.
    pub(crate) fn upkeep(&self) {
        self.recorder.handle().run_upkeep();
    }

    /// The text, with `(running, waiting)` sequences as they are now.
    pub(crate) fn render(&self, (running, waiting): (usize, usize)) -> String {
        self.active.set(running as f64);
        self.queued.set(waiting as f64);
        self.recorder.handle().render()
    }
}
