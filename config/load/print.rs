//! Messages as JSON text, the way back: for admin, which shows messages as Envoy does.
//!
//! Works on wire format by the same schemas, so that an Any is opened where its type is known, and full reflection is
//! not needed.

mod text;

pub use text::to_text;

use super::check::{Fields, any_parts};
use super::redact::{Hidden, redact};
use super::rules::{Nanos, Value};
use super::schema::{Field, Kind, Known, Label, Message, Schemas};
use super::wire::Raw;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What to do about fields without presence that have their default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defaults {
    /// Leave them out.
    Omit,
    /// Print them, in messages of any depth.
    Print,
}

/// The message as JSON by the proto3 mapping, with the names of the .proto files, one field to a line and indented by
/// one space: what Envoy's admin prints.
pub fn to_json<T: prost::Message + prost::Name>(message: &T, defaults: Defaults) -> String {
    print(message, Schemas::default(), Layout::Indented, defaults).out
}

/// As [`to_json`] without defaults, all in one line: what servers are sent.
pub fn to_json_line<T: prost::Message + prost::Name>(message: &T) -> String {
    print(message, Schemas::default(), Layout::Line, Defaults::Omit).out
}

/// As [`to_json`] without defaults, with what is not to be shown redacted, in messages of any depth.
pub fn to_redacted_json<T: prost::Message + prost::Name>(message: &T) -> String {
    let mut printer = Printer::new(Schemas::default(), Layout::Indented, Defaults::Omit);
    let schema = printer.schema_of::<T>();
    let shown = redact(&schema, &message.encode_to_vec(), Hidden::Marked, &mut printer.schemas);
    printer.message(&schema, &shown);
    printer.out
}

/// Prints messages as JSON in one line each, with the defaults: what Envoy's event logs have.
#[derive(Default)]
pub struct JsonLines {
    /// Those met so far: the next message of a kind is cheap.
    schemas: Schemas,
}

// === impl JsonLines ===

impl JsonLines {
    /// The message with a line break at its end.
    pub fn print<T: prost::Message + prost::Name>(&mut self, message: &T) -> String {
        let schemas = std::mem::take(&mut self.schemas);
        let mut printer = print(message, schemas, Layout::Line, Defaults::Print);
        self.schemas = printer.schemas;
        printer.out.push('\n');
        printer.out
    }
}

fn print<T: prost::Message + prost::Name>(
    message: &T,
    schemas: Schemas,
    layout: Layout,
    defaults: Defaults,
) -> Printer {
    let mut printer = Printer::new(schemas, layout, defaults);
    printer.print(message);
    printer
}

/// How the text is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// One field to a line.
    Indented,
    /// Without any white space.
    Line,
}

struct Printer {
    schemas: Schemas,
    out: String,
    layout: Layout,
    indent: usize,
    defaults: Defaults,
}

// === impl Printer ===

impl Printer {
    fn new(schemas: Schemas, layout: Layout, defaults: Defaults) -> Self {
        Self { schemas, out: String::new(), layout, indent: 0, defaults }
    }

    fn print<T: prost::Message + prost::Name>(&mut self, message: &T) {
        let schema = self.schema_of::<T>();
        self.message(&schema, &message.encode_to_vec());
    }

    fn schema_of<T: prost::Name>(&mut self) -> Arc<Message> {
        self.schemas.find(&T::full_name()).expect("every message of nuncio_proto is described")
    }

    /// A message in the form that the mapping gives to its type. Bytes that are no message print as an empty one; none
    /// such pass the loader.
    fn message(&mut self, message: &Arc<Message>, bytes: &[u8]) {
        let Ok(fields) = Fields::parse(message, bytes) else { return self.out.push_str("{}") };
        match message.known {
            Known::Ordinary | Known::TypedStruct => {
                self.object(|printer, first| printer.fields(message, &fields, first))
            }
            Known::Any => self.any(bytes),
            Known::Duration => self.text(&duration(fields.nanos())),
            Known::Timestamp => self.text(&timestamp(fields.nanos())),
            Known::FieldMask => self.field_mask(message, &fields),
            Known::Struct => self.map(message, &fields, 0),
            Known::Value => self.dynamic_value(message, &fields),
            Known::ListValue => self.repeated(&message.fields[0], &fields.repeated(0, message.fields[0].kind)),
            Known::Wrapper => self.single_or_default(&message.fields[0], fields.single(0)),
        }
    }

