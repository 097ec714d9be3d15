//! Names of images, by Docker's grammar.

use std::{fmt, str::FromStr};

/// A repository and a tag: `busybox` is `docker.io/library/busybox:latest`.
///
/// Made by parsing only. [`fmt::Display`] is the familiar form, `busybox:latest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// `docker.io`, `localhost:5000`.
    domain: String,
    /// `library/busybox`.
    path: String,
    /// `latest`.
    tag: String,
}

/// Why a text is no reference. The wording is Docker's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// Only hosts may have upper case.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// The name is too long.
    #[error("repository name must not be more than {LENGTH} characters")]
    Long,
    /// It could be an id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Id(String),
    /// It names content and no tag.
    #[error("'{0}' has a digest: images are known here by tag and by id only, leave '@…' out")]
    Digest(String),
}

/// Characters of a repository, its host included.
const LENGTH: usize = 255;
/// Where repositories without a host are.
const DOMAIN: &str = "docker.io";
/// What is before repositories of one name there.
const OFFICIAL: &str = "library/";

impl Reference {
    /// The repository in its familiar form: `busybox`, `localhost:5000/busybox`.
    pub fn repository(&self) -> String {
        if self.domain == DOMAIN {
            self.path.strip_prefix(OFFICIAL).unwrap_or(&self.path).to_owned()
        } else {
            format!("{}/{}", self.domain, self.path)
        }
    }

    /// The tag, `latest`.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The whole, `docker.io/library/busybox:latest`.
    pub fn normalised(&self) -> String {
        format!("{}/{}:{}", self.domain, self.path, self.tag)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository(), self.tag)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.contains('@') {
            return Err(ReferenceError::Digest(text.to_owned()));
        }
        if is_hexadecimal(text, 64) {
            return Err(ReferenceError::Id(text.to_owned()));
        }
        let (domain, rest) = split_domain(text);
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, tag),
            None => (rest, "latest"),
        };
        let path = if domain == DOMAIN && !path.contains('/') && !path.is_empty() {
            format!("{OFFICIAL}{path}")
        } else {
            path.to_owned()
        };
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase(path));
        }
        if !is_domain(domain) || !path.split('/').all(is_component) || !is_tag(tag) {
            return Err(ReferenceError::Format);
        }
        if domain.len() + 1 + path.len() > LENGTH {
            return Err(ReferenceError::Long);
        }
        Ok(Self { domain: domain.to_owned(), path, tag: tag.to_owned() })
    }
}

/// The host and the rest. What is before the first slash is a host if it can be nothing else.
fn split_domain(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some(("index.docker.io", rest)) => (DOMAIN, rest),
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DOMAIN, text),
    }
}

/// A name, an IPv4 address or an IPv6 address in brackets, and perhaps a port.
fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            let valid =
                !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':');
            if !valid {
                return false;
            }
            (None, rest.strip_prefix(':').or((!rest.is_empty()).then_some("")))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.is_none_or(|host| host.split('.').all(label))
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Lower case and digits, with `.`, `_`, `__` or any number of `-` between them.
fn is_component(text: &str) -> bool {
    let mut gap = String::new();
    let mut begun = false;
    for character in text.chars() {
        match character {
            'a'..='z' | '0'..='9' => {
                let valid = match gap.as_str() {
                    "" => true,
                    "." | "_" | "__" => begun,
                    dashes => begun && dashes.chars().all(|dash| dash == '-'),
                };
                if !valid {
                    return false;
                }
                gap.clear();
                begun = true;
            }
            '.' | '_' | '-' => gap.push(character),
            _ => return false,
        }
    }
    begun && gap.is_empty()
}

/// A word, then 127 of words, dots and dashes at most.
fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.bytes().next().is_some_and(word)
        && text.len() <= 128
        && text.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

/// Whether `text` is lower-case hexadecimal of `length` digits.
pub(super) fn is_hexadecimal(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_and_shown_as_docker_does() {
        for (text, whole, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
            ("docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("me/my_app:V1", "docker.io/me/my_app:V1", "me/my_app:V1"),
            ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("Host/a", "Host/a:latest", "Host/a:latest"),
            ("a--b__c.d_e", "docker.io/library/a--b__c.d_e:latest", "a--b__c.d_e:latest"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.normalised(), whole);
            assert_eq!(reference.to_string(), familiar);
            assert_eq!(whole.parse::<Reference>().unwrap(), reference);
        }
    }

    #[test]
    fn what_docker_refuses_is_refused() {
        for text in [
            "", ":", ":latest", "a:", "a:b:c", "-a", "a-", "a..b", "a___b", "a_.b", "a/", "/a", "a//b",
            "a b", "a:-b", "é", "a.b:x/c", "[::1/a", "[]/a", "[g]/a", "-h.x/a", "a\0", "../a", "a/..",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
        assert_eq!("a:".parse::<Reference>(), Err(ReferenceError::Format));
        assert!("a:".to_owned().parse::<Reference>().is_err());
        assert!(format!("a:{}", "b".repeat(129)).parse::<Reference>().is_err());
        assert_eq!("a".repeat(256).parse::<Reference>(), Err(ReferenceError::Long));
        assert!(matches!("ABC".parse::<Reference>(), Err(ReferenceError::Uppercase(_))));
        assert!(matches!("0".repeat(64).parse::<Reference>(), Err(ReferenceError::Id(_))));
        assert!(matches!("a@sha256:00".parse::<Reference>(), Err(ReferenceError::Digest(_))));
    }
}
