//! Messages as text protobuf: what Envoy writes where that is asked for.

use super::super::check::Fields;
use super::super::rules::Value;
use super::super::schema::{Field, Kind, Label, Message, Schemas};
use super::super::wire::Raw;
use std::fmt::Write;
use std::sync::Arc;

/// The message as text protobuf without defaults, one field to a line and indented by two spaces.
pub fn to_text<T: prost::Message + prost::Name>(message: &T) -> String {
    let mut printer = TextPrinter { schemas: Schemas::default(), out: String::new(), indent: 0 };
    let schema = printer.schemas.find(&T::full_name()).expect("every message of nuncio_proto is described");
    printer.message(&schema, &message.encode_to_vec());
    printer.out
}

struct TextPrinter {
    schemas: Schemas,
    out: String,
    indent: usize,
}

// === impl TextPrinter ===

impl TextPrinter {
    /// The fields of a message. Bytes that are no message have none.
    fn message(&mut self, message: &Arc<Message>, bytes: &[u8]) {
        let Ok(fields) = Fields::parse(message, bytes) else { return };
        for (index, field) in (0..).zip(&message.fields) {
            match field.label {
                Label::Single => {
                    let set = fields.single(index);
                    if let Some(raw) = set.filter(|raw| field.has_presence || **raw != Raw::default_of(field.kind)) {
                        self.field(field, raw);
                    }
                }
                // An entry of a map is a message like others.
                Label::Repeated | Label::Map => {
                    fields.repeated(index, field.kind).iter().for_each(|raw| self.field(field, raw));
                }
            }
        }
    }

    fn field(&mut self, field: &Field, raw: &Raw<'_>) {
        self.out.extend(std::iter::repeat_n(' ', self.indent));
        self.out.push_str(&field.name);
        match (field.kind, raw) {
            (Kind::Message(id), Raw::Bytes(bytes)) => {
                self.out.push_str(" {\n");
                self.indent += 2;
                let message = self.schemas.message(id);
                self.message(&message, bytes);
                self.indent -= 2;
                self.out.extend(std::iter::repeat_n(' ', self.indent));
                self.out.push('}');
            }
            (kind, raw) => {
                self.out.push_str(": ");
                self.scalar(kind, raw);
            }
        }
        self.out.push('\n');
    }

    fn scalar(&mut self, kind: Kind, raw: &Raw<'_>) {
        // Writing to a String cannot fail.
        let _ = match (kind, raw) {
            (Kind::Enum(id), Raw::Varint(number)) => {
                let number = *number as i32;
                match self.schemas.enumeration(id).numbered(number) {
                    Some(value) => self.out.write_str(&value.name),
                    None => write!(self.out, "{number}"),
                }
            }
            (kind, raw) => match raw.value(kind) {
                Some(Value::Int(n)) => write!(self.out, "{n}"),
                Some(Value::Float(n)) => write!(self.out, "{n}"),
                Some(Value::Bool(b)) => write!(self.out, "{b}"),
                Some(Value::Text(text)) => self.quoted(text.as_bytes()),
                Some(Value::Bytes(bytes)) => self.quoted(bytes),
                Some(Value::Time(_)) | None => Ok(()),
            },
        };
    }

    /// Bytes as C writes them: what is not to be printed in octal.
    fn quoted(&mut self, bytes: &[u8]) -> std::fmt::Result {
        self.out.push('"');
        for byte in bytes {
            match byte {
                b'\n' => self.out.push_str("\\n"),
                b'\r' => self.out.push_str("\\r"),
                b'\t' => self.out.push_str("\\t"),
                b'"' | b'\'' | b'\\' => self.out.extend(['\\', char::from(*byte)]),
                b' '..=b'~' => self.out.push(char::from(*byte)),
                _ => write!(self.out, "\\{byte:03o}")?,
            }
        }
        self.out.push('"');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nuncio_proto::envoy::data::tap::v3::socket_event::{EventSelector, Read};
    use nuncio_proto::envoy::data::tap::v3::{Body, SocketEvent, body};

    #[test]
    fn text_is_that_of_envoy() {
        let data = Body { body_type: Some(body::BodyType::AsBytes(b"q\0\xff\"\\\n\t'".to_vec())), truncated: false };
        let event = SocketEvent {
            event_selector: Some(EventSelector::Read(Read { data: Some(data) })),
            seq_num: 7,
            ..SocketEvent::default()
        };
        let expected = r#"read {
  data {
    as_bytes: "q\000\377\"\\\n\t\'"
  }
}
seq_num: 7
"#;
        assert_eq!(to_text(&event), expected);
    }
}