    fn fields(&mut self, message: &Message, fields: &Fields<'_>, first: &mut bool) {
        for index in 0..message.fields.len() {
            let index = u16::try_from(index).expect("schemas number fields by u16");
            self.field(message, fields, index, first);
        }
    }

    fn field(&mut self, message: &Message, fields: &Fields<'_>, index: u16, first: &mut bool) {
        let field = &message.fields[usize::from(index)];
        match field.label {
            Label::Single => match fields.single(index) {
                Some(raw) if field.has_presence || *raw != Raw::default_of(field.kind) => {
                    self.key(&field.name, first);
                    self.value(field.kind, raw);
                }
                _ if !field.has_presence && self.defaults == Defaults::Print => {
                    self.key(&field.name, first);
                    self.value(field.kind, &Raw::default_of(field.kind));
                }
                _ => {}
            },
            Label::Repeated | Label::Map => {
                let values = fields.repeated(index, field.kind);
                if !values.is_empty() || self.defaults == Defaults::Print {
                    self.key(&field.name, first);
                    match field.label {
                        Label::Map => self.map(message, fields, index),
                        _ => self.repeated(field, &values),
                    }
                }
            }
        }
    }

    fn value(&mut self, kind: Kind, raw: &Raw<'_>) {
        match (kind, raw) {
            (Kind::Message(id), Raw::Bytes(bytes)) => {
                let message = self.schemas.message(id);
                self.message(&message, bytes);
            }
            (Kind::Enum(id), Raw::Varint(number)) => self.enum_value(*number as i32, id),
            (kind, raw) => match raw.value(kind) {
                // The mapping writes what a double cannot hold exactly as text.
                Some(Value::Int(n))
                    if matches!(kind, Kind::Int64 | Kind::Uint64 | Kind::Fixed64 | Kind::Sfixed64 | Kind::Sint64) =>
                {
                    self.text(&n.to_string());
                }
                Some(Value::Int(n)) => self.raw(format_args!("{n}")),
                Some(Value::Float(n)) => self.float(n),
                Some(Value::Bool(b)) => self.raw(format_args!("{b}")),
                Some(Value::Text(text)) => self.text(text),
                Some(Value::Bytes(bytes)) => self.text(&STANDARD.encode(bytes)),
                Some(Value::Time(_)) | None => self.out.push_str("null"),
            },
        }
    }

    fn single_or_default(&mut self, field: &Field, raw: Option<&Raw<'_>>) {
        match raw {
            Some(raw) => self.value(field.kind, raw),
            None => self.value(field.kind, &Raw::default_of(field.kind)),
        }
    }

    fn enum_value(&mut self, number: i32, id: super::schema::TypeId) {
        match self.schemas.enumeration(id).numbered(number) {
            Some(value) => self.text(&value.name),
            None => self.raw(format_args!("{number}")),
        }
    }

    fn any(&mut self, bytes: &[u8]) {
        let (url, value) = any_parts(bytes);
        let schema = url.rsplit('/').next().and_then(|name| self.schemas.find(name));
        self.object(|printer, first| {
            printer.key("@type", first);
            printer.text(url);
            match schema {
                Some(message) if matches!(message.known, Known::Ordinary | Known::TypedStruct) => {
                    if let Ok(fields) = Fields::parse(&message, value) {
                        printer.fields(&message, &fields, first);
                    }
                }
                Some(message) => {
                    printer.key("value", first);
                    printer.message(&message, value);
                }
                None => {
                    printer.key("value", first);
                    printer.text(&STANDARD.encode(value));
                }
            }
        });
    }

