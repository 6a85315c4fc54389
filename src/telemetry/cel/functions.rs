//! The functions and operators of expressions.

use regex::bytes::Regex;

use super::attributes::Map;
use super::captures::Capture;
use super::eval::{Env, NoValue};
use super::time::{self, Part};
use super::value::Value;

/// A function, by the names of the specification's trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    And,
    Or,
    Conditional,
    NotStrictlyFalse,
    Not,
    Negate,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Index,
    In,
    Size,
    Matches,
    Contains,
    StartsWith,
    EndsWith,
    Type,
    Dyn,
    Bool,
    Int,
    Uint,
    Double,
    Bytes,
    Timestamp,
    Duration,
    Time(Part),
    /// Of a pattern that is no literal.
    Capture(Capture),
}

/// A call that no stream gives a value to.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InvalidCall {
    /// No function of this name takes so many arguments.
    #[error("there is no function {name} of {arguments} arguments")]
    Unknown {
        /// Its name.
        name: String,
        /// How many it is given.
        arguments: usize,
    },
    /// A literal names a zone otherwise than by its offset.
    #[error("the time zone {0:?} is not implemented yet, only UTC and offsets are")]
    Zone(String),
    /// A literal pattern is no regular expression.
    #[error("invalid regular expression: {0}")]
    Pattern(#[from] regex::Error),
}

/// Bytes of a compiled pattern, at most; one that is no literal is made while a request waits.
const REGEX_SIZE: usize = 1 << 16;

const DAY: i128 = 86_400 * time::SECOND;

impl Function {
    pub(super) fn named(name: &str, arguments: usize) -> Result<Self, InvalidCall> {
        let unknown = || InvalidCall::Unknown { name: name.to_owned(), arguments };
        if let Some(how) = Capture::named(name, arguments) {
            return Ok(Self::Capture(how));
        }
        Ok(match (name, arguments) {
            ("_&&_", 2) => Self::And,
            ("_||_", 2) => Self::Or,
            ("_?_:_", 3) => Self::Conditional,
            ("@not_strictly_false" | "__not_strictly_false__", 1) => Self::NotStrictlyFalse,
            ("!_", 1) => Self::Not,
            ("-_", 1) => Self::Negate,
            ("_==_", 2) => Self::Equal,
            ("_!=_", 2) => Self::NotEqual,
            ("_<_", 2) => Self::Less,
            ("_<=_", 2) => Self::LessOrEqual,
            ("_>_", 2) => Self::Greater,
            ("_>=_", 2) => Self::GreaterOrEqual,
            ("_+_", 2) => Self::Add,
            ("_-_", 2) => Self::Subtract,
            ("_*_", 2) => Self::Multiply,
            ("_/_", 2) => Self::Divide,
            ("_%_", 2) => Self::Modulo,
            ("_[_]", 2) => Self::Index,
            ("@in" | "_in_" | "in", 2) => Self::In,
            ("size", 1) => Self::Size,
            ("matches", 2) => Self::Matches,
            ("contains", 2) => Self::Contains,
            ("startsWith", 2) => Self::StartsWith,
            ("endsWith", 2) => Self::EndsWith,
            ("type", 1) => Self::Type,
            ("dyn", 1) => Self::Dyn,
            ("bool", 1) => Self::Bool,
            ("int", 1) => Self::Int,
            ("uint", 1) => Self::Uint,
            ("double", 1) => Self::Double,
            ("bytes", 1) => Self::Bytes,
            ("timestamp", 1) => Self::Timestamp,
            ("duration", 1) => Self::Duration,
            (_, 1 | 2) => Self::Time(Part::named(name).ok_or_else(unknown)?),
            _ => return Err(unknown()),
        })
    }

