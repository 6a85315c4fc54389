//! The well-known types, each in the form that the JSON mapping gives it.

use super::Encoder;
use super::scalar::{Encoded, decimal};
use crate::load::findings::Path;
use crate::load::schema::{Known, Message};
use crate::load::tree::{Kind, NodeId, Scalar};
use crate::load::wire::{self, type_name};
use std::sync::Arc;

/// Largest number of seconds of a Duration, about 10,000 years.
const MAX_SECONDS: i64 = 315_576_000_000;

impl Encoder<'_> {
    /// `{"@type": url, ...}`: the fields of the named message beside it, or a well-known type under `value`.
    pub(super) fn any(&mut self, any: &Arc<Message>, node: NodeId, path: &Path<'_>) {
        if self.tree.kind(node) != Kind::Mapping {
            return self.wrong(node, path, format!("expected a message {}", any.name));
        }
        let Some(type_node) = self.tree.get(node, "@type") else {
            if self.tree.children(node).next().is_some() {
                self.wrong(node, path, "expected \"@type\", which names the message".to_owned());
            }
            return;
        };
        let Some(url) = self.type_url(type_node, path) else { return };
        let Some(message) = self.schemas.find(type_name(&url)) else {
            return self.unknown_type(type_node, path, type_name(&url));
        };
        match message.known {
            Known::Ordinary => self.any_of(&url, |e| e.message(&message, node, path, Some("@type"))),
            Known::TypedStruct => self.typed_struct(&url, &message, node, path),
            _ => self.any_of(&url, |e| e.any_known(&message, node, path)),
        }
    }

    /// Text of `@type` or `type_url`, if it is a type URL.
    fn type_url(&mut self, node: NodeId, path: &Path<'_>) -> Option<String> {
        let url = self.tree.text(self.resolve(node, path)?).to_owned();
        if url.split_once('/').is_some_and(|(host, name)| !host.is_empty() && !name.is_empty()) {
            return Some(url);
        }
        self.wrong(node, path, format!("expected a type URL such as type.googleapis.com/{url}, found {url:?}"));
        None
    }

    fn any_of(&mut self, url: &str, body: impl FnOnce(&mut Self)) {
        wire::bytes(1, url.as_bytes(), &mut self.out);
        self.nested(2, body);
    }

    fn any_known(&mut self, message: &Arc<Message>, node: NodeId, path: &Path<'_>) {
        let tree = self.tree;
        for (key, value) in tree.pairs(node) {
            match tree.text(key) {
                "@type" => {}
                "value" => {
                    let Some(value) = self.resolve(value, path) else { return };
                    self.body(message, value, path);
                }
                other => {
                    let path = path.field(other);
                    let at = Some(tree.position(key));
                    self.findings.unknown_field(&path, at, message, || Some("value".to_owned()));
                }
            }
        }
    }

    /// A TypedStruct becomes the message it names, so that lowering sees the real type. A type that Envoy lacks, which a
    /// Wasm or Lua extension may define, stays a TypedStruct.
    fn typed_struct(&mut self, url: &str, message: &Arc<Message>, node: NodeId, path: &Path<'_>) {
        let tree = self.tree;
        let named = tree.get(node, "type_url").or_else(|| tree.get(node, "typeUrl"));
        let inner = named.and_then(|n| self.schemas.find(type_name(tree.text(n))));
        let (Some(named), Some(inner)) = (named, inner) else {
            return self.any_of(url, |e| e.message(message, node, path, Some("@type")));
        };
        let url = format!("type.googleapis.com/{}", type_name(tree.text(named)));
        self.any_of(&url, |e| {
            for (key, value) in tree.pairs(node) {
                match tree.text(key) {
                    "@type" | "type_url" | "typeUrl" => {}
                    "value" => {
                        let Some(value) = e.resolve(value, path) else { return };
                        if !tree.is_null(value) {
                            e.body(&inner, value, path);
                        }
                    }
                    other => {
                        let path = path.field(other);
                        e.findings.unknown_field(&path, Some(tree.position(key)), message, || Some("value".to_owned()));
                    }
                }
            }
        });
    }

    /// `[type.googleapis.com/name] { ... }` of the text format, or the two fields as they are.
    pub(super) fn any_of_text(&mut self, any: &Arc<Message>, node: NodeId, path: &Path<'_>) {
        let expanded = self.tree.pairs(node).next().filter(|(key, _)| self.tree.text(*key).starts_with('['));
        let Some((key, value)) = expanded else { return self.message(any, node, path, None) };
        let url = self.tree.text(key).trim_matches(['[', ']']).to_owned();
        match self.schemas.find(type_name(&url)) {
            Some(message) => self.any_of(&url, |e| e.body(&message, value, path)),
            None => self.unknown_type(key, path, type_name(&url)),
        }
    }

    pub(super) fn duration(&mut self, message: &Arc<Message>, node: NodeId, path: &Path<'_>) {
        let Some(scalar) = self.tree.scalar(node) else { return self.message(message, node, path, None) };
        let parsed = match scalar {
            Scalar::Text(text) => parse_duration(text),
            _ => None,
        };
        match parsed {
            Some((seconds, nanos)) => self.time(seconds, nanos),
            None => {
                let text = self.tree.text(node);
                self.wrong(node, path, format!("expected a duration in seconds such as \"1.5s\", found {text:?}"));
            }
        }
    }

    pub(super) fn timestamp(&mut self, message: &Arc<Message>, node: NodeId, path: &Path<'_>) {
        let Some(scalar) = self.tree.scalar(node) else { return self.message(message, node, path, None) };
        let parsed = match scalar {
            Scalar::Text(text) => parse_timestamp(text),
            _ => None,
        };
        match parsed {
            Some((seconds, nanos)) => self.time(seconds, nanos),
            None => {
                let text = self.tree.text(node);
                self.wrong(node, path, format!("expected a time such as \"2026-01-31T12:00:00Z\", found {text:?}"));
            }
        }
    }

    fn time(&mut self, seconds: i64, nanos: i32) {
        for (number, value) in [(1, seconds), (2, i64::from(nanos))] {
            if value != 0 {
                wire::varint(number, value as u64, &mut self.out);
            }
        }
    }

    /// Paths with commas between them, each in the casing of JSON.
    pub(super) fn field_mask(&mut self, message: &Arc<Message>, node: NodeId, path: &Path<'_>) {
        match self.tree.scalar(node) {
            None => self.message(message, node, path, None),
            Some(Scalar::Text(text)) => {
                for mask in text.split(',').filter(|mask| !mask.is_empty()) {
                    wire::bytes(1, snake_case(mask).as_bytes(), &mut self.out);
                }
            }
            Some(_) => self.wrong(node, path, "expected field paths with commas between them".to_owned()),
        }
    }

    /// The bare value, or, as Envoy also takes it, the message with its field `value`.
    pub(super) fn wrapper(&mut self, message: &Arc<Message>, node: NodeId, path: &Path<'_>) {
        if self.tree.kind(node) == Kind::Mapping {
            return self.message(message, node, path, None);
        }
        let Some(value) = self.scalar(message.fields[0].kind, node, path) else { return };
        if !value.is_default() {
            value.write(1, &mut self.out);
        }
    }

    pub(super) fn structure(&mut self, node: NodeId, path: &Path<'_>) {
        if self.tree.kind(node) != Kind::Mapping {
            return self.wrong(node, path, "expected a mapping".to_owned());
        }
        let tree = self.tree;
        for (key, value) in tree.pairs(node) {
            let name = tree.text(key);
            let path = path.key(name);
            let Some(value) = self.resolve(value, &path) else { return };
            self.nested(1, |e| {
                wire::bytes(1, name.as_bytes(), &mut e.out);
                e.nested(2, |e| e.json_value(value, &path));
            });
        }
    }

    pub(super) fn json_value(&mut self, node: NodeId, path: &Path<'_>) {
        // One level of JSON is three messages here, and prost refuses the hundred and first.
        const LEVELS: usize = 3;
        if self.depth + LEVELS > crate::load::tree::MAX_DEPTH {
            return self.wrong(node, path, "nested too deep".to_owned());
        }
        self.depth += LEVELS;
        match (self.tree.kind(node), self.tree.scalar(node)) {
            (Kind::Mapping, _) => self.nested(5, |e| e.structure(node, path)),
            (Kind::Sequence, _) => self.nested(6, |e| e.list_value(node, path)),
            (_, None | Some(Scalar::Null)) => wire::varint(1, 0, &mut self.out),
            (_, Some(Scalar::Bool(value))) => wire::varint(4, u64::from(value), &mut self.out),
            (_, Some(Scalar::Int(value))) => self.number_value(f64::from(value)),
            (_, Some(Scalar::Number(text))) => match decimal(text) {
                Some(value) => self.number_value(value),
                None => self.wrong(node, path, "number out of range of a double".to_owned()),
            },
            (_, Some(Scalar::LongInt(value))) => wire::bytes(3, value.to_string().as_bytes(), &mut self.out),
            (_, Some(Scalar::Text(text) | Scalar::Word(text))) => wire::bytes(3, text.as_bytes(), &mut self.out),
        }
        self.depth -= LEVELS;
    }

    fn number_value(&mut self, value: f64) {
        Encoded::Fixed64(value.to_bits()).write(2, &mut self.out);
    }

    pub(super) fn list_value(&mut self, node: NodeId, path: &Path<'_>) {
        if self.tree.kind(node) != Kind::Sequence {
            return self.wrong(node, path, "expected a list".to_owned());
        }
        let tree = self.tree;
        for (index, element) in tree.children(node).enumerate() {
            let path = path.index(index);
            let Some(element) = self.resolve(element, &path) else { return };
            self.nested(1, |e| e.json_value(element, &path));
        }
    }
}

