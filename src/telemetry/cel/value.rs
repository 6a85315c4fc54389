//! Values of expressions.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Value as Json;

use super::Constant;
use super::attributes::Map;

/// A value; most borrow from the stream or the expression.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    /// Mostly UTF-8; a header may be anything.
    String(Cow<'a, [u8]>),
    Bytes(Cow<'a, [u8]>),
    /// Nanoseconds since 1970.
    Timestamp(i128),
    /// Nanoseconds.
    Duration(i128),
    List(Vec<Value<'a>>),
    Map(Map<'a>),
    Type(&'static str),
}

/// The types that have a name of their own.
pub(super) fn type_named(name: &str) -> Option<&'static str> {
    const NAMES: [&str; 12] = [
        "bool",
        "bytes",
        "double",
        "google.protobuf.Duration",
        "google.protobuf.Timestamp",
        "int",
        "list",
        "map",
        "null_type",
        "string",
        "type",
        "uint",
    ];
    NAMES.into_iter().find(|known| *known == name)
}

impl<'a> Value<'a> {
    pub(super) fn text(text: &'a str) -> Self {
        Self::String(text.as_bytes().into())
    }

    pub(super) fn owned(text: impl ToString) -> Self {
        Self::String(text.to_string().into_bytes().into())
    }

    /// Those of metadata know no integers.
    pub(super) fn json(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(b) => Self::Bool(*b),
            Json::Number(n) => Self::Double(n.as_f64().unwrap_or(f64::NAN)),
            Json::String(s) => Self::text(s),
            Json::Array(list) => Self::List(list.iter().map(Self::json).collect()),
            Json::Object(object) => Self::Map(Map::Json(object)),
        }
    }

    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Type(_) => "type",
        }
    }

    /// Whether they are equal; numbers of any type are compared by what they are worth, other types are never equal.
    pub(super) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::List(a), Self::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.equals(b)),
            (Self::Map(a), Self::Map(b)) => maps_equal(a, b),
            (Self::Type(a), Self::Type(b)) => a == b,
            _ => self.compare(other) == Some(Ordering::Equal),
        }
    }

    /// Their order; none between values that have none.
    pub(super) fn compare(&self, other: &Self) -> Option<Ordering> {
        Some(match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::String(a), Self::String(b)) | (Self::Bytes(a), Self::Bytes(b)) => a.cmp(b),
            (Self::Timestamp(a), Self::Timestamp(b)) | (Self::Duration(a), Self::Duration(b)) => a.cmp(b),
            (Self::Double(a), Self::Double(b)) => return a.partial_cmp(b),
            (Self::Double(a), _) => return compare_double(*a, other.integer()?),
            (_, Self::Double(b)) => return compare_double(*b, self.integer()?).map(Ordering::reverse),
            _ => self.integer()?.cmp(&other.integer()?),
        })
    }

    fn integer(&self) -> Option<i128> {
        match self {
            Self::Int(n) => Some((*n).into()),
            Self::Uint(n) => Some((*n).into()),
            _ => None,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a number that rounds to the double is told apart by its own value")]
fn compare_double(double: f64, integer: i128) -> Option<Ordering> {
    match double.partial_cmp(&(integer as f64))? {
        #[expect(clippy::cast_possible_truncation, reason = "it equals an integer of 64 bits, rounded")]
        Ordering::Equal => Some((double as i128).cmp(&integer)),
        unequal => Some(unequal),
    }
}

fn maps_equal(a: &Map<'_>, b: &Map<'_>) -> bool {
    let (Some(a), Some(b)) = (a.entries(), b.entries()) else { return a.is_same(b) };
    let has = |key: &Value<'_>, value: &Value<'_>| b.iter().any(|(k, v)| k.equals(key) && v.equals(value));
    a.len() == b.len() && a.iter().all(|(key, value)| has(key, value))
}

impl<'a> From<&'a Constant> for Value<'a> {
    fn from(constant: &'a Constant) -> Self {
        match constant {
            Constant::Null => Self::Null,
            Constant::Bool(b) => Self::Bool(*b),
            Constant::Int(n) => Self::Int(*n),
            Constant::Uint(n) => Self::Uint(*n),
            Constant::Double(n) => Self::Double(*n),
            Constant::String(s) => Self::text(s),
            Constant::Bytes(b) => Self::Bytes((&**b).into()),
            Constant::Timestamp(nanos) => Self::Timestamp(*nanos),
            Constant::Duration(nanos) => Self::Duration(*nanos),
        }
    }
}