    pub(super) fn of_one<'a>(self, a: Value<'a>, env: &Env<'a>) -> Result<Value<'a>, NoValue> {
        Ok(match (self, a) {
            (Self::Not, Value::Bool(a)) => Value::Bool(!a),
            (Self::Negate, Value::Int(a)) => Value::Int(a.checked_neg().ok_or(NoValue)?),
            (Self::Negate, Value::Double(a)) => Value::Double(-a),
            (Self::Size, a) => Value::Int(i64::try_from(size(&a, env)?).map_err(|_| NoValue)?),
            (Self::Type, a) => Value::Type(a.type_name()),
            (Self::Dyn, a) => a,
            (Self::Bool, a) => Value::Bool(to_bool(&a)?),
            (Self::Int, a) => Value::Int(to_int(&a)?),
            (Self::Uint, a) => Value::Uint(to_uint(&a)?),
            (Self::Double, a) => Value::Double(to_double(&a)?),
            (Self::Bytes, Value::String(a) | Value::Bytes(a)) => Value::Bytes(a),
            (Self::Timestamp, Value::String(a)) => Value::Timestamp(time::parse_timestamp(&a).ok_or(NoValue)?),
            (Self::Timestamp, Value::Int(a)) => Value::Timestamp(i128::from(a) * time::SECOND),
            (Self::Timestamp, a @ Value::Timestamp(_)) | (Self::Duration, a @ Value::Duration(_)) => a,
            (Self::Duration, Value::String(a)) => Value::Duration(time::parse_duration(&a).ok_or(NoValue)?),
            (Self::Time(part), Value::Timestamp(a)) => Value::Int(part.of_timestamp(a, 0)),
            (Self::Time(part), Value::Duration(a)) => Value::Int(part.of_duration(a).ok_or(NoValue)?),
            _ => return Err(NoValue),
        })
    }

    pub(super) fn of_two<'a>(self, a: Value<'a>, b: Value<'a>, env: &Env<'a>) -> Result<Value<'a>, NoValue> {
        Ok(match self {
            Self::Equal => Value::Bool(a.equals(&b)),
            Self::NotEqual => Value::Bool(!a.equals(&b)),
            Self::Less => Value::Bool(ordering(&a, &b)?.is_some_and(std::cmp::Ordering::is_lt)),
            Self::LessOrEqual => Value::Bool(ordering(&a, &b)?.is_some_and(std::cmp::Ordering::is_le)),
            Self::Greater => Value::Bool(ordering(&a, &b)?.is_some_and(std::cmp::Ordering::is_gt)),
            Self::GreaterOrEqual => Value::Bool(ordering(&a, &b)?.is_some_and(std::cmp::Ordering::is_ge)),
            Self::Add | Self::Subtract | Self::Multiply | Self::Divide | Self::Modulo => self.arithmetic(&a, &b)?,
            Self::Index => index(&a, &b, env)?,
            Self::In => Value::Bool(is_in(&a, &b, env)?),
            Self::Time(part) => match (a, b) {
                (Value::Timestamp(a), Value::String(zone)) => {
                    Value::Int(part.of_timestamp(a, time::parse_zone(&zone).ok_or(NoValue)?))
                }
                _ => return Err(NoValue),
            },
            _ => {
                let (Value::String(a), Value::String(b)) = (a, b) else { return Err(NoValue) };
                Value::Bool(self.of_texts(&a, &b)?)
            }
        })
    }

    fn of_texts(self, a: &[u8], b: &[u8]) -> Result<bool, NoValue> {
        Ok(match self {
            Self::StartsWith => a.starts_with(b),
            Self::EndsWith => a.ends_with(b),
            Self::Contains => b.is_empty() || a.windows(b.len()).any(|part| part == b),
            // A literal was compiled with the configuration.
            Self::Matches => {
                let b = std::str::from_utf8(b).map_err(|_| NoValue)?;
                pattern(b).map_err(|_| NoValue)?.is_match(a)
            }
            _ => return Err(NoValue),
        })
    }

    fn arithmetic<'a>(self, a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>, NoValue> {
        match (a, b) {
            (Value::Int(a), Value::Int(b)) => match self {
                Self::Add => a.checked_add(*b),
                Self::Subtract => a.checked_sub(*b),
                Self::Multiply => a.checked_mul(*b),
                Self::Divide => a.checked_div(*b),
                _ => a.checked_rem(*b),
            }
            .map(Value::Int)
            .ok_or(NoValue),
            (Value::Uint(a), Value::Uint(b)) => match self {
                Self::Add => a.checked_add(*b),
                Self::Subtract => a.checked_sub(*b),
                Self::Multiply => a.checked_mul(*b),
                Self::Divide => a.checked_div(*b),
                _ => a.checked_rem(*b),
            }
            .map(Value::Uint)
            .ok_or(NoValue),
            (Value::Double(a), Value::Double(b)) => match self {
                Self::Add => Ok(Value::Double(a + b)),
                Self::Subtract => Ok(Value::Double(a - b)),
                Self::Multiply => Ok(Value::Double(a * b)),
                Self::Divide => Ok(Value::Double(a / b)),
                _ => Err(NoValue),
            },
            (Value::Timestamp(a), Value::Duration(b)) if self == Self::Add => Ok(Value::Timestamp(a + b)),
            (Value::Duration(a), Value::Timestamp(b)) if self == Self::Add => Ok(Value::Timestamp(a + b)),
            (Value::Timestamp(a), Value::Duration(b)) if self == Self::Subtract => Ok(Value::Timestamp(a - b)),
            (Value::Timestamp(a), Value::Timestamp(b)) if self == Self::Subtract => Ok(Value::Duration(a - b)),
            (Value::Duration(a), Value::Duration(b)) if self == Self::Add => Ok(Value::Duration(a + b)),
            (Value::Duration(a), Value::Duration(b)) if self == Self::Subtract => Ok(Value::Duration(a - b)),
            _ => Err(NoValue),
        }
    }
}

