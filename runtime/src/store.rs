//! What is kept on disk between processes: blobs, each under a key of everything that it depends on.
//!
//! In: a kind, a key, bytes. Out: the same bytes or nothing. What always holds: a blob that comes back was written whole, by this version,
//! under this very key; one that is damaged or foreign counts as absent. Files appear by renaming, so that processes do not
//! see each other's halves. Not being able to write costs time, never an error.
//!
//! Blobs are code: what the device runs. Sums tell damage, not malice, so a folder is used only if nobody but its owner can
//! write there and that is this user or the system's; one that is made here is for this user alone.

use std::path::{Path, PathBuf};

/// Bytes that the folder may hold; the blobs that were not used for longest go first.
const LIMIT: u64 = 1 << 30;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    limit: u64,
}

impl Store {
    pub fn new(folder: &Path) -> Store {
        Store { folder: folder.to_owned(), limit: LIMIT }
    }

    /// The same, of so many bytes.
    #[cfg(test)]
    pub fn limited_to(self, limit: u64) -> Store {
        Store { limit, ..self }
    }

    #[cfg(feature = "compiler")]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the environment variable `WGFUSE_CACHE` wants nothing kept, in memory or on disk.
    pub fn is_off() -> bool {
        std::env::var_os("WGFUSE_CACHE").is_some_and(|it| it == "off")
    }

    /// The folder that the environment variable `WGFUSE_CACHE` names, `off` for none; else `wgfuse` in the user's cache folder.
    pub fn from_environment() -> Option<Store> {
        if Store::is_off() {
            return None;
        }
        match std::env::var_os("WGFUSE_CACHE") {
            Some(folder) if !folder.is_empty() => Some(Store::new(Path::new(&folder))),
            _ => user_cache().map(|it| Store::new(&it.join("wgfuse"))),
        }
    }
}

#[cfg(target_arch = "wasm32")]
fn user_cache() -> Option<PathBuf> {
    None
}

#[cfg(not(target_arch = "wasm32"))]
fn user_cache() -> Option<PathBuf> {
    dirs::cache_dir()
}

#[cfg(not(target_arch = "wasm32"))]
mod disk {
    use std::{
        fs,
        io::{self, Read, Write},
        sync::Once,
        time::SystemTime,
    };

    use xxhash_rust::xxh3::{Xxh3, xxh3_128};

    use super::*;
    use crate::tally::Bypass;

    /// What the names of our files end with: the folder may hold others, which are none of our business.
    const ENDING: &str = ".wgfuse";

    /// Changes with what a blob of the same key means.
    const MAGIC: &[u8] = concat!("wgfuse ", env!("CARGO_PKG_VERSION"), " 2\n").as_bytes();

    impl Store {
        /// What was put under this key.
        pub fn get(&self, kind: &str, key: &[u8]) -> Option<Vec<u8>> {
            if !self.is_trusted() {
                return None;
            }
            let path = self.path(kind, key);
            let mut bytes = Vec::new();
            // A folder that was filled beforehand may be for reading alone.
            let writable = fs::File::options().read(true).append(true).open(&path);
            let file = writable.or_else(|_| fs::File::open(&path)).ok()?;
            (&file).take(self.limit).read_to_end(&mut bytes).ok()?;
            match payload(&bytes, key) {
                Some(start) => {
                    // When it was last used; the oldest goes first.
                    let _ = file.set_modified(SystemTime::now());
                    bytes.drain(..start);
                    Some(bytes)
                }
                None => {
                    tracing::warn!("{} is damaged or not ours and is left out", path.display());
                    // Some systems remove no open file.
                    drop(file);
                    let _ = fs::remove_file(&path);
                    None
                }
            }
        }

        /// Keeps `blob`, or says why not, which costs time but nothing else.
        pub fn put(&self, kind: &str, key: &[u8], blob: &[u8]) -> Option<Bypass> {
            if blob.len() as u64 > self.limit / 2 {
                return Some(Bypass::TooLarge);
            }
            let written = self.write(&self.path(kind, key), key, blob).and_then(|()| self.shrink());
            let error = written.err()?;
            tracing::debug!("nothing is kept in {}: {error}", self.folder.display());
            Some(Bypass::Unwritable)
        }

        /// Whether what lies in the folder is as this user or the system has written it. Where there is none, nothing does.
        pub fn is_trusted(&self) -> bool {
            let trusted = fs::metadata(&self.folder).map_or(true, |it| is_own(&it));
            if !trusted {
                static WARNED: Once = Once::new();
                let folder = self.folder.display();
                WARNED.call_once(|| tracing::warn!("{folder} is not used: others may write there"));
            }
            trusted
        }

        fn path(&self, kind: &str, key: &[u8]) -> PathBuf {
            self.folder.join(format!("{kind}-{:032x}{ENDING}", xxh3_128(key)))
        }