    fn repeated(&mut self, field: &Field, values: &[Raw<'_>]) {
        self.open('[');
        for (i, raw) in values.iter().enumerate() {
            self.line(i == 0);
            self.value(field.kind, raw);
        }
        self.close(']', values.is_empty());
    }

    /// The map in the field numbered `index` of `message`.
    fn map(&mut self, message: &Message, fields: &Fields<'_>, index: u16) {
        let field = &message.fields[usize::from(index)];
        let Some(entry) = field.message().map(|id| self.schemas.message(id)) else { return self.out.push_str("{}") };
        let entries = fields.repeated(index, field.kind);
        self.object(|printer, first| {
            for raw in &entries {
                let Raw::Bytes(bytes) = raw else { continue };
                let Ok(pair) = Fields::parse(&entry, bytes) else { continue };
                printer.key(&pair.key_text(&entry), first);
                printer.single_or_default(&entry.fields[1], pair.single(1));
            }
        });
    }

    /// `google.protobuf.Value`: its one field that is set.
    fn dynamic_value(&mut self, message: &Message, fields: &Fields<'_>) {
        let set = message.fields.iter().zip(0..).find_map(|(field, i)| Some((field, fields.single(i)?)));
        match set {
            Some((field, raw)) if &*field.name != "null_value" => self.value(field.kind, raw),
            _ => self.out.push_str("null"),
        }
    }

    fn field_mask(&mut self, message: &Message, fields: &Fields<'_>) {
        let kind = message.fields[0].kind;
        let paths: Vec<String> = fields
            .repeated(0, kind)
            .iter()
            .filter_map(|raw| match raw.value(kind) {
                Some(Value::Text(path)) => Some(lower_camel(path)),
                _ => None,
            })
            .collect();
        self.text(&paths.join(","));
    }

    fn object(&mut self, fill: impl FnOnce(&mut Self, &mut bool)) {
        let mut first = true;
        self.open('{');
        fill(self, &mut first);
        self.close('}', first);
    }

    fn key(&mut self, name: &str, first: &mut bool) {
        self.line(*first);
        *first = false;
        self.text(name);
        self.out.push_str(if self.layout == Layout::Line { ":" } else { ": " });
    }

    fn open(&mut self, bracket: char) {
        self.out.push(bracket);
        self.indent += 1;
    }

    fn close(&mut self, bracket: char, empty: bool) {
        self.indent -= 1;
        if !empty {
            self.new_line();
        }
        self.out.push(bracket);
    }

    fn line(&mut self, first: bool) {
        if !first {
            self.out.push(',');
        }
        self.new_line();
    }

    fn new_line(&mut self) {
        if self.layout == Layout::Line {
            return;
        }
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n(' ', self.indent));
    }

    fn text(&mut self, text: &str) {
        self.out.push_str(&serde_json::Value::from(text).to_string());
    }

    fn float(&mut self, number: f64) {
        match number {
            n if n.is_nan() => self.text("NaN"),
            n if n.is_infinite() => self.text(if n > 0.0 { "Infinity" } else { "-Infinity" }),
            n => self.raw(format_args!("{n}")),
        }
    }

    fn raw(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.out.write_fmt(text);
    }
}

/// The time in UTC, to the millisecond.
pub fn rfc3339(at: SystemTime) -> String {
    let millis = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    timestamp(Nanos(i128::try_from(millis).unwrap_or_default() * 1_000_000))
}

/// Seconds, with as many groups of three digits after the point as needed.
fn duration(nanos: Nanos) -> String {
    let sign = if nanos.0 < 0 { "-" } else { "" };
    let nanos = nanos.0.abs();
    format!("{sign}{}{}s", nanos / 1_000_000_000, fraction(nanos % 1_000_000_000))
}