/// Compiles a pattern.
pub(super) fn pattern(pattern: &str) -> Result<Regex, regex::Error> {
    regex::bytes::RegexBuilder::new(pattern).size_limit(REGEX_SIZE).build()
}

/// The order of two values that can have one; none between them if one of them is no number.
fn ordering(a: &Value<'_>, b: &Value<'_>) -> Result<Option<std::cmp::Ordering>, NoValue> {
    match (a, b, a.compare(b)) {
        (Value::Null | Value::List(_) | Value::Map(_) | Value::Type(_), _, _) => Err(NoValue),
        (_, _, Some(ordering)) => Ok(Some(ordering)),
        (Value::Double(_), Value::Double(_) | Value::Int(_) | Value::Uint(_), None)
        | (Value::Int(_) | Value::Uint(_), Value::Double(_), None) => Ok(None),
        _ => Err(NoValue),
    }
}

fn index<'a>(a: &Value<'a>, b: &Value<'a>, env: &Env<'a>) -> Result<Value<'a>, NoValue> {
    match a {
        Value::Map(map) => map.get(b, env).ok_or(NoValue),
        Value::List(list) => {
            let at = usize::try_from(to_int(b)?).map_err(|_| NoValue)?;
            list.get(at).cloned().ok_or(NoValue)
        }
        _ => Err(NoValue),
    }
}

fn is_in<'a>(a: &Value<'a>, b: &Value<'a>, env: &Env<'a>) -> Result<bool, NoValue> {
    match b {
        Value::List(list) => Ok(list.iter().any(|element| element.equals(a))),
        Value::Map(map) => Ok(map.get(a, env).is_some()),
        _ => Err(NoValue),
    }
}

fn size<'a>(a: &Value<'a>, env: &Env<'a>) -> Result<usize, NoValue> {
    match a {
        // Characters, not bytes.
        Value::String(text) => Ok(String::from_utf8_lossy(text).chars().count()),
        Value::Bytes(bytes) => Ok(bytes.len()),
        Value::List(list) => Ok(list.len()),
        Value::Map(map) => Map::len(map, env),
        _ => Err(NoValue),
    }
}

