//! The house rules that a compiler does not check: files are short, say what they own, and hide nothing.

use std::{
    fs,
    path::{Path, PathBuf},
};

const LINES_MAX: usize = 800;
/// What must not stand in code; in two parts, so that it does not stand here.
const FORBIDDEN: [(&str, &str); 5] =
    [("to", "do!("), ("unimpl", "emented!("), ("#[ign", "ore"), ("#[al", "low("), ("#![al", "low(")];

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = Vec::new();
    let mut dirs: Vec<_> = ["src", "router", "plugin", "cmd", "integration"].map(|dir| root.join(dir)).to_vec();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push((path.strip_prefix(root).unwrap().to_owned(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(found.len() > 50, "found {}", found.len());
    found
}

fn assert_none(is_wrong: impl Fn(&Path, &str) -> bool) {
    let all = sources().into_iter();
    let offenders: Vec<_> = all.filter(|(path, text)| is_wrong(path, text)).map(|(path, _)| path).collect();
    assert!(offenders.is_empty(), "{offenders:?}");
}

#[test]
fn files_are_short() {
    assert_none(|_, text| text.lines().count() > LINES_MAX);
}

#[test]
fn every_module_says_what_it_owns() {
    // A file of tests beside its module is introduced by it.
    let is_tests = |path: &Path| path.file_name().is_some_and(|name| name == "tests.rs");
    assert_none(|path, text| !text.starts_with("//! ") && !is_tests(path));
}

#[test]
fn nothing_is_left_undone_or_switched_off() {
    let has = |text: &str| FORBIDDEN.iter().any(|(one, two)| text.contains(&format!("{one}{two}")));
    assert_none(|_, text| has(text));
}

#[test]
fn modules_are_not_named_mod_or_helpers() {
    let names = ["mod.rs", "util.rs", "utils.rs", "helpers.rs", "common.rs", "types.rs", "manager.rs"];
    let is_named_so = |path: &Path| path.file_name().is_some_and(|name| names.iter().any(|bad| name == *bad));
    assert_none(|path, _| is_named_so(path));
}
