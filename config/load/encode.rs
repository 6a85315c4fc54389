//! A [`Tree`] to the bytes of a message, by the proto3 JSON mapping and, for `.pb_text`, by the text format.
//!
//! Fields are looked up in the schema and written straight to wire format; no message is built in between. What is
//! wrong is recorded with its place, and the walk goes on, so that one run finds everything.

mod known;
mod scalar;
mod suggest;

use super::findings::{Findings, Path};
use super::schema::{Field, Kind as FieldKind, Known, Label, Message, Schemas, TypeId};
use super::tree::{Kind, MAX_DEPTH, NodeId, Tree};
use super::wire;
use nuncio_filter_api::InvalidKind;
use scalar::Encoded;
use std::sync::Arc;

/// Which spelling of messages a tree holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// The proto3 JSON mapping, of YAML too.
    Json,
    /// The text format: well-known types are plain messages, and a repeated field is one named repeatedly.
    Text,
}

/// Encodes the root of `tree` as a `message`.
pub(super) fn encode(
    tree: &Tree,
    spelling: Spelling,
    message: &Arc<Message>,
    schemas: &mut Schemas,
    findings: &mut Findings,
) -> Vec<u8> {
    let mut encoder = Encoder { tree, spelling, schemas, findings, out: Vec::new(), depth: 0, aliases_spent: false };
    encoder.message(message, tree.root(), &Path::ROOT, None);
    encoder.out
}

/// Encodes the root of `tree` as what stands in an Any of the type `message`, by the JSON mapping.
pub(super) fn encode_in_any(
    tree: &Tree,
    message: &Arc<Message>,
    path: &Path<'_>,
    schemas: &mut Schemas,
    findings: &mut Findings,
) -> Vec<u8> {
    let spelling = Spelling::Json;
    let mut encoder = Encoder { tree, spelling, schemas, findings, out: Vec::new(), depth: 0, aliases_spent: false };
    encoder.body(message, tree.root(), path);
    encoder.out
}

struct Encoder<'a> {
    tree: &'a Tree,
    spelling: Spelling,
    schemas: &'a mut Schemas,
    findings: &'a mut Findings,
    out: Vec<u8>,
    /// Messages open around the place the walk has reached.
    depth: usize,
    aliases_spent: bool,
}

/// Which fields and oneofs of a message were met already.
struct Met {
    /// How often each field was, more than once only for repeated fields of the text format; and its first key.
    fields: Vec<(usize, Option<NodeId>)>,
    oneofs: Vec<Option<usize>>,
}

impl<'a> Encoder<'a> {
    /// The fields of `message` from the mapping `node`, leaving out the key `except`.
    fn message(&mut self, message: &Arc<Message>, node: NodeId, path: &Path<'_>, except: Option<&str>) {
        let Some(node) = self.resolve(node, path) else { return };
        if self.tree.kind(node) != Kind::Mapping {
            return self.wrong(node, path, format!("expected a message {}", message.name));
        }
        if self.depth >= MAX_DEPTH {
            return self.wrong(node, path, format!("nested more than {MAX_DEPTH} messages deep"));
        }
        self.depth += 1;
        let mut met = Met { fields: vec![(0, None); message.fields.len()], oneofs: vec![None; message.oneofs.len()] };
        let tree = self.tree;
        for (key, value) in tree.pairs(node) {
            if self.findings.is_full() {
                break;
            }
            let name = tree.text(key);
            if except != Some(name) {
                self.member(message, key, value, &mut met, path);
            }
        }
        self.depth -= 1;
    }

    fn member(&mut self, message: &Arc<Message>, key: NodeId, value: NodeId, met: &mut Met, path: &Path<'_>) {
        let name = self.tree.text(key);
        let at = self.tree.position(key);
        let Some(index) = message.field_named(name) else {
            let path = path.field(name);
            return self.findings.unknown_field(&path, Some(at), message, || suggest::field(message, name));
        };
        let field = &message.fields[index];
        let path = path.field(&field.name);
        let Some(value) = self.resolve(value, &path) else { return };
        if self.tree.is_null(value) && !self.takes_null(field) {
            return;
        }
        let (before, first) = met.fields[index];
        met.fields[index] = (before + 1, first.or(Some(key)));
        let may_repeat = self.spelling == Spelling::Text && field.label != Label::Single;
        if let Some(first) = first.filter(|_| !may_repeat) {
            // Reading the text found those that are spelt alike, but in the text format, which may repeat keys.
            if self.spelling == Spelling::Text || self.tree.text(first) != name {
                self.wrong(key, &path, format!("duplicate key {name:?}"));
            }
            return;
        }
        if let Some(oneof) = field.oneof {
            let earlier = met.oneofs[usize::from(oneof)].replace(index);
            if let Some(earlier) = earlier {
                let (earlier, oneof) = (&message.fields[earlier].name, &message.oneofs[usize::from(oneof)].name);
                return self.wrong(key, &path, format!("only one of {oneof} may be set, and {earlier} is set too"));
            }
        }
        self.field(field, value, before, &path);
    }

    /// The value of a field that may repeat; `before` elements of it were written already.
    fn field(&mut self, field: &Field, node: NodeId, before: usize, path: &Path<'_>) {
        let is_list = self.tree.kind(node) == Kind::Sequence;
        match (field.label, self.spelling) {
            (Label::Single, _) => self.single(field, node, path),
            (Label::Map, Spelling::Json) => self.map(field, node, path),
            (Label::Repeated, _) if is_list && field.message().is_none() => self.packed(field, node, path),
            (Label::Repeated | Label::Map, _) if is_list => {
                for (index, element) in self.tree.children(node).enumerate() {
                    if self.findings.is_full() {
                        break;
                    }
                    self.element(field, element, &path.index(before + index));
                }
            }
            // Envoy takes a lone value for a list of one, and the text format repeats the name of the field.
            (Label::Repeated, _) | (Label::Map, Spelling::Text) => self.element(field, node, &path.index(before)),
        }
    }

