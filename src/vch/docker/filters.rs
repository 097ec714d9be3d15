//! `--filter`: a JSON object of names and wanted values.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::query::Query;
use crate::engine::error::EngineError;

/// What a list is to be narrowed down to. The values of one filter are alternatives.
#[derive(Clone, Debug, Default)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Reads the query's filters, of which only the `known` ones may be used.
    pub fn read(query: &Query, known: &[&str]) -> Result<Self, EngineError> {
        let Some(text) = query.get("filters") else { return Ok(Self::default()) };
        let bad = || EngineError::invalid(format!("invalid filters: {text}"));
        let Value::Object(object) = serde_json::from_str(text).map_err(|_| bad())? else { return Err(bad()) };
        let mut filters = BTreeMap::new();
        for (name, values) in object {
            if !known.contains(&name.as_str()) {
                return Err(EngineError::invalid(format!(
                    "invalid filter '{name}': there are {}",
                    known.join(", ")
                )));
            }
            // {"name": {"a": true}} or, from old clients, {"name": ["a"]}.
            let values = match values {
                Value::Object(values) => {
                    values.into_iter().filter(|(_, on)| on != &Value::Bool(false)).map(|(v, _)| v).collect()
                }
                Value::Array(values) => values.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
                _ => return Err(bad()),
            };
            filters.insert(name, values);
        }
        Ok(Self(filters))
    }

    /// Whether a filter is not there, or has a value for which `holds` holds.
    pub fn any(&self, name: &str, holds: impl Fn(&str) -> bool) -> bool {
        self.0.get(name).is_none_or(|values| values.iter().any(|value| holds(value)))
    }

    /// The values of a filter.
    pub fn values(&self, name: &str) -> &[String] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// Refuses names with more of a pattern in them than [`name_matches`] knows.
    pub fn check_names(&self, filter: &str) -> Result<(), EngineError> {
        let pattern = |name: &&String| {
            let inner = name.strip_prefix('^').unwrap_or(name);
            let inner = inner.strip_suffix('$').unwrap_or(inner);
            inner.contains(['*', '+', '?', '(', '[', '{', '|', '\\', '^', '$'])
        };
        match self.values(filter).iter().find(pattern) {
            Some(name) => Err(EngineError::invalid(format!(
                "filter {filter}={name}: of patterns only ^ and $ are known"
            ))),
            None => Ok(()),
        }
    }

    /// Whether labels have everything that `label=NAME` and `label=NAME=VALUE` ask for.
    pub fn labels(&self, labels: &HashMap<String, String>) -> bool {
        self.values("label").iter().all(|wanted| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|has| has == value),
            None => labels.contains_key(wanted),
        })
    }
}

/// Whether a name is meant by a filter: a part of it, `^` being its beginning and `$` its end. A
/// slash before it, as Docker writes containers' names, is nothing.
pub fn name_matches(pattern: &str, name: &str) -> bool {
    let (inner, begins) = pattern.strip_prefix('^').map_or((pattern, false), |inner| (inner, true));
    let (inner, ends) = inner.strip_suffix('$').map_or((inner, false), |inner| (inner, true));
    let (inner, begins) = inner.strip_prefix('/').map_or((inner, begins), |inner| (inner, true));
    match (begins, ends) {
        (true, true) => name == inner,
        (true, false) => name.starts_with(inner),
        (false, true) => name.ends_with(inner),
        (false, false) => name.contains(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_as_scripts_expect() {
        for (pattern, matches) in [
            ("^/server$", true),
            ("^server$", true),
            ("serv", true),
            ("^erver", false),
            ("er$", true),
            ("x", false),
        ] {
            assert_eq!(name_matches(pattern, "server"), matches, "{pattern}");
        }
        let query = Query::parse(r#"filters={"name":{"a.*b":true}}"#);
        assert!(Filters::read(&query, &["name"]).unwrap().check_names("name").is_err());
    }

    #[test]
    fn filters_are_alternatives_and_unknown_ones_are_told() {
        let query = Query::parse(r#"filters={"name":{"a":true,"b":true},"label":["x=1","y"]}"#);
        let filters = Filters::read(&query, &["name", "label"]).unwrap();
        assert!(filters.any("name", |name| name == "b") && !filters.any("name", |name| name == "c"));
        assert!(filters.any("id", |_| false), "one that is not there lets everything through");
        let labels =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert!(filters.labels(&labels(&[("x", "1"), ("y", "")])));
        assert!(!filters.labels(&labels(&[("x", "2"), ("y", "")])));
        assert!(Filters::read(&query, &["name"]).unwrap_err().message.contains("'label'"));
        for bad in ["filters=x", "filters=[]", r#"filters={"name":1}"#] {
            assert!(Filters::read(&Query::parse(bad), &["name"]).is_err(), "{bad}");
        }
    }
}
