//! Certificates for `docker --tlsverify`, and the server's side of it.
//!
//! [`make`] writes what `DOCKER_CERT_PATH` and a server need, [`server_config`] makes a server of
//! it that talks to nobody without a certificate of its CA. The CA's key is forgotten as soon as
//! it has signed: nobody can sign more, and who needs more makes all of them anew.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
};
use time::{Duration, OffsetDateTime};

/// The CA's certificate, which both sides need.
pub const CA: &str = "ca.pem";
/// The server's certificate.
pub const SERVER_CERTIFICATE: &str = "server-cert.pem";
/// The server's key.
pub const SERVER_KEY: &str = "server-key.pem";
/// The client's certificate.
pub const CLIENT_CERTIFICATE: &str = "cert.pem";
/// The client's key.
pub const CLIENT_KEY: &str = "key.pem";

/// Days that all certificates are valid: what browsers allow at most. They begin a day early,
/// because clocks differ.
pub const VALIDITY_DAYS: i64 = 825;

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// Nobody could connect.
    #[error("name at least one address or host name that clients will use for this server")]
    NoNames,
    /// A name is none.
    #[error("'{0}' is neither an IP address nor a host name")]
    Name(String),
    /// Certificates are there.
    #[error("{0} has certificates: use force to replace them, or name another directory")]
    Exists(PathBuf),
    /// Something else is there.
    #[error("{directory} has '{name}' in it: name a directory of their own for certificates")]
    Occupied {
        /// The directory.
        directory: PathBuf,
        /// What is in it.
        name: String,
    },
    /// They cannot be made.
    #[error("certificates cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    /// They cannot be written.
    #[error("{path}: {source}")]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A file is not there or not PEM.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// A file has no certificate.
    #[error("{0} has no certificate in it")]
    Empty(PathBuf),
    /// Clients could not be verified.
    #[error("{path} is no CA that clients can be verified by: {source}")]
    Ca {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::server::VerifierBuilderError,
    },
    /// The certificates and the key do not go together.
    #[error("{path}: {source}")]
    Certificate {
        /// The file that is to blame.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// Makes a CA, a server's certificate for `names` (IP addresses and host names) and a client's,
/// with ECDSA keys on P-256, into `directory`.
///
/// All five files come into place at once or not at all. The directory is its owner's alone
/// (0700), keys are files of mode 0600. Certificates that are there are replaced with `force`
/// only, and a directory with anything else in it never is.
pub fn make(directory: &Path, names: &[String], force: bool) -> Result<(), MakeError> {
    let exists = occupied(directory)?;
    if exists && !force {
        return Err(MakeError::Exists(directory.to_owned()));
    }
    let files = files(names)?;
    let parent = match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(at(parent))?;
    // Mode 0700, which the file system it ends on must know.
    let new = tempfile::Builder::new().prefix(".certificates-").tempdir_in(parent).map_err(at(parent))?;
    fs::set_permissions(new.path(), Permissions::from_mode(0o700)).map_err(at(new.path()))?;
    for (name, mode, text) in files {
        let path = new.path().join(name);
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .map_err(at(&path))?;
    }
    sync(new.path())?;
    if exists {
        // The old ones are in the temporary directory then, and go with it.
        renameat2(AT_FDCWD, new.path(), AT_FDCWD, directory, RenameFlags::RENAME_EXCHANGE)
            .map_err(|error| at(directory)(error.into()))?;
    } else {
        // An empty directory is replaced; one that is no longer empty is not.
        fs::rename(new.path(), directory).map_err(at(directory))?;
        let _ = new.keep();
    }
    sync(parent)
}

/// A server with `certificate` and `key` that wants a certificate of `ca` of everybody. All are
/// PEM files. TLS 1.2 and 1.3.
pub fn server_config(ca: &Path, certificate: &Path, key: &Path) -> Result<ServerConfig, ServerError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let blame = |path: &Path| {
        let path = path.to_owned();
        move |source| ServerError::Certificate { path, source }
    };
    let mut roots = RootCertStore::empty();
    for root in certificates(ca)? {
        roots.add(root).map_err(blame(ca))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|source| ServerError::Ca { path: ca.to_owned(), source })?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|source| ServerError::Read { path: key.to_owned(), source })?;
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(blame(certificate))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(certificate)?, private)
        .map_err(blame(key))
}

/// The certificates of a PEM file, one at least.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ServerError> {
    let read = |source| ServerError::Read { path: path.to_owned(), source };
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(read)?.collect::<Result<_, _>>().map_err(read)?;
    if found.is_empty() { Err(ServerError::Empty(path.to_owned())) } else { Ok(found) }
}

/// Whether there are certificates in `directory`, and nothing else.
fn occupied(directory: &Path) -> Result<bool, MakeError> {
    let ours = BTreeSet::from([CA, SERVER_CERTIFICATE, SERVER_KEY, CLIENT_CERTIFICATE, CLIENT_KEY]);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(at(directory)(error)),
    };
    let mut found = false;
    for entry in entries {
        let name = entry.map_err(at(directory))?.file_name().to_string_lossy().into_owned();
        if !ours.contains(name.as_str()) {
            return Err(MakeError::Occupied { directory: directory.to_owned(), name });
        }
        found = true;
    }
    Ok(found)
}

