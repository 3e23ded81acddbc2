//! What a router remembers between runs: its identity, its own names, its targets for `--resume`, and its part of the network's
//! addresses.
//!
//! One redb file `weft.redb` (0600) in the data directory (0700). A file that cannot be read is moved aside as
//! `weft.redb.unreadable-<Unix seconds>`, said aloud, and a new one is begun: the router then has a new name, and
//! nothing else depends on what was lost.
//!
//! Invariant: whatever [`Store::open`] returns has this version's tables and an identity.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    backends::FileBackend,
};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tracing::warn;
use weft::{crypto::identity::Identity, entropy::Entropy, names::Held, node::input::Target};
use zeroize::Zeroizing;

use crate::config::Config;

/// Version of the tables below. Another one is not ours to read.
const SCHEMA: &[u8] = b"weft 1";
/// Single things by their names.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const SCHEMA_KEY: &str = "schema";
const IDENTITY_KEY: &str = "identity";
/// A JSON list of targets.
const TARGETS_KEY: &str = "targets";
/// A JSON list of names.
const NAMES_KEY: &str = "names";
/// The allocator's state, in its own form.
const ALLOCATION_KEY: &str = "allocation";
/// Owners whose addresses were put on something plugged into the bridge: they are given back when that is gone.
const PLUGGED: TableDefinition<'_, &str, ()> = TableDefinition::new("plugged");

/// Why there is no store.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The directory cannot be made or entered.
    #[error("cannot use the data directory {}: {source}; choose another with --data-dir, or run as root", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("{} is in use by another router: stop that one, or choose another --data-dir", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be opened, though nothing is wrong with what is in it as far as known.
    #[error("cannot open {}: {reason}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The unreadable file cannot be moved out of the way.
    #[error("{} cannot be read ({reason}), nor moved aside: {source}", path.display())]
    MoveAside {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        reason: String,
        /// What the system said to moving it.
        source: io::Error,
    },
    /// Writing failed.
    #[error("cannot write to {}: {reason}; is the disk full?", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
}

/// The open store.
#[derive(Debug)]
pub struct Store {
    /// None after it could not be written.
    database: Mutex<Option<Database>>,
    path: PathBuf,
    identity: Identity,
}

impl Store {
    /// Opens the store in `data_dir`, or begins one with a new identity from `entropy`.
    pub fn open(data_dir: &Path, entropy: &Entropy) -> Result<Self, StoreError> {
        make_private(data_dir)?;
        let path = Config::store_path(data_dir);
        match Self::read(&path, entropy) {
            Ok(store) => Ok(store),
            Err(Trouble::Fatal(error)) => Err(error),
            Err(Trouble::Unreadable(reason)) => {
                move_aside(&path, &reason)?;
                Self::read(&path, entropy).map_err(|trouble| match trouble {
                    Trouble::Fatal(error) => error,
                    Trouble::Unreadable(reason) => StoreError::Open { path, reason },
                })
            }
        }
    }

    /// Who this router is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The targets of the last run; an unreadable list is none, and said.
    pub fn targets(&self) -> Vec<Target> {
        self.list(TARGETS_KEY)
    }

    /// Remembers `targets` instead of all earlier ones. Waits for the disk.
    pub fn keep_targets(&self, targets: &[Target]) -> Result<(), StoreError> {
        self.keep_list(TARGETS_KEY, targets)
    }

    /// The router's own names of the last run; an unreadable list is none, and said.
    pub fn names(&self) -> Vec<Held> {
        self.list(NAMES_KEY)
    }

    /// Remembers `names` instead of all earlier ones. Waits for the disk.
    pub fn keep_names(&self, names: &[Held]) -> Result<(), StoreError> {
        self.keep_list(NAMES_KEY, names)
    }

    fn list<T: DeserializeOwned>(&self, key: &str) -> Vec<T> {
        let read = self.with(|database| get(database, key)).map_err(|error| error.to_string());
        let parsed = read.and_then(|bytes| match bytes {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
            None => Ok(Vec::new()),
        });
        parsed.unwrap_or_else(|reason| {
            warn!(path = %self.path.display(), key, reason, "what was remembered of the last run cannot be read");
            Vec::new()
        })
    }

