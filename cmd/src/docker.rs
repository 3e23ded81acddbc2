//! Docker beside the router: its plugin on a thread of the router's process, and containers by the names that Docker has for them.

use std::{
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use anyhow::{Context, bail, ensure};
use tokio_util::sync::CancellationToken;
use weft_plugin::docker::{self, Container, ENGINE, Engine, EngineError, Settings};

use crate::output;

/// Where the engine listens, as Docker's own programs take it.
const HOST: &str = "DOCKER_HOST";
/// Where names of namespaces are kept (ip-netns(8)).
const NAMESPACES: &str = "/run/netns";

/// Docker's plugin on a thread of its own; it ends with this.
#[derive(Debug)]
pub(crate) struct Plugin {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Plugin {
    /// Starts it. It serves as soon as the router does; a failure of it is told, and harms the router in no way.
    pub(crate) fn start(settings: Settings) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("weft-docker".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let served = match runtime {
                Ok(runtime) => runtime.block_on(docker::serve(settings, stopped)).map_err(anyhow::Error::from),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = served {
                tracing::warn!(%error, "containers of Docker cannot use the network by `docker run --net`");
            }
        });
        Ok(Self { stop, thread: Some(thread.context("cannot start a thread for Docker's plugin")?) })
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported already.
            let _ = thread.join();
        }
    }
}

/// The engine's socket: of `DOCKER_HOST`, if that names one.
pub(crate) fn engine_socket() -> PathBuf {
    let host = std::env::var(HOST).ok();
    host.as_deref().and_then(|host| host.strip_prefix("unix://")).unwrap_or(ENGINE).into()
}

/// A container that people named, as the router knows it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// Where its namespace is: what was typed, or the process of one of Docker's that runs.
    pub(crate) container: String,
    /// What one of Docker's is called, however it was typed: it keeps its addresses and names under this when it is started again.
    pub(crate) name: Option<String>,
    is_running: bool,
}

impl Named {
    /// What it is attached under, and who has its addresses and names.
    pub(crate) fn owner(&self) -> &str {
        self.name.as_ref().unwrap_or(&self.container)
    }

    /// Refuses one of Docker's that has no namespace now.
    pub(crate) fn running(self) -> anyhow::Result<Self> {
        ensure!(self.is_running, "the container \"{}\" is not running: `docker start` it first", self.owner());
        Ok(self)
    }

    /// Where it is to be found for a detach, and under which name if its namespace is gone.
    pub(crate) fn for_detach(self) -> (String, Option<String>) {
        let name = self.name.filter(|_| !self.is_running);
        (self.container, name)
    }
}

/// Which container people mean: one that the router knows itself, or one of Docker's by name or id.
pub(crate) fn resolved(container: &str) -> anyhow::Result<Named> {
    let found = if is_known_to_the_router(container) { None } else { find(container)? };
    Ok(match found {
        None => Named { container: container.to_owned(), name: None, is_running: true },
        Some(found) => {
            let (name, pid) = (found.name().to_owned(), found.pid());
            let container = pid.map_or_else(|| name.clone(), |pid| pid.to_string());
            Named { container, name: Some(name), is_running: pid.is_some() }
        }
    })
}

/// By which names the router may list a container: as it was typed, as Docker calls it, and those of its endpoints in Docker's networks.
pub(crate) fn names(container: &str) -> anyhow::Result<Vec<String>> {
    let mut names = vec![container.to_owned()];
    if !is_known_to_the_router(container)
        && let Some(found) = find(container)?
    {
        names.push(found.name().to_owned());
        names.extend(found.pid().map(|pid| pid.to_string()));
        names.extend(found.attachments());
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Removes the network that the plugin made, as far as that can be.
pub(crate) fn remove_network(engine: &Path) {
    let removed = ask(async { Engine::connect(engine).await?.remove_network().await });
    match removed {
        Ok(Err(error)) if !error.is_absent() => {
            output::warn(format_args!("Docker's network `weft` stays: {error}; `docker network rm weft` removes it"));
        }
        Ok(_) | Err(_) => {}
    }
}

fn is_known_to_the_router(container: &str) -> bool {
    let named = || Path::new(NAMESPACES).join(container).exists();
    let is_process = || container.parse::<u32>().is_ok_and(|pid| Path::new("/proc").join(pid.to_string()).exists());
    container.is_empty() || container.contains('/') || container.starts_with("weft:") || named() || is_process()
}

/// The container of Docker's; none if there is no such, or no Docker.
fn find(container: &str) -> anyhow::Result<Option<Container>> {
    let socket = engine_socket();
    match ask(async { Engine::connect(&socket).await?.container(container).await })? {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() || error.is_absent() => Ok(None),
        Err(error) => bail!("cannot ask Docker at {} for \"{container}\": {error}", socket.display()),
    }
}

fn ask<T>(question: impl Future<Output = Result<T, EngineError>>) -> anyhow::Result<Result<T, EngineError>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot ask Docker")?;
    Ok(runtime.block_on(question))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_router_knows_is_not_asked_of_docker() {
        let own = std::process::id().to_string();
        for known in &["/run/netns/x", "weft:expose", &own, ""] {
            assert!(is_known_to_the_router(known), "{known}");
            let named = resolved(known).unwrap().running().unwrap();
            assert_eq!((named.container.as_str(), named.owner(), named.name.as_deref()), (*known, *known, None));
        }
        for unknown in ["web", "c0ffee", "4294967295"] {
            assert!(!is_known_to_the_router(unknown), "{unknown}");
        }
    }

    #[test]
    fn a_container_of_dockers_is_its_name_and_runs_or_is_refused() {
        let named = |is_running| Named { container: "7".to_owned(), name: Some("web".to_owned()), is_running };
        assert_eq!(named(true).running().unwrap().owner(), "web");
        let said = named(false).running().unwrap_err().to_string();
        assert!(said.contains("\"web\" is not running"), "{said}");
    }
}