/// The five files: name, mode, text.
fn files(names: &[String]) -> Result<[(&'static str, u32, String); 5], MakeError> {
    if names.is_empty() {
        return Err(MakeError::NoNames);
    }
    for name in names {
        ServerName::try_from(name.as_str()).map_err(|_| MakeError::Name(name.clone()))?;
    }
    let mut ca = parameters("vch CA", &[])?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = new_key()?;
    let certificate = ca.self_signed(&key)?;
    let issuer = Issuer::new(ca, key);
    let (server, server_key) = signed(&issuer, "vch", names, ExtendedKeyUsagePurpose::ServerAuth)?;
    let (client, client_key) = signed(&issuer, "vch client", &[], ExtendedKeyUsagePurpose::ClientAuth)?;
    Ok([
        (CA, 0o644, certificate.pem()),
        (SERVER_CERTIFICATE, 0o644, server.pem()),
        (SERVER_KEY, 0o600, server_key.serialize_pem()),
        (CLIENT_CERTIFICATE, 0o644, client.pem()),
        (CLIENT_KEY, 0o600, client_key.serialize_pem()),
    ])
}

fn new_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
}

fn parameters(common: &str, names: &[String]) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name.push(DnType::CommonName, common);
    let now = OffsetDateTime::now_utc();
    parameters.not_before = now - Duration::DAY;
    parameters.not_after = now + Duration::days(VALIDITY_DAYS);
    Ok(parameters)
}

fn signed(
    issuer: &Issuer<'_, KeyPair>,
    common: &str,
    names: &[String],
    purpose: ExtendedKeyUsagePurpose,
) -> Result<(Certificate, KeyPair), rcgen::Error> {
    let mut parameters = parameters(common, names)?;
    parameters.use_authority_key_identifier_extension = true;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![purpose];
    let key = new_key()?;
    Ok((parameters.signed_by(&key, issuer)?, key))
}

fn at(path: &Path) -> impl Fn(io::Error) -> MakeError {
    let path = path.to_owned();
    move |source| MakeError::Write { path: path.clone(), source }
}

/// Makes sure that what was made in `directory` is there after a crash.
fn sync(directory: &Path) -> Result<(), MakeError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(at(directory))
}

#[cfg(test)]
mod tests {
    use rustls::{ClientConfig, SupportedProtocolVersion, version};
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    fn made(names: &[&str]) -> (TempDir, PathBuf) {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("state/certificates");
        make(&path, &names.iter().map(ToString::to_string).collect::<Vec<_>>(), false).unwrap();
        (directory, path)
    }

    fn server(path: &Path) -> TlsAcceptor {
        let config =
            server_config(&path.join(CA), &path.join(SERVER_CERTIFICATE), &path.join(SERVER_KEY)).unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    fn client(
        trusted: &Path,
        own: Option<&Path>,
        version: &'static SupportedProtocolVersion,
    ) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(trusted.join(CA)).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => builder
                .with_client_auth_cert(
                    certificates(&own.join(CLIENT_CERTIFICATE)).unwrap(),
                    PrivateKeyDer::from_pem_file(own.join(CLIENT_KEY)).unwrap(),
                )
                .unwrap(),
        };
        TlsConnector::from(Arc::new(config))
    }

    /// Whether a byte goes to the server and back.
    async fn talks(server: TlsAcceptor, client: TlsConnector, name: &str) -> bool {
        let (near, far) = tokio::io::duplex(1 << 16);
        let serve = async {
            let mut stream = server.accept(far).await?;
            let byte = stream.read_u8().await?;
            stream.write_u8(byte).await?;
            stream.flush().await
        };
        let ask = async {
            let mut stream = client.connect(ServerName::try_from(name.to_owned()).unwrap(), near).await?;
            stream.write_u8(7).await?;
            stream.flush().await?;
            stream.read_u8().await
        };
        let (echoed, answer) = tokio::join!(serve, ask);
        echoed.is_ok() && answer.is_ok_and(|byte| byte == 7)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn only_clients_of_this_ca_are_talked_to() {
        let (_here, here) = made(&["localhost", "127.0.0.1", "fe80::1"]);
        let (_other, other) = made(&["localhost"]);
        for version in [&version::TLS12, &version::TLS13] {
            for name in ["localhost", "127.0.0.1", "fe80::1"] {
                assert!(talks(server(&here), client(&here, Some(&here), version), name).await);
            }
            assert!(!talks(server(&here), client(&here, None, version), "localhost").await);
            assert!(!talks(server(&here), client(&here, Some(&other), version), "localhost").await);
            // Nor does a client talk to another server, or to one of another name.
            assert!(!talks(server(&other), client(&here, Some(&here), version), "localhost").await);
            assert!(!talks(server(&here), client(&here, Some(&here), version), "example.org").await);
        }
    }

    #[test]
    fn nothing_is_overwritten_unasked() {
        let (_parent, path) = made(&["localhost"]);
        let mode = |name: &str| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(""), 0o700);
        assert_eq!([mode(SERVER_KEY), mode(CLIENT_KEY)], [0o600, 0o600]);
        let read = || fs::read_to_string(path.join(CA)).unwrap();
        let before = read();
        let names = ["localhost".to_owned()];
        assert!(matches!(make(&path, &names, false), Err(MakeError::Exists(_))));
        assert_eq!(read(), before);
        make(&path, &names, true).unwrap();
        assert_ne!(read(), before);
        // Nothing is left of the old ones.
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        fs::write(path.join("config.json"), "{}").unwrap();
        assert!(matches!(make(&path, &names, true), Err(MakeError::Occupied { .. })));
    }

    #[test]
    fn names_are_looked_at() {
        let path = Path::new("/nonexistent/x");
        assert!(matches!(make(path, &[], false), Err(MakeError::NoNames)));
        for name in ["", "a b", "http://x", "1.2.3.4.5.", "x\n"] {
            assert!(matches!(make(path, &[name.to_owned()], false), Err(MakeError::Name(_))), "{name}");
        }
        assert!(server_config(path, path, path).is_err());
    }
}