    fn keep_list<A: Serialize>(&self, key: &str, list: &[A]) -> Result<(), StoreError> {
        let written = serde_json::to_vec(list)
            .map_err(|error| error.to_string())
            .and_then(|json| self.with(|database| put(database, &[(key, &json)])).map_err(|error| error.to_string()));
        written.map_err(|reason| StoreError::Write { path: self.path.clone(), reason })
    }

    /// The allocator's state as it was kept last; one that cannot be read is none, and said.
    pub fn allocation(&self) -> Option<Vec<u8>> {
        match self.with(|database| get(database, ALLOCATION_KEY)) {
            Ok(bytes) => bytes.map(|bytes| bytes.to_vec()),
            Err(error) => {
                warn!(path = %self.path.display(), %error, "the remembered addresses cannot be read");
                None
            }
        }
    }

    /// Remembers the allocator's state instead of the earlier one, and [`Self::note_plugged`] before it. Waits for the disk.
    pub fn keep_allocation(&self, bytes: &[u8]) -> Result<(), StoreError> {
        self.with(|database| put(database, &[(ALLOCATION_KEY, bytes)])).map_err(|error| self.unwritten(&error))
    }

    /// Owners that were noted.
    pub fn plugged(&self) -> BTreeSet<String> {
        let read = |database: &Database| -> Result<BTreeSet<String>, redb::Error> {
            let table = match database.begin_read()?.open_table(PLUGGED) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(BTreeSet::new()),
                opened => opened?,
            };
            table.iter()?.map(|entry| Ok(entry?.0.value().to_owned())).collect()
        };
        self.with(read).unwrap_or_else(|error| {
            warn!(path = %self.path.display(), %error, "it cannot be read whose addresses were on containers");
            BTreeSet::new()
        })
    }

    /// Notes that an owner's addresses are for something plugged in. It is on the disk with the next thing that is kept.
    pub fn note_plugged(&self, owner: &str) -> Result<(), StoreError> {
        self.change_plugged(|table| table.insert(owner, ()).map(drop))
    }

    /// Takes such notes back.
    pub fn forget_plugged<'o>(&self, owners: impl IntoIterator<Item = &'o str>) -> Result<(), StoreError> {
        self.change_plugged(|table| owners.into_iter().try_for_each(|owner| table.remove(owner).map(drop)))
    }

    fn change_plugged(
        &self,
        change: impl FnOnce(&mut redb::Table<'_, &str, ()>) -> Result<(), StorageError>,
    ) -> Result<(), StoreError> {
        let write = |database: &Database| -> Result<(), redb::Error> {
            let mut transaction = database.begin_write()?;
            // Nothing depends on it before the addresses themselves are kept, which makes it durable as well.
            transaction.set_durability(Durability::None)?;
            change(&mut transaction.open_table(PLUGGED)?)?;
            transaction.commit()?;
            Ok(())
        };
        self.with(write).map_err(|error| self.unwritten(&error))
    }

    /// Does something with the database. One that could not be written is opened anew the next time: redb does nothing more
    /// with it, as it does not know what is on the disk.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, redb::Error> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let open = match &mut *database {
            Some(open) => open,
            closed @ None => {
                let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
                closed.insert(Builder::new().create_with_backend(FileBackend::new(file)?)?)
            }
        };
        let result = work(open);
        if let Err(redb::Error::Io(_) | redb::Error::PreviousIo) = &result {
            *database = None;
        }
        result
    }

    fn unwritten(&self, error: &redb::Error) -> StoreError {
        StoreError::Write { path: self.path.clone(), reason: error.to_string() }
    }

    fn read(path: &Path, entropy: &Entropy) -> Result<Self, Trouble> {
        let (file, is_new) = open_private(path)?;
        // redb checks what it reads, but a parser of files is not trusted with the daemon's life.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let backend = FileBackend::new(file).map_err(|error| classify(path, error))?;
            let database = Builder::new().create_with_backend(backend).map_err(|error| classify(path, error))?;
            let identity = read_or_begin(&database, is_new, path, entropy)?;
            Ok((database, identity))
        }));
        let (database, identity) = opened.unwrap_or_else(|_| unreadable("its structure is damaged"))?;
        Ok(Self { database: Mutex::new(Some(database)), path: path.to_owned(), identity })
    }
}

