//! Logs of what runs long, to standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::flags::{LogFormat, LogLevel};

/// What fails in these libraries comes back to us as an error, and we say what it means, once.
const SILENT: &str = "kube_client=off,kube_runtime=off";

/// Starts logging. Libraries log warnings at most, however much is asked for: their details drown ours.
pub(crate) fn start(level: LogLevel, format: LogFormat) {
    let (ours, theirs) = match level {
        LogLevel::Trace => ("trace", "warn"),
        LogLevel::Debug => ("debug", "warn"),
        LogLevel::Info => ("info", "warn"),
        LogLevel::Warning => ("warn", "warn"),
        LogLevel::Error => ("error", "error"),
    };
    let crates = ["weft", "weft_router", "weft_host", "weft_plugin"].map(|name| format!("{name}={ours}")).join(",");
    let filter = EnvFilter::new(format!("{theirs},{SILENT},{crates}"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => {
            builder.with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()).init()
        }
        LogFormat::Json => builder.json().init(),
    }
}