        fn write(&self, path: &Path, key: &[u8], blob: &[u8]) -> io::Result<()> {
            create(&self.folder)?;
            if !self.is_trusted() {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, "others may write there"));
            }
            let mut file = tempfile::Builder::new().suffix(ENDING).tempfile_in(&self.folder)?;
            for part in [MAGIC, &sum(key, blob), &(key.len() as u64).to_le_bytes(), key, blob] {
                file.write_all(part)?;
            }
            file.persist(path)?;
            Ok(())
        }

        fn shrink(&self) -> io::Result<()> {
            let mut all = Vec::new();
            for entry in fs::read_dir(&self.folder)? {
                let entry = entry?;
                if !entry.file_name().to_string_lossy().ends_with(ENDING) {
                    continue;
                }
                // Another process may have removed it meanwhile.
                if let Ok(it) = entry.metadata()
                    && it.is_file()
                {
                    all.push((it.modified().unwrap_or(SystemTime::UNIX_EPOCH), it.len(), entry.path()));
                }
            }
            all.sort();
            let mut total: u64 = all.iter().map(|it| it.1).sum();
            for (_, len, path) in all {
                if total <= self.limit {
                    break;
                }
                let _ = fs::remove_file(path);
                total -= len;
            }
            Ok(())
        }
    }

    #[cfg(unix)]
    fn is_own(folder: &fs::Metadata) -> bool {
        use std::os::unix::fs::MetadataExt;
        let owner = folder.uid();
        (owner == 0 || owner == rustix::process::geteuid().as_raw()) && folder.mode() & 0o022 == 0
    }

    /// Elsewhere a user's folders are that user's own unless the user says otherwise.
    #[cfg(not(unix))]
    fn is_own(_folder: &fs::Metadata) -> bool {
        true
    }

    fn create(folder: &Path) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(folder)
    }

    fn sum(key: &[u8], blob: &[u8]) -> [u8; 16] {
        let mut hash = Xxh3::new();
        hash.update(key);
        hash.update(blob);
        hash.digest128().to_le_bytes()
    }

    /// Where the payload starts, if the file is whole and of this key.
    fn payload(bytes: &[u8], key: &[u8]) -> Option<usize> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (stored, rest) = rest.split_at_checked(16)?;
        let (len, rest) = rest.split_at_checked(8)?;
        let blob = (len == (key.len() as u64).to_le_bytes()).then(|| rest.strip_prefix(key)).flatten()?;
        (stored == sum(key, blob)).then_some(bytes.len() - blob.len())
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn store(limit: u64) -> (tempfile::TempDir, Store) {
            let folder = tempfile::tempdir().expect("a folder");
            let store = Store { limit, ..Store::new(&folder.path().join("cache")) };
            (folder, store)
        }

        #[test]
        fn blobs_come_back_under_their_key_alone() {
            let (_folder, store) = store(LIMIT);
            assert_eq!(store.get("a", b"key"), None);
            store.put("a", b"key", b"blob");
            store.put("a", b"empty", b"");
            assert_eq!(store.get("a", b"key").as_deref(), Some(&b"blob"[..]));
            assert_eq!(store.get("a", b"empty").as_deref(), Some(&b""[..]));
            assert_eq!(store.get("b", b"key"), None);
            // A file that lies under the name of another key is foreign.
            fs::copy(store.path("a", b"key"), store.path("a", b"other")).expect("copied");
            assert_eq!(store.get("a", b"other"), None);
        }

        #[test]
        fn damage_anywhere_counts_as_absence() {
            let (_folder, store) = store(LIMIT);
            store.put("a", b"key", b"some blob");
            let path = store.path("a", b"key");
            let whole = fs::read(&path).expect("there");
            for at in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[at] ^= 0x10;
                fs::write(&path, &damaged).expect("written");
                assert_eq!(store.get("a", b"key"), None, "byte {at}");
                fs::write(&path, &whole[..at]).expect("written");
                assert_eq!(store.get("a", b"key"), None, "cut at {at}");
            }
            fs::write(&path, &whole).expect("written");
            assert_eq!(store.get("a", b"key").as_deref(), Some(&b"some blob"[..]));
        }

        #[test]
        #[cfg(unix)]
        fn a_folder_that_others_may_write_to_is_not_used() {
            use std::os::unix::fs::PermissionsExt;
            let (_folder, store) = store(LIMIT);
            store.put("a", b"key", b"blob");
            let mode = |mode| fs::set_permissions(&store.folder, fs::Permissions::from_mode(mode));
            for open in [0o777, 0o770, 0o702] {
                mode(open).expect("its owner's");
                assert_eq!(store.get("a", b"key"), None, "{open:o}");
                store.put("a", b"key", b"another");
            }
            mode(0o755).expect("its owner's");
            assert_eq!(store.get("a", b"key").as_deref(), Some(&b"blob"[..]));
        }

        #[test]
        fn the_least_recently_used_leave_first() {
            let (_folder, store) = store(4000);
            for number in 0..8u8 {
                store.put("a", &[number], &[0; 900]);
                std::thread::sleep(std::time::Duration::from_millis(20));
                assert!(store.get("a", &[0]).is_some(), "used all the time, after {number}");
            }
            let left: Vec<u8> = (0..8).filter(|it| store.get("a", &[*it]).is_some()).collect();
            assert_eq!(left, [0, 5, 6, 7]);
        }
    }
}
