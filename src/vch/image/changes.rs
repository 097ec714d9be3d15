//! Dockerfile instructions that change how an image is run, as `docker import --change` has them.

use super::record::{ImageConfig, Nothing};

/// Why an instruction is not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// It is none of those that make sense here.
    #[error(
        "'{0}' is no change: use CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR"
    )]
    Unknown(String),
    /// It has no argument, or not the right one.
    #[error("'{0}': {1}")]
    Malformed(String, &'static str),
}

/// Makes the change that `line` asks for.
pub(super) fn apply(config: &mut ImageConfig, line: &str) -> Result<(), ChangeError> {
    let line = line.trim();
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let malformed = |why| ChangeError::Malformed(line.to_owned(), why);
    let name = name.to_ascii_uppercase();
    if rest.is_empty() && !matches!(name.as_str(), "CMD" | "ENTRYPOINT") {
        return Err(if KNOWN.contains(&name.as_str()) {
            malformed("it needs an argument")
        } else {
            ChangeError::Unknown(line.to_owned())
        });
    }
    match name.as_str() {
        "CMD" => config.cmd = command(rest, config),
        "ENTRYPOINT" => config.entrypoint = command(rest, config),
        "ENV" => {
            for (name, value) in pairs(rest).map_err(malformed)? {
                config.env.retain(|old| old.split('=').next() != Some(name.as_str()));
                config.env.push(format!("{name}={value}"));
            }
        }
        "LABEL" => config.labels.extend(pairs(rest).map_err(malformed)?),
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
                let valid = number.parse::<u16>().is_ok_and(|number| number != 0)
                    && matches!(protocol, "tcp" | "udp" | "sctp");
                if !valid {
                    return Err(malformed("a port is a number, with /tcp or /udp behind it if need be"));
                }
                config.exposed_ports.insert(format!("{number}/{protocol}"), Nothing {});
            }
        }
        "VOLUME" => {
            let paths = list(rest).unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect());
            config.volumes.extend(paths.into_iter().map(|path| (path, Nothing {})));
        }
        "WORKDIR" if rest.starts_with('/') => rest.clone_into(&mut config.working_dir),
        "WORKDIR" => {
            config.working_dir = format!("{}/{rest}", config.working_dir.trim_end_matches('/'));
        }
        "USER" => rest.clone_into(&mut config.user),
        "STOPSIGNAL" => config.stop_signal = Some(rest.to_owned()),
        _ => return Err(ChangeError::Unknown(line.to_owned())),
    }
    Ok(())
}

const KNOWN: [&str; 9] =
    ["CMD", "ENTRYPOINT", "ENV", "EXPOSE", "LABEL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"];

/// A JSON list of texts.
fn list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// A command as a list, or as a text for the shell.
fn command(text: &str, config: &ImageConfig) -> Option<Vec<String>> {
    if text.is_empty() {
        return None;
    }
    Some(list(text).unwrap_or_else(|| {
        let shell = || vec!["/bin/sh".to_owned(), "-c".to_owned()];
        let mut command = config.shell.clone().unwrap_or_else(shell);
        command.push(text.to_owned());
        command
    }))
}

/// `NAME=value NAME="a value"`, or `NAME value` of old.
fn pairs(text: &str) -> Result<Vec<(String, String)>, &'static str> {
    let words = words(text)?;
    if !words.first().is_some_and(|word| word.contains('=')) {
        let (name, value) = text.split_once(char::is_whitespace).ok_or("it needs NAME=value")?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) | None => Err("it needs NAME=value"),
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        })
        .collect()
}

/// Splits at blanks that are not quoted; quotes and backslashes go.
fn words(text: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), character) if open == character => quote = None,
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                let next = characters.next().ok_or("it ends with a backslash")?;
                word.get_or_insert_default().push(next);
            }
            (None, character) if character.is_whitespace() => words.extend(word.take()),
            (_, character) => word.get_or_insert_default().push(character),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed");
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(lines: &[&str]) -> Result<ImageConfig, ChangeError> {
        let mut config = ImageConfig::default();
        lines.iter().try_for_each(|line| apply(&mut config, line)).map(|()| config)
    }

    #[test]
    fn instructions_change_the_config() {
        let config = changed(&[
            r#"CMD ["sh", "-l"]"#,
            "entrypoint exec  x",
            r#"ENV A=1 B="two words" C=\$x"#,
            "ENV A 3 4",
            "EXPOSE 80 53/udp",
            "LABEL a.b=c",
            "WORKDIR /srv",
            "WORKDIR sub",
            "USER me:us",
            "STOPSIGNAL SIGQUIT",
            "VOLUME /a /b",
        ])
        .unwrap();
        assert_eq!(config.cmd.unwrap(), ["sh", "-l"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "exec  x"]);
        assert_eq!(config.env, ["B=two words", "C=$x", "A=3 4"]);
        assert_eq!(config.exposed_ports.keys().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
        assert_eq!(config.labels["a.b"], "c");
        assert_eq!(config.working_dir, "/srv/sub");
        assert_eq!(config.user, "me:us");
        assert_eq!(config.stop_signal.unwrap(), "SIGQUIT");
        assert_eq!(config.volumes.len(), 2);
    }

    #[test]
    fn others_are_refused() {
        for line in ["", "RUN x", "FROM x", "ENV", "ENV x", "ENV =x", "ENV a=\"b", "EXPOSE http", "EXPOSE 0"]
        {
            assert!(changed(&[line]).is_err(), "{line}");
        }
    }
}