/// Seconds and nanoseconds of `1.5s`: an optional minus, digits, up to nine more after a point.
fn parse_duration(text: &str) -> Option<(i64, i32)> {
    let text = text.strip_suffix('s')?;
    let (is_negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (seconds, nanos) = seconds_and_fraction(text)?;
    if seconds > MAX_SECONDS {
        return None;
    }
    Some(if is_negative { (-seconds, -nanos) } else { (seconds, nanos) })
}

fn seconds_and_fraction(text: &str) -> Option<(i64, i32)> {
    let (seconds, fraction) = match text.split_once('.') {
        Some((_, "")) => return None,
        Some((seconds, fraction)) => (seconds, fraction),
        None => (text, ""),
    };
    let are_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if seconds.is_empty() || fraction.len() > 9 || !are_digits(seconds) || !are_digits(fraction) {
        return None;
    }
    let nanos: i32 = format!("{fraction:0<9}").parse().ok()?;
    Some((seconds.parse().ok()?, nanos))
}

/// Seconds since the epoch and nanoseconds of an RFC 3339 time.
fn parse_timestamp(text: &str) -> Option<(i64, i32)> {
    let (date, rest) = text.split_once(['T', 't'])?;
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = rest.split_at(zone_at);
    let [year, month, day] = numbers(date, '-')?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = numbers(clock, ':')?;
    let in_range = (1..=9999).contains(&year) && (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
    if !in_range || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (_, nanos) = seconds_and_fraction(&format!("0.{fraction}"))?;
    let offset = match zone.split_at(1) {
        ("Z" | "z", "") => 0,
        (sign, offset) => {
            let (hours, minutes) = offset.split_once(':')?;
            let [hours, minutes] = [hours, minutes].map(|n| n.parse::<i64>().ok().filter(|n| (0..60).contains(n)));
            let seconds = (hours? * 60 + minutes?) * 60;
            if sign == "+" { seconds } else { -seconds }
        }
    };
    let seconds = days_since_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset;
    Some((seconds, nanos))
}

fn numbers(text: &str, separator: char) -> Option<[i64; 3]> {
    let mut parts = text.split(separator).map(|part| {
        let is_number = !part.is_empty() && part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit());
        if is_number { part.parse().ok() } else { None }
    });
    let all = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(all)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar: years counted from March, so that the leap day comes last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    const DAYS_TO_EPOCH: i64 = 719_468;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - DAYS_TO_EPOCH
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_with_up_to_nine_decimals() {
        for (text, expected) in [
            ("1s", Some((1, 0))),
            ("1.5s", Some((1, 500_000_000))),
            ("-0.000000001s", Some((0, -1))),
            ("0.25s", Some((0, 250_000_000))),
            ("315576000000s", Some((MAX_SECONDS, 0))),
            ("315576000001s", None),
            ("99999999999999999999s", None),
            ("1", None),
            ("s", None),
            (".5s", None),
            ("5.s", None),
            ("+1s", None),
            ("1m", None),
            ("1 s", None),
            ("--1s", None),
            ("1.1234567891s", None),
            ("1e1s", None),
        ] {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }

    #[test]
    fn timestamps_are_rfc_3339() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some((0, 0))),
            ("2000-02-29T12:00:00.5Z", Some((951_825_600, 500_000_000))),
            ("1969-12-31T23:59:59Z", Some((-1, 0))),
            ("2024-01-01T01:00:00+01:00", Some((1_704_067_200, 0))),
            ("2023-02-29T00:00:00Z", None),
            ("2023-01-01", None),
            ("2023-01-01T00:00:00", None),
            ("2023-01-01T25:00:00Z", None),
            ("2023-01-01T00:00:00.Z", None),
            ("2023-1-1-1T00:00:00Z", None),
        ] {
            assert_eq!(parse_timestamp(text), expected, "{text}");
        }
    }
}
