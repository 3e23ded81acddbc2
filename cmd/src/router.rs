//! `weft router`: the daemon in the foreground.

use clap::ArgMatches;

use crate::{cli::Globals, docker::Plugin, flags::RouterFlags, handover, logging, settings::Settings};

/// Runs the router until it is told to stop.
pub(crate) fn router(
    flags: RouterFlags,
    globals: Globals,
    background: bool,
    matches: &ArgMatches,
) -> anyhow::Result<()> {
    handover::scrub(&flags, matches)?;
    if background {
        // Fails only in a session's leader, which has left already.
        let _ = nix::unistd::setsid();
    }
    let settings = Settings::gather(flags, &globals)?;
    logging::start(settings.log_level, settings.log_format);
    let docker = settings.docker.clone();
    let config = settings.into_config()?;
    if config.secret.is_open() {
        tracing::warn!("no secret is given: whoever reaches this port may join, and frames are not protected");
    }
    let plugin = docker.map(Plugin::start).transpose()?;
    let ended = weft_router::run(config);
    drop(plugin);
    ended?;
    Ok(())
}
