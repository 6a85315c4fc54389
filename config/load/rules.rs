//! `validate.rules`: the constraints that Envoy's protos put on fields, compiled once and held against values.
//!
//! The wording of refusals is that of Envoy.

mod compile;
mod formats;
mod text;

pub(super) use compile::compile;
pub(super) use text::{BytesRules, TextRules};

use super::schema::Enum;
use std::fmt::{self, Display};

/// The rules of one field.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    /// The field must be set.
    pub(super) required: bool,
    /// The message in it is not looked into.
    pub(super) skip: bool,
    pub(super) value: Option<ValueRules>,
}

#[derive(Clone, Debug)]
pub(super) enum ValueRules {
    Int(NumberRules<i128>),
    Float(NumberRules<f64>),
    Bool(bool),
    Text(TextRules),
    Bytes(BytesRules),
    Enum(EnumRules),
    Repeated(RepeatedRules),
    Map(MapRules),
    Any(AnyRules),
    /// In nanoseconds, of a Duration or since the epoch.
    Time(NumberRules<Nanos>),
}

/// A value as rules see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Int(i128),
    Float(f64),
    Bool(bool),
    Text(&'a str),
    Bytes(&'a [u8]),
    Time(Nanos),
}

impl ValueRules {
    /// Holds the rules of a single value against it; rules of another kind of value hold always.
    pub(super) fn check(&self, value: Value<'_>) -> Result<(), String> {
        match (self, value) {
            (Self::Int(rules), Value::Int(v)) => rules.check(v, 0),
            (Self::Float(rules), Value::Float(v)) => rules.check(v, 0.0),
            (Self::Time(rules), Value::Time(v)) => rules.check(v, Nanos(0)),
            (Self::Bool(wanted), Value::Bool(v)) if *wanted != v => Err(format!("value must equal {wanted}")),
            (Self::Text(rules), Value::Text(v)) => rules.check(v),
            (Self::Bytes(rules), Value::Bytes(v)) => rules.check(v),
            _ => Ok(()),
        }
    }
}

/// Nanoseconds, shown as the JSON mapping shows a duration.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(super) struct Nanos(pub(super) i128);

impl Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SECOND: u128 = 1_000_000_000;
        let sign = if self.0 < 0 { "-" } else { "" };
        let (seconds, nanos) = (self.0.unsigned_abs() / SECOND, self.0.unsigned_abs() % SECOND);
        let fraction = format!("{nanos:09}");
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{sign}{seconds}s"),
            fraction => write!(f, "{sign}{seconds}.{fraction}s"),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct NumberRules<N> {
    pub(super) constant: Option<N>,
    pub(super) lt: Option<N>,
    pub(super) lte: Option<N>,
    pub(super) gt: Option<N>,
    pub(super) gte: Option<N>,
    pub(super) is_in: Vec<N>,
    pub(super) not_in: Vec<N>,
    pub(super) ignore_empty: bool,
}

impl<N: PartialOrd + Copy + Display> NumberRules<N> {
    fn check(&self, value: N, empty: N) -> Result<(), String> {
        if self.ignore_empty && value == empty {
            return Ok(());
        }
        if let Some(constant) = self.constant
            && value != constant
        {
            return Err(format!("value must equal {constant}"));
        }
        is_listed(&self.is_in, &self.not_in, &value)?;
        self.check_range(value)
    }

    fn check_range(&self, value: N) -> Result<(), String> {
        // Written so that NaN, which compares false with all, breaks every bound.
        let below = self.lt.is_none_or(|lt| value < lt) && self.lte.is_none_or(|lte| value <= lte);
        let above = self.gt.is_none_or(|gt| value > gt) && self.gte.is_none_or(|gte| value >= gte);
        let upper = self.lt.or(self.lte);
        let lower = self.gt.or(self.gte);
        // Bounds that exclude each other mean "outside of".
        let outside = matches!((lower, upper), (Some(lower), Some(upper)) if upper < lower);
        if (outside && (below || above)) || (below && above) {
            return Ok(());
        }
        Err(self.range_text(outside))
    }

    fn range_text(&self, outside: bool) -> String {
        let open = if self.gte.is_some() == outside { '(' } else { '[' };
        let close = if self.lte.is_some() == outside { ')' } else { ']' };
        match (self.gt.or(self.gte), self.lt.or(self.lte)) {
            (Some(lower), Some(upper)) if outside => {
                format!("value must be outside range {close}{upper}, {lower}{open}", close = open, open = close)
            }
            (Some(lower), Some(upper)) => format!("value must be inside range {open}{lower}, {upper}{close}"),
            (Some(lower), None) if self.gte.is_some() => format!("value must be greater than or equal to {lower}"),
            (Some(lower), None) => format!("value must be greater than {lower}"),
            (None, Some(upper)) if self.lte.is_some() => format!("value must be less than or equal to {upper}"),
            (None, Some(upper)) => format!("value must be less than {upper}"),
            (None, None) => "value is not allowed".to_owned(),
        }
    }
}

fn is_listed<T: PartialEq + Display>(is_in: &[T], not_in: &[T], value: &T) -> Result<(), String> {
    if !is_in.is_empty() && !is_in.contains(value) {
        return Err(format!("value must be in list {}", list(is_in)));
    }
    if not_in.contains(value) {
        return Err(format!("value must not be in list {}", list(not_in)));
    }
    Ok(())
}

fn list<T: Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    format!("[{}]", items.join(", "))
}

