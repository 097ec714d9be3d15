//! The part of an address after the question mark.

use std::time::Duration;

use crate::engine::error::EngineError;

/// A query's parameters.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query.
    pub fn parse(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// The first value of a parameter; one without content is none.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, value)| key == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }

    /// Every value of a parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a parameter says yes, as Docker reads it: anything but these words.
    pub fn is(&self, name: &str) -> bool {
        let value = self.get(name).unwrap_or_default().trim().to_ascii_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// A number.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, EngineError> {
        let parse = |text: &str| {
            text.parse().map_err(|_| EngineError::invalid(format!("invalid value {text:?} for {name:?}")))
        };
        self.get(name).map(parse).transpose()
    }

    /// A number of seconds to wait; -1 is for ever.
    pub fn seconds(&self, name: &str) -> Result<Option<Duration>, EngineError> {
        let forever = Duration::from_hours(365 * 24);
        Ok(self.number::<i64>(name)?.map(|n| u64::try_from(n).map_or(forever, Duration::from_secs)))
    }

    /// Refuses a parameter that says yes to something that is not built.
    pub fn refuse(&self, name: &str, what: &str) -> Result<(), EngineError> {
        if self.is(name) { Err(EngineError::unsupported(format!("{what} is not supported"))) } else { Ok(()) }
    }
}

/// Undoes the percent signs of a path's part. What is no text afterwards stays as it was.
pub fn decode(part: &str) -> String {
    // A plus is a plus in a path.
    let escaped = part.replace('+', "%2B").replace('&', "%26");
    form_urlencoded::parse(format!("={escaped}").as_bytes())
        .next()
        .map_or_else(|| part.to_owned(), |(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_docker_reads_them() {
        let query = Query::parse("a=1&b=false&c=&d=x%20y&d=z&t=-1&n=x");
        assert!(query.is("a") && !query.is("b") && !query.is("c") && !query.is("missing"));
        assert_eq!(query.all("d").collect::<Vec<_>>(), ["x y", "z"]);
        assert!(query.seconds("t").unwrap().is_some_and(|time| time > Duration::from_secs(1_000_000)));
        assert!(query.number::<u16>("n").is_err());
        assert_eq!(decode("my%2Fapp+x"), "my/app+x");
        assert_eq!(decode("a%26b%3Dc"), "a&b=c");
    }
}
