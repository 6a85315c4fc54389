//! `json_format`: a tree of formats compiled to one that writes itself.

use super::escape::{escape_tail, push_number, push_string};
use super::operators::{Form, Op, Written};
use super::{Format, FormatCx, FormatError, Missing, Part};

/// A value of `json_format` as configured: a `google.protobuf.Value`.
#[derive(Clone, Debug, PartialEq)]
pub enum JsonFormat {
    /// A format string; a single operator keeps its type, any other text is a string.
    String(String),
    /// An object; the order of the fields does not matter.
    Object(Vec<(String, JsonFormat)>),
    /// A list.
    List(Vec<JsonFormat>),
    /// A constant.
    Number(f64),
    /// A constant.
    Bool(bool),
    /// A constant.
    Null,
}

/// A compiled `json_format`. It writes one line: an object, its keys sorted as Envoy sorts them, and a newline.
#[derive(Debug)]
pub struct JsonFormatter {
    fields: Vec<Field>,
    missing: Missing,
}

/// A key as it is written, with quotes and colon, and its value.
#[derive(Debug)]
struct Field {
    key: Vec<u8>,
    value: Node,
}

#[derive(Debug)]
enum Node {
    /// Rendered when loaded.
    Constant(Vec<u8>),
    /// One operator: keeps its type.
    Typed(Op),
    /// Several parts: a string.
    Text(Format),
    Object(Vec<Field>),
    List(Vec<Node>),
}

impl JsonFormatter {
    /// Compiles the object. With [`Missing::Empty`] (`omit_empty_values`) fields without a value, and objects that
    /// are empty for it, are left out; otherwise they are `null`.
    pub fn compile(fields: &[(String, JsonFormat)], missing: Missing) -> Result<Self, FormatError> {
        Ok(Self { fields: compile_fields(fields, missing)?, missing })
    }

    /// Appends the line for `cx`.
    pub fn write(&self, cx: &FormatCx<'_>, out: &mut Vec<u8>) {
        if !write_object(&self.fields, self.missing, cx, out) {
            out.extend_from_slice(b"{}");
        }
        out.push(b'\n');
    }
}

fn compile_fields(fields: &[(String, JsonFormat)], missing: Missing) -> Result<Vec<Field>, FormatError> {
    let mut sorted: Vec<_> = fields.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let mut compiled = Vec::with_capacity(sorted.len());
    for (name, value) in sorted {
        let mut key = Vec::new();
        push_string(&mut key, name.as_bytes());
        key.push(b':');
        if let Some(value) = Node::compile(value, missing)? {
            compiled.push(Field { key, value });
        }
    }
    Ok(compiled)
}

impl Node {
    /// `None` for a null that is left out.
    fn compile(value: &JsonFormat, missing: Missing) -> Result<Option<Self>, FormatError> {
        let mut constant = Vec::new();
        match value {
            JsonFormat::String(text) => return Ok(Some(Self::compile_text(text)?)),
            JsonFormat::Object(fields) => return Ok(Some(Self::Object(compile_fields(fields, missing)?))),
            JsonFormat::List(items) => {
                let items = items.iter().filter_map(|item| Self::compile(item, missing).transpose());
                return Ok(Some(Self::List(items.collect::<Result<_, _>>()?)));
            }
            JsonFormat::Null if missing == Missing::Empty => return Ok(None),
            JsonFormat::Null => constant.extend_from_slice(b"null"),
            JsonFormat::Bool(b) => constant.extend_from_slice(if *b { b"true" } else { b"false" }),
            JsonFormat::Number(n) => push_number(&mut constant, *n),
        }
        Ok(Some(Self::Constant(constant)))
    }

    fn compile_text(text: &str) -> Result<Self, FormatError> {
        let mut format = Format::parse(text)?;
        if let Some(literal) = format.literal() {
            let mut constant = Vec::new();
            push_string(&mut constant, literal.as_bytes());
            return Ok(Self::Constant(constant));
        }
        Ok(match format.parts.pop() {
            Some(Part::Operator(op)) if format.parts.is_empty() => Self::Typed(op),
            last => {
                format.parts.extend(last);
                Self::Text(format)
            }
        })
    }

    /// Appends the value; false, and nothing appended, if it is left out.
    fn write(&self, missing: Missing, cx: &FormatCx<'_>, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Constant(json) => out.extend_from_slice(json),
            Self::Typed(op) => return write_typed(op, missing, cx, out),
            Self::Text(format) => {
                out.push(b'"');
                format.write_escaped(cx, missing, out);
                out.push(b'"');
            }
            Self::Object(fields) => return write_object(fields, missing, cx, out),
            Self::List(items) => {
                out.push(b'[');
                let mut first = true;
                for item in items {
                    let from = out.len();
                    if !first {
                        out.push(b',');
                    }
                    match item.write(missing, cx, out) {
                        true => first = false,
                        false => out.truncate(from),
                    }
                }
                out.push(b']');
            }
        }
        true
    }
}

fn write_object(fields: &[Field], missing: Missing, cx: &FormatCx<'_>, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    out.push(b'{');
    let mut first = true;
    for Field { key, value } in fields {
        let from = out.len();
        if !first {
            out.push(b',');
        }
        out.extend_from_slice(key);
        match value.write(missing, cx, out) {
            true => first = false,
            false => out.truncate(from),
        }
    }
    if first && missing == Missing::Empty {
        out.truncate(start);
        return false;
    }
    out.push(b'}');
    true
}

fn write_typed(op: &Op, missing: Missing, cx: &FormatCx<'_>, out: &mut Vec<u8>) -> bool {
    // The opening quote is written first, because most values are strings; the rare others take it back.
    let quote = out.len();
    out.push(b'"');
    match op.eval(cx, Form::Typed, out) {
        Written::Text => {
            escape_tail(out, quote + 1);
            out.push(b'"');
        }
        Written::Json => {
            out.remove(quote);
        }
        Written::Missing => {
            out.truncate(quote);
            if missing == Missing::Empty {
                return false;
            }
            out.extend_from_slice(b"null");
        }
    }
    true
}
