//! Removal of labs by name: at the end, after a panic, and by the next lab after the owner was killed.

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::{Context, Result};

use super::{
    engine,
    namespace::{NAMES, Namespace},
};

/// Names of labs that belong to a process begin so; the process id and a counter follow.
pub const OWNED: &str = "weft-t";

/// The directory of the lab `name`.
pub fn directory(name: &str) -> PathBuf {
    std::env::temp_dir().join(name)
}

/// Removes the labs of processes that are gone.
pub fn leftovers() -> Result<()> {
    let names = entries(NAMES.as_ref())?.into_iter().chain(entries(&std::env::temp_dir())?);
    let dead: BTreeSet<String> =
        names.filter_map(|name| owned_lab(&name)).filter(|(_, pid)| !is_alive(*pid)).map(|(lab, _)| lab).collect();
    dead.iter().for_each(|lab| remove(lab));
    Ok(())
}

/// Removes all of the lab `name`: processes, namespaces, directory. Goes on whatever happens.
pub fn remove(name: &str) {
    for namespace in namespaces(name) {
        namespace.remove();
    }
    engine::end_control_groups(&format!("{name}-"));
    // Gone already, or a last file was written meanwhile: the next sweep sees it again.
    let _ = fs::remove_dir_all(directory(name));
}

/// The namespaces of the lab `name`.
pub fn namespaces(name: &str) -> Vec<Namespace> {
    let prefix = format!("{name}-");
    let names = entries(NAMES.as_ref()).unwrap_or_default();
    names.iter().filter(|entry| entry.starts_with(&prefix)).map(|entry| Namespace::existing(entry)).collect()
}

/// Whether anything of the lab `name` is there.
pub fn exists(name: &str) -> bool {
    !namespaces(name).is_empty() || directory(name).exists()
}

/// `weft-t<pid>-<counter>` of a namespace's or directory's name, and the pid.
fn owned_lab(entry: &str) -> Option<(String, u32)> {
    let mut parts = entry.strip_prefix(OWNED)?.split('-');
    let (pid, counter): (u32, u32) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((format!("{OWNED}{pid}-{counter}"), pid))
}

fn is_alive(pid: u32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap_or(true)
}

fn entries(dir: &std::path::Path) -> Result<Vec<String>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_labs_say_whose_they_are() {
        assert_eq!(owned_lab("weft-t12-3-A-c1"), Some(("weft-t12-3".to_owned(), 12)));
        assert_eq!(owned_lab("weft-t12-3"), Some(("weft-t12-3".to_owned(), 12)));
        assert_eq!(owned_lab("weft-lab-A"), None);
        assert_eq!(owned_lab("weft-t12"), None);
        assert_eq!(owned_lab("other"), None);
    }
}
