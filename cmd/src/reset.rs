//! `weft reset`: as if Weft had never been on this host.

use std::{fs, io, path::Path};

use anyhow::Context;
use weft_router::Config;

use crate::{
    cli::{Dirs, Globals},
    docker,
    flags::RouterFlags,
    launch::LOGS,
    settings::Settings,
    stop,
};

/// Stops the router if it runs, and removes all that it made.
pub(crate) fn reset(globals: &Globals) -> anyhow::Result<()> {
    let settings = Settings::without_secret(RouterFlags::default(), globals)?;
    if let Some(docker) = &settings.docker {
        // While the plugin is there, which Docker asks to let it go.
        docker::remove_network(&docker.engine);
    }
    let config = settings.config();
    stop::end(&Dirs { data: config.data_dir.clone(), run: config.run_dir.clone() }, "/reset")?;
    // A router that was told to has done this itself; one that was killed, or ran before, has not.
    weft_router::reset(config)?;
    remove_logs(&config.run_dir)
}

/// Removes what is in the run directory besides the router's own files, and the directory if it was ours only.
fn remove_logs(run_dir: &Path) -> anyhow::Result<()> {
    // A router that was killed has left its socket.
    let socket = Config::socket_path(run_dir);
    for path in LOGS.iter().map(|name| run_dir.join(name)).chain([socket]) {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    // Not empty, or a mount point: then it is not only ours.
    let _ = fs::remove_dir(run_dir);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_directory_goes_unless_others_use_it() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        fs::create_dir(&run).unwrap();
        for name in ["weft.log", "weft.log.1", "weft.sock", "letter.txt"] {
            fs::write(run.join(name), "x").unwrap();
        }
        remove_logs(&run).unwrap();
        assert_eq!(fs::read_dir(&run).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>(), ["letter.txt"]);
        fs::remove_file(run.join("letter.txt")).unwrap();
        remove_logs(&run).unwrap();
        assert!(!run.exists());
        remove_logs(&run).unwrap();
    }
}
