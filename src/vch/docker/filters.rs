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

    /// Whether labels have everything that `label=NAME` and `label=NAME=VALUE` ask for.
    pub fn labels(&self, labels: &HashMap<String, String>) -> bool {
        self.values("label").iter().all(|wanted| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|has| has == value),
            None => labels.contains_key(wanted),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
