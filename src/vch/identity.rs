//! What guests know this host by: one key, made at the first start and kept.
//!
//! A host that came back with another key would be a stranger to every machine that runs: a file
//! that cannot be read is an error, and is never replaced.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use tether_host::{Identity, IdentityError, Secret};

/// The file in the state directory, with the key and its certificate.
pub const FILE: &str = "host.pem";

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What is in it is no identity, or none can be made.
    #[error("{path}: {source}; without it machines that run do not know this host any more")]
    Identity {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: IdentityError,
    },
}

/// The identity in the directory `state`; a new one where there is none yet.
pub fn keep(state: &Path) -> Result<Identity, KeepError> {
    let path = state.join(FILE);
    let file = |source| KeepError::File { path: path.clone(), source };
    let identity = |source| KeepError::Identity { path: path.clone(), source };
    match fs::read_to_string(&path) {
        Ok(text) => return Identity::from_pem(Secret::from(text).reveal()).map_err(identity),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(file(error)),
    }
    let new = Identity::generate().map_err(identity)?;
    // Beside it, of mode 0600, and there as a whole or not at all.
    let mut beside = tempfile::NamedTempFile::new_in(state).map_err(file)?;
    beside.write_all(new.to_pem().reveal().as_bytes()).map_err(file)?;
    beside.as_file().sync_all().map_err(file)?;
    beside.persist_noclobber(&path).map_err(|error| file(error.error))?;
    File::open(state).and_then(|directory| directory.sync_all()).map_err(file)?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_never_replaced() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join(FILE);
        let first = keep(state.path()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(keep(state.path()).unwrap().pin(), first.pin());
        fs::write(&path, "half a key").unwrap();
        assert!(matches!(keep(state.path()), Err(KeepError::Identity { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "half a key");
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1, "nothing else is left");
        assert!(matches!(keep(Path::new("/nonexistent")), Err(KeepError::File { .. })));
    }
}
