//! Resolves the TypedStructs in an encoded message, as files have theirs resolved while they are read: control planes
//! send them for filters whose protos they do not link.

use super::check::Fields;
use super::encode::encode_in_any;
use super::findings::{Findings, Path};
use super::schema::{Known, Label, Message, Schemas};
use super::tree::{Builder, Kind, MAX_DEPTH, Position, SyntaxError, Tree};
use super::wire::{self, Malformed, Raw, next_field, type_name};
use nuncio_proto::TypedStruct;
use nuncio_proto::google::protobuf::{Struct, Value, value};
use prost::Message as _;
use std::borrow::Cow;
use std::sync::Arc;

/// `bytes` of a `message` with each TypedStruct in an Any replaced by the message it names, where Envoy has that.
pub(super) fn resolve<'b>(
    message: &Arc<Message>,
    bytes: &'b [u8],
    schemas: &mut Schemas,
    findings: &mut Findings,
) -> Cow<'b, [u8]> {
    // Nearly no message has any, and searching is far cheaper than copying.
    if memchr::memmem::find(bytes, b".TypedStruct").is_none() {
        return Cow::Borrowed(bytes);
    }
    let mut resolver = Resolver { schemas, findings, out: Vec::with_capacity(bytes.len()), depth: 0 };
    match resolver.message(message, bytes, &Path::ROOT) {
        Ok(()) => Cow::Owned(resolver.out),
        // The check that follows says what is malformed.
        Err(Malformed) => Cow::Borrowed(bytes),
    }
}

struct Resolver<'a> {
    schemas: &'a mut Schemas,
    findings: &'a mut Findings,
    out: Vec<u8>,
    depth: usize,
}

impl Resolver<'_> {
    fn message(&mut self, message: &Arc<Message>, bytes: &[u8], path: &Path<'_>) -> Result<(), Malformed> {
        if self.depth == MAX_DEPTH {
            return Err(Malformed);
        }
        self.depth += 1;
        let mut counts = vec![0; message.fields.len()];
        let mut rest = bytes;
        while let Some(field) = next_field(message, &mut rest)? {
            let inside = field.known.and_then(|(index, raw)| match raw {
                Raw::Bytes(inside) => Some((index, message.fields[index].message()?, inside)),
                _ => None,
            });
            let Some((index, id, inside)) = inside else {
                self.out.extend_from_slice(field.whole);
                continue;
            };
            let schema = &message.fields[index];
            let path = path.field(&schema.name);
            let inner = self.schemas.message(id);
            self.nested(field.number, |r| match schema.label {
                Label::Single => r.value(&inner, &inside, &path),
                Label::Repeated => r.value(&inner, &inside, &path.index(counts[index])),
                Label::Map => r.pair(&inner, &inside, &path),
            })?;
            counts[index] += 1;
        }
        self.depth -= 1;
        Ok(())
    }

    fn value(&mut self, message: &Arc<Message>, bytes: &[u8], path: &Path<'_>) -> Result<(), Malformed> {
        match message.known {
            Known::Any => self.any(message, bytes, path),
            _ => self.message(message, bytes, path),
        }
    }

    /// An entry of a map, whose value goes by its key.
    fn pair(&mut self, entry: &Arc<Message>, bytes: &[u8], path: &Path<'_>) -> Result<(), Malformed> {
        let key = Fields::parse(entry, bytes)?.key_text(entry);
        let path = path.key(&key);
        let mut rest = bytes;
        while let Some(field) = next_field(entry, &mut rest)? {
            match (entry.fields[1].message(), field.known) {
                (Some(id), Some((1, Raw::Bytes(inside)))) => {
                    let inner = self.schemas.message(id);
                    self.nested(field.number, |r| r.value(&inner, &inside, &path))?;
                }
                _ => self.out.extend_from_slice(field.whole),
            }
        }
        Ok(())
    }

    fn any(&mut self, any: &Arc<Message>, bytes: &[u8], path: &Path<'_>) -> Result<(), Malformed> {
        let (mut url, mut value) = (Cow::Borrowed(&[][..]), Cow::Borrowed(&[][..]));
        let mut rest = bytes;
        while let Some(field) = next_field(any, &mut rest)? {
            match field.known {
                Some((0, Raw::Bytes(bytes))) => url = bytes,
                Some((_, Raw::Bytes(bytes))) => value = bytes,
                _ => {}
            }
        }
        let name = std::str::from_utf8(&url).map_err(|_| Malformed)?;
        let message = self.schemas.find(type_name(name));
        match message {
            Some(message) if message.known == Known::TypedStruct => {
                if let Some((name, value)) = self.typed_struct(&value, path) {
                    wire::bytes(1, format!("type.googleapis.com/{name}").as_bytes(), &mut self.out);
                    wire::bytes(2, &value, &mut self.out);
                    return Ok(());
                }
            }
            Some(message) if message.known == Known::Ordinary => {
                wire::bytes(1, &url, &mut self.out);
                return self.nested(2, |r| r.message(&message, &value, path));
            }
            _ => {}
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// Name and bytes of the message that a TypedStruct holds, if it can be told.
    fn typed_struct(&mut self, bytes: &[u8], path: &Path<'_>) -> Option<(String, Vec<u8>)> {
        let held = TypedStruct::decode(bytes).ok()?;
        let message = self.schemas.find(type_name(&held.type_url))?;
        let tree = tree(held.value.unwrap_or_default()).ok()?;
        let before = self.findings.refused.len();
        let bytes = encode_in_any(&tree, &message, path, self.schemas, self.findings);
        // The tree was made here, so its positions mean nothing.
        self.findings.refused[before..].iter_mut().for_each(|found| found.at = None);
        Some((message.name.to_string(), bytes))
    }

    fn nested(&mut self, number: u32, body: impl FnOnce(&mut Self) -> Result<(), Malformed>) -> Result<(), Malformed> {
        wire::key(number, wire::LENGTH, &mut self.out);
        let start = self.out.len();
        self.out.push(0);
        body(self)?;
        wire::fill_length(start, &mut self.out);
        Ok(())
    }
}

const NOWHERE: Position = Position { line: 1, column: 1 };

fn tree(root: Struct) -> Result<Tree, SyntaxError> {
    let mut builder = Builder::new(0);
    structure(root, &mut builder)?;
    Ok(builder.finish().expect("a struct makes a root"))
}

fn structure(value: Struct, builder: &mut Builder) -> Result<(), SyntaxError> {
    builder.begin(Kind::Mapping, NOWHERE)?;
    let mut fields: Vec<_> = value.fields.into_iter().collect();
    // A map has no order; findings should.
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    for (key, value) in fields {
        builder.scalar(Kind::Quoted, &key, NOWHERE);
        json_value(value, builder)?;
    }
    builder.end();
    Ok(())
}

fn json_value(value: Value, builder: &mut Builder) -> Result<(), SyntaxError> {
    let (kind, text) = match value.kind {
        None | Some(value::Kind::NullValue(_)) => (Kind::Plain, "null".to_owned()),
        Some(value::Kind::BoolValue(value)) => (Kind::Plain, value.to_string()),
        Some(value::Kind::NumberValue(number)) => (Kind::Number, number.to_string()),
        Some(value::Kind::StringValue(text)) => (Kind::Quoted, text),
        Some(value::Kind::StructValue(value)) => return structure(value, builder),
        Some(value::Kind::ListValue(list)) => {
            builder.begin(Kind::Sequence, NOWHERE)?;
            for value in list.values {
                json_value(value, builder)?;
            }
            builder.end();
            return Ok(());
        }
    };
    builder.scalar(kind, &text, NOWHERE);
    Ok(())
}
