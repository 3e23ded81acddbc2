use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::*;

fn open(directory: &Path) -> Result<Store, StoreError> {
    Store::open(directory, &Entropy::System)
}

fn set_aside(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("weft.redb.unreadable-")).collect()
}

/// A store that was used and closed, and the secret of its identity.
fn used(directory: &Path) -> Vec<u8> {
    let store = open(directory).unwrap();
    store.keep_targets(&["host-1".parse().unwrap()]).unwrap();
    store.identity().secret().to_vec()
}

#[test]
fn identity_and_targets_survive_and_are_private() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("deep/data");
    let secret = used(&directory);
    let store = open(&directory).unwrap();
    assert_eq!(store.identity().secret().to_vec(), secret);
    assert_eq!(store.targets(), ["host-1".parse().unwrap()]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(&directory.join("weft.redb"))), (0o700, 0o600));
    assert!(set_aside(&directory).is_empty());
}

#[test]
fn a_second_router_is_told_that_the_store_is_in_use() {
    let scratch = tempfile::tempdir().unwrap();
    let _first = open(scratch.path()).unwrap();
    let error = open(scratch.path()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    assert!(set_aside(scratch.path()).is_empty());
}

#[test]
fn what_cannot_be_read_is_moved_aside_and_kept() {
    type Damage = fn(Vec<u8>) -> Vec<u8>;
    let damages: [(&str, Damage); 5] = [
        ("garbage", |_| b"this is no database\n".repeat(500)),
        ("one byte", |_| vec![0]),
        ("truncated", |bytes| bytes[..bytes.len() / 3].to_vec()),
        ("header only", |bytes| bytes[..320].to_vec()),
        ("zeroed tail", |mut bytes| {
            bytes[4096..].fill(0);
            bytes
        }),
    ];
    for (name, damage) in damages {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("weft.redb");
        let secret = used(scratch.path());
        let damaged = damage(fs::read(&path).unwrap());
        fs::write(&path, &damaged).unwrap();
        let store = open(scratch.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_ne!(store.identity().secret().to_vec(), secret, "{name}");
        let aside = set_aside(scratch.path());
        assert_eq!(aside.len(), 1, "{name}");
        assert_eq!(fs::read(scratch.path().join(&aside[0])).unwrap().len(), damaged.len(), "{name}");
        drop(store);
        open(scratch.path()).unwrap_or_else(|error| panic!("{name}, again: {error}"));
        assert_eq!(set_aside(scratch.path()).len(), 1, "{name}: the new store is good");
    }
}

#[test]
fn another_versions_store_is_moved_aside() {
    let scratch = tempfile::tempdir().unwrap();
    used(scratch.path());
    let database = Database::create(scratch.path().join("weft.redb")).unwrap();
    put(&database, &[(SCHEMA_KEY, b"weft 9")]).unwrap();
    drop(database);
    open(scratch.path()).unwrap();
    assert_eq!(set_aside(scratch.path()).len(), 1);
}

#[test]
fn a_store_without_an_identity_is_moved_aside() {
    let scratch = tempfile::tempdir().unwrap();
    used(scratch.path());
    let database = Database::create(scratch.path().join("weft.redb")).unwrap();
    put(&database, &[(IDENTITY_KEY, b"short")]).unwrap();
    drop(database);
    open(scratch.path()).unwrap();
    assert_eq!(set_aside(scratch.path()).len(), 1);
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("file");
    fs::write(&file, "").unwrap();
    let error = open(&file.join("data")).unwrap_err();
    assert!(matches!(&error, StoreError::Directory { path, .. } if *path == file.join("data")), "{error}");

    // procfs refuses new files whoever asks, root included, as a read-only directory does.
    let error = open(Path::new("/proc/self/task")).unwrap_err();
    assert!(error.to_string().contains("/proc/self/task"), "{error}");
}

#[test]
fn a_list_of_targets_that_cannot_be_read_is_no_reason_to_fail() {
    let scratch = tempfile::tempdir().unwrap();
    let store = open(scratch.path()).unwrap();
    store.with(|database| put(database, &[(TARGETS_KEY, b"[\"a b\"]")])).unwrap();
    assert_eq!(store.targets(), []);
}

#[test]
fn a_full_disk_costs_what_cannot_be_written_until_there_is_room() {
    on_a_disk_of("8m", |disk| {
        let directory = disk.join("data");
        let store = open(&directory).unwrap();
        store.keep_allocation(&[1; 4000]).unwrap();
        let filler = disk.join("filler");
        let mut file = File::create(&filler).unwrap();
        while io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
        for _ in 0..2 {
            let error = store.keep_allocation(&vec![9; 6 << 20]).unwrap_err();
            assert!(error.to_string().contains("is the disk full?"), "{error}");
        }
        drop(file);
        fs::remove_file(&filler).unwrap();
        assert_eq!(store.allocation(), Some(vec![1; 4000]), "what was stored is there");
        store.keep_allocation(&[2; 4000]).unwrap();
        drop(store);
        assert_eq!(open(&directory).unwrap().allocation(), Some(vec![2; 4000]));
    });
}

#[test]
fn owners_are_noted_and_forgotten() {
    let scratch = tempfile::tempdir().unwrap();
    let store = open(scratch.path()).unwrap();
    assert!(store.plugged().is_empty() && store.allocation().is_none());
    ["c1", "c2", "c1"].into_iter().for_each(|owner| store.note_plugged(owner).unwrap());
    store.forget_plugged(["c2", "c3"]).unwrap();
    store.keep_allocation(b"state").unwrap();
    drop(store);
    let store = open(scratch.path()).unwrap();
    assert_eq!(store.plugged().into_iter().collect::<Vec<_>>(), ["c1"]);
    assert_eq!(store.allocation().as_deref(), Some(&b"state"[..]));
}

/// Does `work` with a disk of this size, in a mount namespace that vanishes with its thread. Needs root.
pub(crate) fn on_a_disk_of(size: &'static str, work: impl FnOnce(&Path) + Send + 'static) {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().to_owned();
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let options = format!("size={size}");
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        work(&path);
    });
    thread.join().unwrap();
}