#[derive(Clone, Debug)]
pub(super) struct EnumRules {
    constant: Option<i32>,
    defined_only: bool,
    is_in: Vec<i32>,
    not_in: Vec<i32>,
}

impl EnumRules {
    pub(super) fn check(&self, value: i32, schema: &Enum) -> Result<(), String> {
        if let Some(constant) = self.constant
            && value != constant
        {
            return Err(format!("value must equal {constant}"));
        }
        if self.defined_only && schema.numbered(value).is_none() {
            return Err("value must be one of the defined enum values".to_owned());
        }
        is_listed(&self.is_in, &self.not_in, &value)
    }
}

/// Bounds of a count.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    min: Option<u64>,
    max: Option<u64>,
}

impl Bounds {
    fn check(self, count: usize, what: &str) -> Result<(), String> {
        let count = count as u64;
        if self.min.is_none_or(|min| count >= min) && self.max.is_none_or(|max| count <= max) {
            return Ok(());
        }
        Err(match (self.min, self.max) {
            (Some(min), Some(max)) if min == max => format!("value must contain exactly {min} {what}(s)"),
            (Some(min), Some(max)) => format!("value must contain between {min} and {max} {what}s, inclusive"),
            (Some(min), None) => format!("value must contain at least {min} {what}(s)"),
            (None, max) => format!("value must contain no more than {} {what}(s)", max.unwrap_or(0)),
        })
    }
}

#[derive(Clone, Debug)]
pub(super) struct RepeatedRules {
    bounds: Bounds,
    pub(super) unique: bool,
    ignore_empty: bool,
    pub(super) items: Option<Box<Rules>>,
}

impl RepeatedRules {
    pub(super) fn check_count(&self, count: usize) -> Result<(), String> {
        if self.ignore_empty && count == 0 {
            return Ok(());
        }
        self.bounds.check(count, "item")
    }
}

#[derive(Clone, Debug)]
pub(super) struct MapRules {
    bounds: Bounds,
    ignore_empty: bool,
    /// Values, which are messages, must be set.
    pub(super) no_sparse: bool,
    pub(super) keys: Option<Box<Rules>>,
    pub(super) values: Option<Box<Rules>>,
}

impl MapRules {
    pub(super) fn check_count(&self, count: usize) -> Result<(), String> {
        if self.ignore_empty && count == 0 {
            return Ok(());
        }
        self.bounds.check(count, "pair")
    }
}

#[derive(Clone, Debug)]
pub(super) struct AnyRules {
    is_in: Vec<String>,
    not_in: Vec<String>,
}

impl AnyRules {
    pub(super) fn check(&self, type_url: &str) -> Result<(), String> {
        is_listed(&self.is_in, &self.not_in, &type_url.to_owned()).map_err(|e| e.replacen("value", "type URL", 1))
    }
}

#[cfg(test)]
mod tests;
