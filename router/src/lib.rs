//! **weft-router**: the daemon. Drivers around the core; decides nothing.

pub mod config;
mod control;
pub mod daemon;
pub mod dataplane;
mod events;
pub mod fastdp;
mod http;
mod keep;
mod metrics;
mod mtu;
pub mod record;
mod shutdown;
mod stations;
pub mod store;
mod transport;

pub use config::Config;
pub use control::ControlError;
pub use daemon::{Exit, RunError, reset, run};
pub use http::BindError;
pub use transport::ListenError;
