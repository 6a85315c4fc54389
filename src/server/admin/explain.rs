//! `/explain`: what becomes of a request in the configuration in force.

use serde_json::Value;

use super::{Admin, Params, Reply};
use crate::explain::{Config, Query, explain, render};

/// `/explain`
pub(super) fn answer(admin: &Admin, params: &Params) -> Reply {
    let is_json = params.value("format") == Some("json");
    let config = Config {
        bootstrap: &admin.bootstrap(),
        listeners: admin.shared.snapshot.load().listeners.iter().map(|listener| listener.config.clone()).collect(),
        clusters: &admin.shared.clusters.snapshot(),
        env: &admin.env,
    };
    match Query::parse(params.iter()).and_then(|query| explain(&config, &query)) {
        Ok(reports) if is_json => Reply { content_type: super::JSON, ..Reply::text(render(&reports, true)) },
        Ok(reports) => Reply::text(render(&reports, false)),
        Err(error) => Reply::bad_request(format!("{error}\n")),
    }
}

/// The parameters of a body: a JSON object by the same names, in which `header` may be a list or an object.
pub(super) fn parameters(body: &[u8]) -> Result<Vec<(String, String)>, String> {
    let value: Value = serde_json::from_slice(body).map_err(|error| format!("the body is no JSON: {error}\n"))?;
    let Value::Object(fields) = value else { return Err("the body is no JSON object\n".to_owned()) };
    let mut parameters = Vec::new();
    for (key, value) in fields {
        match value {
            Value::Array(items) => parameters.extend(items.iter().map(|item| (key.clone(), text(item)))),
            Value::Object(pairs) => {
                parameters.extend(pairs.iter().map(|(name, value)| (key.clone(), format!("{name}: {}", text(value)))));
            }
            value => parameters.push((key, text(&value))),
        }
    }
    Ok(parameters)
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_may_be_a_list_or_an_object() {
        let headers = |body: &str| parameters(body.as_bytes()).unwrap();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(headers(r#"{"header": ["a: b", "a: c"]}"#), [pair("header", "a: b"), pair("header", "a: c")]);
        assert_eq!(
            headers(r#"{"header": {"a": "b"}, "random_value": 7}"#),
            [pair("header", "a: b"), pair("random_value", "7")]
        );
        assert!(parameters(b"[]").is_err());
        assert!(parameters(b"{").is_err());
    }
}