fn fraction(nanos: i128) -> String {
    match nanos {
        0 => String::new(),
        n if n % 1_000_000 == 0 => format!(".{:03}", n / 1_000_000),
        n if n % 1_000 == 0 => format!(".{:06}", n / 1_000),
        n => format!(".{n:09}"),
    }
}

/// RFC 3339 in UTC, with as many groups of three digits after the second as needed.
fn timestamp(nanos: Nanos) -> String {
    const SECOND: i128 = 1_000_000_000;
    let (seconds, nanos) = (nanos.0.div_euclid(SECOND), nanos.0.rem_euclid(SECOND));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let fraction = fraction(nanos);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// Year, month and day of a count of days since 1970, in the Gregorian calendar: years that begin in March put the leap
/// day last, and 400 of them have 146,097 days.
fn civil(days: i128) -> (i128, i128, i128) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i128::from(month <= 2), month, day)
}

fn lower_camel(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut upper = false;
    for c in path.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                out.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Format, Loader, Source, UnknownFields};
    use nuncio_proto::envoy::admin::v3::{CommandLineOptions, Memory};
    use nuncio_proto::envoy::config::bootstrap::v3::Bootstrap;

    const JSON: &str = r#"{
 "node": {
  "id": "n",
  "metadata": {
   "a": [
    1,
    "x",
    null,
    {}
   ]
  }
 },
 "static_resources": {
  "listeners": [
   {
    "name": "l",
    "address": {
     "socket_address": {
      "address": "::1",
      "port_value": 0
     }
    },
    "filter_chains": [
     {
      "filters": [
       {
        "name": "e",
        "typed_config": {
         "@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"
        }
       }
      ]
     }
    ],
    "per_connection_buffer_limit_bytes": 0,
    "traffic_direction": "INBOUND"
   }
  ]
 },
 "stats_flush_interval": "1.500s"
}"#;

    #[test]
    fn what_was_read_prints_as_it_was_written() {
        let source = Source::new("x.json", Format::Json, JSON.into());
        let loaded = Loader::new(UnknownFields::Reject).load::<Bootstrap>(vec![source]).unwrap();
        assert_eq!(to_json(&loaded.message, Defaults::Omit), JSON);
    }

    #[test]
    fn large_numbers_are_text_and_defaults_print_on_request() {
        let memory = Memory { allocated: 5, ..Memory::default() };
        assert_eq!(to_json(&memory, Defaults::Omit), "{\n \"allocated\": \"5\"\n}");
        let all = to_json(&CommandLineOptions::default(), Defaults::Print);
        assert!(all.contains("\"mode\": \"Serve\",") && all.contains("\"disabled_extensions\": [],"), "{all}");
        assert!(!all.contains("drain_time"), "{all}");
        assert_eq!(to_json(&Memory::default(), Defaults::Omit), "{}");
    }

    #[test]
    fn a_line_has_the_defaults_and_no_white_space() {
        use nuncio_proto::envoy::data::cluster::v3::OutlierDetectionEvent;
        let event = OutlierDetectionEvent {
            cluster_name: "a b".to_owned(),
            secs_since_last_action: Some(nuncio_proto::google::protobuf::UInt64Value { value: 2 }),
            ..OutlierDetectionEvent::default()
        };
        assert_eq!(
            JsonLines::default().print(&event),
            "{\"type\":\"CONSECUTIVE_5XX\",\"secs_since_last_action\":\"2\",\"cluster_name\":\"a b\",\
             \"upstream_url\":\"\",\"action\":\"EJECT\",\"num_ejections\":0,\"enforced\":false}\n"
        );
    }

    #[test]
    fn timestamps_are_rfc_3339() {
        let at = |seconds: i128, nanos: i128| timestamp(Nanos(seconds * 1_000_000_000 + nanos));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_400, 5_000_000), "2000-02-29T00:00:00.005Z");
        assert_eq!(at(1_795_224_093, 123_456_789), "2026-11-21T01:21:33.123456789Z");
        assert_eq!(at(-1, 0), "1969-12-31T23:59:59Z");
    }
}