fn to_bool(a: &Value<'_>) -> Result<bool, NoValue> {
    match a {
        Value::Bool(b) => Ok(*b),
        Value::String(text) => match &**text {
            b"1" | b"t" | b"true" | b"TRUE" | b"True" => Ok(true),
            b"0" | b"f" | b"false" | b"FALSE" | b"False" => Ok(false),
            _ => Err(NoValue),
        },
        _ => Err(NoValue),
    }
}

fn to_int(a: &Value<'_>) -> Result<i64, NoValue> {
    match a {
        Value::Int(n) => Ok(*n),
        Value::Uint(n) => i64::try_from(*n).map_err(|_| NoValue),
        Value::Double(n) => truncated(*n).and_then(|n| i64::try_from(n).map_err(|_| NoValue)),
        Value::String(text) => parsed(text),
        Value::Bool(b) => Ok((*b).into()),
        Value::Timestamp(at) => i64::try_from(at.div_euclid(time::SECOND)).map_err(|_| NoValue),
        _ => Err(NoValue),
    }
}

fn to_uint(a: &Value<'_>) -> Result<u64, NoValue> {
    match a {
        Value::Uint(n) => Ok(*n),
        Value::Int(n) => u64::try_from(*n).map_err(|_| NoValue),
        Value::Double(n) => truncated(*n).and_then(|n| u64::try_from(n).map_err(|_| NoValue)),
        Value::String(text) => parsed(text),
        _ => Err(NoValue),
    }
}

#[expect(clippy::cast_precision_loss, reason = "so CEL converts integers")]
fn to_double(a: &Value<'_>) -> Result<f64, NoValue> {
    match a {
        Value::Double(n) => Ok(*n),
        Value::Int(n) => Ok(*n as f64),
        Value::Uint(n) => Ok(*n as f64),
        Value::String(text) => parsed(text),
        _ => Err(NoValue),
    }
}

/// Out of range of 64 bits it is no integer; the bound itself is not, as it may be rounded.
fn truncated(double: f64) -> Result<i128, NoValue> {
    #[expect(clippy::cast_possible_truncation, reason = "the bound was just looked at")]
    if double.abs() < 18_446_744_073_709_551_616.0 { Ok(double as i128) } else { Err(NoValue) }
}

fn parsed<T: std::str::FromStr>(text: &[u8]) -> Result<T, NoValue> {
    std::str::from_utf8(text.trim_ascii()).ok().and_then(|text| text.parse().ok()).ok_or(NoValue)
}

// === impl Part ===

impl Part {
    /// The part of a timestamp, in a zone that is so many seconds ahead of UTC.
    pub(super) fn of_timestamp(self, nanos: i128, zone: i64) -> i64 {
        let nanos = nanos + i128::from(zone) * time::SECOND;
        let (day, of_day) = (nanos.div_euclid(DAY), nanos.rem_euclid(DAY));
        let unit = |length: i128, modulo: i128| narrow(of_day / length % modulo);
        let date = time::Date::of(narrow(day));
        match self {
            Self::FullYear => date.year,
            Self::Month => date.month - 1,
            Self::Date => date.day,
            Self::DayOfMonth => date.day - 1,
            Self::DayOfWeek => (narrow(day) + 4).rem_euclid(7),
            Self::DayOfYear => date.day_of_year,
            Self::Hours => unit(3600 * time::SECOND, 24),
            Self::Minutes => unit(60 * time::SECOND, 60),
            Self::Seconds => unit(time::SECOND, 60),
            Self::Milliseconds => unit(time::SECOND / 1000, 1000),
        }
    }

    /// The part of a duration: all of it in the unit, but for milliseconds.
    pub(super) fn of_duration(self, nanos: i128) -> Option<i64> {
        Some(match self {
            Self::Hours => narrow(nanos / (3600 * time::SECOND)),
            Self::Minutes => narrow(nanos / (60 * time::SECOND)),
            Self::Seconds => narrow(nanos / time::SECOND),
            Self::Milliseconds => narrow(nanos / (time::SECOND / 1000) % 1000),
            _ => return None,
        })
    }
}

fn narrow(n: i128) -> i64 {
    i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
}
