//! Finding and reading the boot document.
//!
//! Sources, in this order: the file named by `--boot`, the file in the image, QEMU's `fw_cfg`.
//! The first that exists is the one: a broken document is an error, never a reason to look
//! further. The kernel's command line carries hints only, nothing secret, since everybody in
//! the guest can read it.

use std::{
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use tether_wire::{
    boot::{Boot, BootDocument},
    problem::Problem,
};
use zeroize::Zeroizing;

/// The document in the image.
pub const IN_IMAGE: &str = "/etc/tether/boot.json";
/// The document under QEMU's `-fw_cfg name=opt/tether/boot.json,file=…`.
pub const IN_FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/tether/boot.json/raw";
/// The most a JSON document may have, in bytes.
const LIMIT: u64 = 4 << 20;

/// Why there is no usable document. One line for each problem, each naming the source.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// There is none anywhere.
    #[error(
        "no boot document: give one with --boot FILE, as {IN_IMAGE} in the image, or with QEMU's \
         -fw_cfg name=opt/tether/boot.json,file=FILE"
    )]
    Missing,
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is too long to be one.
    #[error("{0}: longer than 4 MiB, which no such document is")]
    TooLong(PathBuf),
    /// It is not JSON, or not of the document's shape.
    #[error("{path}: {field}: {source}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The field that is wrong, `.` for the whole document.
        field: String,
        /// Why.
        source: serde_json::Error,
    },
    /// Its values are wrong.
    #[error("{}", .problems.iter().map(|p| format!("{}: {p}", .path.display())).collect::<Vec<_>>().join("\n"))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong.
        problems: Vec<Problem>,
    },
}

/// Finds and reads the boot document; `given` is the file named on the command line.
pub fn load(given: Option<&Path>) -> Result<Boot, DocumentError> {
    let path = given.or_else(|| [IN_IMAGE, IN_FW_CFG].into_iter().map(Path::new).find(|path| path.exists()));
    let path = path.ok_or(DocumentError::Missing)?;
    let document: BootDocument = read_json(path)?;
    document.check().map_err(|problems| DocumentError::Wrong { path: path.to_owned(), problems })
}

/// Reads a JSON document of the project.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, DocumentError> {
    let unreadable = |source| DocumentError::Unreadable { path: path.to_owned(), source };
    // The boot document has a secret. There is room for all of it, so no half of it stays behind.
    let mut text = Zeroizing::new(Vec::with_capacity(64 << 10));
    // Files of sysfs have no length that can be asked for, so the limit is on what is read.
    fs::File::open(path).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut text)).map_err(unreadable)?;
    if text.len() as u64 > LIMIT {
        return Err(DocumentError::TooLong(path.to_owned()));
    }
    let malformed = |field: String, source| DocumentError::Malformed { path: path.to_owned(), field, source };
    // A kernel shows an entry of fw_cfg at the length that it had when the machine started: the document
    // of a copy, put there in its place, is as long only with zero bytes after it.
    let end = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let mut json = serde_json::Deserializer::from_slice(&text[..end]);
    let document = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        // A text that breaks off has no path.
        let field = Some(error.path().to_string()).filter(|path| path != "?");
        malformed(field.unwrap_or_else(|| ".".to_owned()), error.into_inner())
    })?;
    json.end().map_err(|error| malformed(".".to_owned(), error))?;
    Ok(document)
}

/// The hint `tether.NAME=` on the kernel's command line.
pub fn hint(name: &str) -> Option<String> {
    let line = fs::read_to_string("/proc/cmdline").ok()?;
    find_hint(&line, name).map(ToOwned::to_owned)
}

fn find_hint<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("tether.")?.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        load(Some(file.path())).unwrap_err().to_string().replace(&file.path().display().to_string(), "FILE")
    }

    #[test]
    fn errors_name_source_field_and_fix() {
        assert_eq!(error("{"), "FILE: .: EOF while parsing an object at line 1 column 1");
        assert!(error(r#"{"guest": "a"} x"#).starts_with("FILE: .: trailing characters"));
        assert!(error("{}").starts_with("FILE: .: missing field `guest`"), "{}", error("{}"));
        let wrong = error(r#"{"guest": "a", "management": {"mac": 5}, "host": {"address": "fe80::1"}}"#);
        assert!(wrong.starts_with("FILE: management.mac: invalid type"), "{wrong}");
        let wrong = error(r#"{"guest": "", "management": {"mac": "x"}, "host": {"address": "fe80::1"}}"#);
        let lines: Vec<_> = wrong.lines().collect();
        assert!(lines[0].starts_with("FILE: guest: \"\" is not a guest id: write"), "{wrong}");
        assert!(lines[1].starts_with("FILE: management.mac: \"x\" is not a MAC address: write"), "{wrong}");
    }

    #[test]
    fn zero_bytes_may_follow() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &[u8]| {
            fs::write(file.path(), text).unwrap();
            read_json::<Vec<u8>>(file.path())
        };
        assert_eq!(read(b"[1]\n\0\0\0").unwrap(), [1]);
        assert!(read(b"[1\0]").is_err());
        assert!(read(b"\0\0").is_err());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load(Some(Path::new("/nonexistent/boot.json"))).unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent/boot.json: No such file"), "{error}");
    }

    #[test]
    fn hints_are_whole_words() {
        let line = "quiet tether.log=debug xtether.log=no console=ttyS0\n";
        assert_eq!(find_hint(line, "log"), Some("debug"));
        assert_eq!(find_hint(line, "lo"), None);
    }
}