/// Why a file did not become a store.
enum Trouble {
    /// Its content is at fault: move it aside.
    Unreadable(String),
    /// Something else is: leave it alone.
    Fatal(StoreError),
}

fn unreadable<T>(reason: impl ToString) -> Result<T, Trouble> {
    Err(Trouble::Unreadable(reason.to_string()))
}

/// Makes `directory` with mode 0700 where it is missing.
fn make_private(directory: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::Directory { path: directory.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    // A directory that somebody made by hand keeps its owner's choice, but not access for everybody.
    let mode = fs::metadata(directory).map_err(failed)?.permissions().mode();
    if mode & 0o007 != 0 {
        fs::set_permissions(directory, fs::Permissions::from_mode(mode & 0o7770)).map_err(failed)?;
    }
    Ok(())
}

/// Opens or makes `path` with mode 0600, and says whether there is nothing in it.
fn open_private(path: &Path) -> Result<(File, bool), Trouble> {
    let failed = |error: io::Error| {
        let reason = error.to_string();
        Trouble::Fatal(StoreError::Open { path: path.to_owned(), reason })
    };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(path).map_err(failed)?;
    file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let is_new = file.metadata().map_err(failed)?.len() == 0;
    Ok((file, is_new))
}

fn classify(path: &Path, error: DatabaseError) -> Trouble {
    if let DatabaseError::DatabaseAlreadyOpen = error {
        return Trouble::Fatal(StoreError::InUse { path: path.to_owned() });
    }
    if let DatabaseError::Storage(StorageError::Io(error)) = &error
        && !is_about_content(error)
    {
        let reason = error.to_string();
        return Trouble::Fatal(StoreError::Open { path: path.to_owned(), reason });
    }
    Trouble::Unreadable(error.to_string())
}

fn is_about_content(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput)
}

/// The identity in `database`; a new database gets its tables and a new one.
fn read_or_begin(database: &Database, is_new: bool, path: &Path, entropy: &Entropy) -> Result<Identity, Trouble> {
    if is_new {
        let identity = Identity::generate(entropy);
        put(database, &[(SCHEMA_KEY, SCHEMA), (IDENTITY_KEY, &identity.secret()[..])])
            .map_err(|error| Trouble::Fatal(StoreError::Write { path: path.to_owned(), reason: error.to_string() }))?;
        return Ok(identity);
    }
    let schema = get(database, SCHEMA_KEY).or_else(unreadable)?;
    if schema.as_ref().is_none_or(|schema| schema[..] != *SCHEMA) {
        return unreadable("it was written by another version of Weft");
    }
    let secret = get(database, IDENTITY_KEY).or_else(unreadable)?;
    let Some(secret) = secret.and_then(|bytes| <[u8; 32]>::try_from(&bytes[..]).ok()) else {
        return unreadable("it holds no identity");
    };
    Ok(Identity::from_secret(Zeroizing::new(secret)))
}

fn get(database: &Database, key: &str) -> Result<Option<Zeroizing<Vec<u8>>>, redb::Error> {
    let table = database.begin_read()?.open_table(META)?;
    Ok(table.get(key)?.map(|value| Zeroizing::new(value.value().to_vec())))
}

fn put(database: &Database, entries: &[(&str, &[u8])]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(META)?;
        for (key, value) in entries {
            table.insert(*key, *value)?;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn move_aside(path: &Path, reason: &str) -> Result<(), StoreError> {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    // A second one within a second must not overwrite the first.
    let aside = (now..).map(|second| path.with_extension(format!("redb.unreadable-{second}"))).find(|p| !p.exists());
    let aside = aside.unwrap_or_else(|| path.with_extension("redb.unreadable"));
    fs::rename(path, &aside).map_err(|source| StoreError::MoveAside {
        path: path.to_owned(),
        reason: reason.to_owned(),
        source,
    })?;
    warn!(path = %path.display(), moved_to = %aside.display(), reason,
        "the store cannot be read; it was moved aside and a new one begun: this router has a new name");
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