    fn single(&mut self, field: &Field, node: NodeId, path: &Path<'_>) {
        match field.kind {
            FieldKind::Message(id) => self.nested(field.number, |e| e.value(id, node, path)),
            kind => {
                let value = self.scalar(kind, node, path);
                if let Some(value) = value.filter(|v| field.has_presence || !v.is_default()) {
                    value.write(field.number, &mut self.out);
                }
            }
        }
    }

    fn element(&mut self, field: &Field, node: NodeId, path: &Path<'_>) {
        let Some(node) = self.resolve(node, path) else { return };
        match field.kind {
            // An element that cannot be read is written empty all the same: indices in later findings must hold.
            FieldKind::Message(id) => self.nested(field.number, |e| {
                if !e.tree.is_null(node) || e.is_value(id) {
                    e.value(id, node, path);
                }
            }),
            kind => {
                let value = self.scalar(kind, node, path).unwrap_or(Encoded::default_of(kind));
                value.write(field.number, &mut self.out);
            }
        }
    }

    fn packed(&mut self, field: &Field, node: NodeId, path: &Path<'_>) {
        if matches!(field.kind, FieldKind::String | FieldKind::Bytes) {
            for (index, element) in self.tree.children(node).enumerate() {
                self.element(field, element, &path.index(index));
            }
            return;
        }
        self.nested(field.number, |e| {
            let tree = e.tree;
            for (index, element) in tree.children(node).enumerate() {
                let path = path.index(index);
                let Some(element) = e.resolve(element, &path) else { return };
                let value = e.scalar(field.kind, element, &path).unwrap_or(Encoded::default_of(field.kind));
                value.write_bare(&mut e.out);
            }
        });
    }

    fn map(&mut self, field: &Field, node: NodeId, path: &Path<'_>) {
        if self.tree.kind(node) != Kind::Mapping {
            return self.wrong(node, path, "expected a mapping".to_owned());
        }
        let Some(id) = field.message() else { return };
        let entry = self.schemas.message(id);
        let [key_field, value_field] = &entry.fields[..] else { return };
        let tree = self.tree;
        for (key, value) in tree.pairs(node) {
            if self.findings.is_full() {
                break;
            }
            let path = path.key(tree.text(key));
            self.nested(field.number, |e| {
                if let Some(key) = e.map_key(key_field.kind, key, &path) {
                    key.write(1, &mut e.out);
                }
                let Some(value) = e.resolve(value, &path) else { return };
                if !e.tree.is_null(value) || e.takes_null(value_field) {
                    e.single(value_field, value, &path);
                }
            });
        }
    }

    /// The body of a message of type `id`, in the form that the spelling gives it.
    fn value(&mut self, id: TypeId, node: NodeId, path: &Path<'_>) {
        let message = self.schemas.message(id);
        self.body(&message, node, path);
    }

    fn body(&mut self, message: &Arc<Message>, node: NodeId, path: &Path<'_>) {
        if self.spelling == Spelling::Text {
            return match message.known {
                Known::Any => self.any_of_text(message, node, path),
                _ => self.message(message, node, path, None),
            };
        }
        match message.known {
            Known::Ordinary | Known::TypedStruct => self.message(message, node, path, None),
            Known::Any => self.any(message, node, path),
            Known::Duration => self.duration(message, node, path),
            Known::Timestamp => self.timestamp(message, node, path),
            Known::FieldMask => self.field_mask(message, node, path),
            Known::Struct => self.structure(node, path),
            Known::Value => self.json_value(node, path),
            Known::ListValue => self.list_value(node, path),
            Known::Wrapper => self.wrapper(message, node, path),
        }
    }

    /// Writes field `number` as what `body` writes, with the length before it.
    fn nested(&mut self, number: u32, body: impl FnOnce(&mut Self)) {
        wire::key(number, wire::LENGTH, &mut self.out);
        let start = self.out.len();
        self.out.push(0);
        body(self);
        wire::fill_length(start, &mut self.out);
    }

    fn takes_null(&mut self, field: &Field) -> bool {
        match field.kind {
            FieldKind::Message(id) => field.label == Label::Single && self.is_value(id),
            FieldKind::Enum(id) => &*self.schemas.enumeration(id).name == "google.protobuf.NullValue",
            _ => false,
        }
    }

    fn is_value(&mut self, id: TypeId) -> bool {
        self.spelling == Spelling::Json && self.schemas.message(id).known == Known::Value
    }

    /// The node that `node` stands for. Once aliases were followed too often that is said, once, and nothing is.
    fn resolve(&mut self, node: NodeId, path: &Path<'_>) -> Option<NodeId> {
        let resolved = self.tree.resolve(node);
        if resolved.is_none() && !self.aliases_spent {
            self.aliases_spent = true;
            self.wrong(node, path, "aliases repeat too much of the document".to_owned());
        }
        resolved
    }

    fn wrong(&mut self, node: NodeId, path: &Path<'_>, reason: String) {
        self.findings.wrong(path, Some(self.tree.position(node)), reason);
    }

    fn unknown_type(&mut self, node: NodeId, path: &Path<'_>, name: &str) {
        let at = Some(self.tree.position(node));
        let reason = format!("unknown type {name:?}");
        self.findings.refuse(InvalidKind::UnknownType, path, at, reason, || suggest::message_type(name));
    }
}
