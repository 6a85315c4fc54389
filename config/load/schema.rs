//! Messages as loading needs them: fields by name and number, rules compiled, annotations noted.
//!
//! A [`Schemas`] compiles a message when a config first uses it, all messages of its file at once, and keeps it.

use super::rules::{self, Rules};
use nuncio_proto::descriptor::{self, EnumType, File, MessageType};
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TypeId(u32);

/// A message type.
pub(super) struct Message {
    pub(super) name: Box<str>,
    /// Sorted by number.
    pub(super) fields: Vec<Field>,
    pub(super) oneofs: Vec<Oneof>,
    /// Fields with rules to hold even if absent, or to look at as a whole: indices into `fields`.
    pub(super) ruled: Vec<u16>,
    /// Fields of an enum that are its zero when absent, whose value may carry a note: indices into `fields`.
    pub(super) enums: Vec<u16>,
    pub(super) known: Known,
    pub(super) work_in_progress: bool,
    by_name: HashMap<Box<str>, u16>,
}

/// A oneof that is written as such; those that proto3 makes for `optional` are left out.
pub(super) struct Oneof {
    pub(super) name: Box<str>,
    pub(super) required: bool,
}

pub(super) struct Field {
    pub(super) number: u32,
    /// As in the .proto file, which is also how paths are written.
    pub(super) name: Box<str>,
    pub(super) kind: Kind,
    pub(super) label: Label,
    /// Whether "not set" differs from "set to the default".
    pub(super) has_presence: bool,
    /// Index into `Message::oneofs`.
    pub(super) oneof: Option<u16>,
    pub(super) rules: Option<Box<Rules>>,
    pub(super) note: Option<Note>,
    /// Not to be shown.
    pub(super) is_sensitive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    Single,
    Repeated,
    /// The message of the field is the entry, with fields 1 for the key and 2 for the value.
    Map,
}

/// What the annotations of a field or enum value say about using it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    Deprecated,
    /// Deprecated so long that Envoy refuses it.
    Disallowed,
    WorkInProgress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Double,
    Float,
    Int64,
    Uint64,
    Int32,
    Fixed64,
    Fixed32,
    Bool,
    String,
    Bytes,
    Uint32,
    Sfixed32,
    Sfixed64,
    Sint32,
    Sint64,
    Enum(TypeId),
    Message(TypeId),
}

/// Messages to which the JSON mapping gives a form of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Ordinary,
    Any,
    Duration,
    Timestamp,
    FieldMask,
    Struct,
    Value,
    ListValue,
    Wrapper,
    TypedStruct,
}

pub(super) struct Enum {
    pub(super) name: Box<str>,
    pub(super) values: Vec<EnumValue>,
    /// Whether any value carries a note, so that uses must be looked at.
    pub(super) noted: bool,
}

pub(super) struct EnumValue {
    pub(super) name: Box<str>,
    pub(super) number: i32,
    pub(super) note: Option<Note>,
}

impl Message {
    /// The field of this name, in the casing of the .proto file or of JSON.
    pub(super) fn field_named(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).map(|index| usize::from(*index))
    }

    pub(super) fn field_numbered(&self, number: u32) -> Option<usize> {
        // Most messages number their fields from 1 without gaps.
        let guess = (number as usize).wrapping_sub(1);
        if self.fields.get(guess).is_some_and(|f| f.number == number) {
            return Some(guess);
        }
        self.fields.binary_search_by_key(&number, |f| f.number).ok()
    }

    /// Every name a field goes by.
    pub(super) fn field_names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|f| &*f.name)
    }
}

impl Field {
    pub(super) fn message(&self) -> Option<TypeId> {
        match self.kind {
            Kind::Message(id) => Some(id),
            _ => None,
        }
    }
}

impl Enum {
    pub(super) fn numbered(&self, number: i32) -> Option<&EnumValue> {
        self.values.iter().find(|v| v.number == number)
    }

    /// The value of this name; like Envoy, without regard to case.
    pub(super) fn named(&self, name: &str) -> Option<&EnumValue> {
        self.values.iter().find(|v| v.name.eq_ignore_ascii_case(name))
    }
}

/// Compiled message and enum types, each made at first use.
#[derive(Default)]
pub(super) struct Schemas {
    ids: HashMap<Box<str>, TypeId>,
    types: Vec<Slot>,
}

enum Slot {
    /// Only its name was met so far.
    Named(Box<str>),
    Message(Arc<Message>),
    Enum(Arc<Enum>),
}

impl Schemas {
    /// The message of this full name, if Envoy or nuncio has it.
    pub(super) fn find(&mut self, full_name: &str) -> Option<Arc<Message>> {
        if !descriptor::is_envoy_type(full_name) {
            return None;
        }
        let id = self.intern(full_name);
        Some(self.message(id))
    }

    /// The message type `id`, which came from a field of kind message.
    pub(super) fn message(&mut self, id: TypeId) -> Arc<Message> {
        self.compile(id);
        match &self.types[id.0 as usize] {
            Slot::Message(message) => Arc::clone(message),
            Slot::Enum(_) | Slot::Named(_) => unreachable!("descriptors tell messages from enums, and list each"),
        }
    }

    /// The enum type `id`, which came from a field of kind enum.
    pub(super) fn enumeration(&mut self, id: TypeId) -> Arc<Enum> {
        self.compile(id);
        match &self.types[id.0 as usize] {
            Slot::Enum(e) => Arc::clone(e),
            Slot::Message(_) | Slot::Named(_) => unreachable!("descriptors tell messages from enums, and list each"),
        }
    }

    fn intern(&mut self, full_name: &str) -> TypeId {
        if let Some(id) = self.ids.get(full_name) {
            return *id;
        }
        let id = TypeId(self.types.len() as u32);
        self.ids.insert(full_name.into(), id);
        self.types.push(Slot::Named(full_name.into()));
        id
    }

    fn compile(&mut self, id: TypeId) {
        let Slot::Named(name) = &self.types[id.0 as usize] else { return };
        let file = descriptor::file_of(name).expect("descriptors form a closed set");
        let file = descriptor::file(file);
        let prefix = file.package.clone();
        for message in &file.messages {
            self.add_message(&file, &prefix, message);
        }
        for e in &file.enums {
            self.add_enum(&prefix, e);
        }
    }

    fn add_enum(&mut self, parent: &str, described: &EnumType) {
        let name = format!("{parent}.{}", described.name);
        let values: Vec<EnumValue> = described.values.iter().map(enum_value).collect();
        let noted = values.iter().any(|v| v.note.is_some());
        let id = self.intern(&name);
        self.types[id.0 as usize] = Slot::Enum(Arc::new(Enum { name: name.into(), values, noted }));
    }

    fn add_message(&mut self, file: &File, parent: &str, described: &MessageType) {
        let name = format!("{parent}.{}", described.name);
        for nested in &described.messages {
            self.add_message(file, &name, nested);
        }
        for e in &described.enums {
            self.add_enum(&name, e);
        }
        let oneofs = Oneofs::of(described);
        let mut fields: Vec<(Field, &descriptor::Field)> =
            described.fields.iter().map(|f| (self.field(f, described, file, &oneofs), f)).collect();
        fields.sort_by_key(|(field, _)| field.number);
        let mut by_name = HashMap::with_capacity(fields.len() * 2);
        for (index, (field, described)) in fields.iter().enumerate() {
            by_name.insert(field.name.clone(), index as u16);
            by_name.insert(described.json_name.as_str().into(), index as u16);
        }
        let fields: Vec<Field> = fields.into_iter().map(|(field, _)| field).collect();
        let ruled = fields.iter().enumerate().filter(|(_, f)| f.rules.is_some()).map(|(i, _)| i as u16).collect();
        let is_zero_when_absent =
            |f: &Field| matches!(f.kind, Kind::Enum(_)) && f.label == Label::Single && !f.has_presence;
        let enums = fields.iter().enumerate().filter(|(_, f)| is_zero_when_absent(f)).map(|(i, _)| i as u16).collect();
        let message = Message {
            known: known(&name),
            enums,
            work_in_progress: is_work_in_progress(file, described),
            oneofs: oneofs.written,
            ruled,
            fields,
            by_name,
            name: name.as_str().into(),
        };
        let id = self.intern(&name);
        self.types[id.0 as usize] = Slot::Message(Arc::new(message));
    }

    fn field(&mut self, f: &descriptor::Field, message: &MessageType, file: &File, oneofs: &Oneofs) -> Field {
        let kind = self.kind(f);
        let label = match (f.label, kind) {
            (3, Kind::Message(_)) if is_map(f, message) => Label::Map,
            (3, _) => Label::Repeated,
            _ => Label::Single,
        };
        let options = f.options.as_ref();
        let enforced = message.options.as_ref().is_none_or(|o| !o.rules_disabled && !o.rules_ignored);
        // Envoy: its validator of SPIFFE does not look at the rules of its message, and trust_bundles stand in for these.
        let is_free = message.name == "SPIFFECertValidatorConfig" && f.name == "trust_domains";
        let rules = options.and_then(|o| o.rules.clone()).filter(|_| enforced && !is_free);
        let is_proto3 = file.syntax == "proto3";
        Field {
            number: f.number as u32,
            name: f.name.as_str().into(),
            kind,
            label,
            has_presence: label == Label::Single
                && (matches!(kind, Kind::Message(_)) || f.oneof_index.is_some() || !is_proto3),
            oneof: f.oneof_index.and_then(|i| oneofs.kept[i as usize]),
            rules: rules.and_then(rules::compile).map(Box::new),
            note: options.and_then(field_note),
            is_sensitive: options.is_some_and(|o| o.sensitive),
        }
    }

    /// Numbered as `google.protobuf.FieldDescriptorProto.Type`; groups exist in none of the files.
    fn kind(&mut self, f: &descriptor::Field) -> Kind {
        match f.kind {
            1 => Kind::Double,
            2 => Kind::Float,
            3 => Kind::Int64,
            4 => Kind::Uint64,
            5 => Kind::Int32,
            6 => Kind::Fixed64,
            7 => Kind::Fixed32,
            8 => Kind::Bool,
            9 => Kind::String,
            12 => Kind::Bytes,
            13 => Kind::Uint32,
            14 => Kind::Enum(self.intern(f.type_name.trim_start_matches('.'))),
            15 => Kind::Sfixed32,
            16 => Kind::Sfixed64,
            17 => Kind::Sint32,
            18 => Kind::Sint64,
            _ => Kind::Message(self.intern(f.type_name.trim_start_matches('.'))),
        }
    }
}

/// The oneofs of a message, and where each declared one went.
struct Oneofs {
    written: Vec<Oneof>,
    kept: Vec<Option<u16>>,
}

impl Oneofs {
    fn of(message: &MessageType) -> Self {
        let mut all = Self { written: Vec::new(), kept: Vec::new() };
        for (index, oneof) in message.oneofs.iter().enumerate() {
            let synthetic = message.fields.iter().any(|f| f.oneof_index == Some(index as i32) && f.proto3_optional);
            all.kept.push((!synthetic).then_some(all.written.len() as u16));
            if !synthetic {
                let required = oneof.options.as_ref().is_some_and(|o| o.required);
                all.written.push(Oneof { name: oneof.name.as_str().into(), required });
            }
        }
        all
    }
}

fn is_map(f: &descriptor::Field, message: &MessageType) -> bool {
    let name = f.type_name.rsplit('.').next().unwrap_or_default();
    message.messages.iter().any(|m| m.name == name && m.options.as_ref().is_some_and(|o| o.map_entry))
}

fn is_work_in_progress(file: &File, message: &MessageType) -> bool {
    let file = file.options.as_ref();
    let statuses = [
        file.and_then(|o| o.udpa_status.as_ref()),
        file.and_then(|o| o.xds_status.as_ref()),
        message.options.as_ref().and_then(|o| o.status.as_ref()),
    ];
    statuses.into_iter().flatten().any(|s| s.work_in_progress)
}

fn field_note(options: &descriptor::FieldOptions) -> Option<Note> {
    if options.disallowed {
        Some(Note::Disallowed)
    } else if options.deprecated {
        Some(Note::Deprecated)
    } else if options.status.as_ref().is_some_and(|s| s.work_in_progress) {
        Some(Note::WorkInProgress)
    } else {
        None
    }
}

fn enum_value(described: &descriptor::EnumValue) -> EnumValue {
    let options = described.options.clone().unwrap_or_default();
    // Values that are disallowed by default are zeroes all, of which Envoy only warns.
    let note = (options.disallowed || options.deprecated).then_some(Note::Deprecated);
    EnumValue { name: described.name.as_str().into(), number: described.number, note }
}

fn known(name: &str) -> Known {
    if matches!(name, "xds.type.v3.TypedStruct" | "udpa.type.v1.TypedStruct") {
        return Known::TypedStruct;
    }
    match name.strip_prefix("google.protobuf.") {
        Some("Any") => Known::Any,
        Some("Duration") => Known::Duration,
        Some("Timestamp") => Known::Timestamp,
        Some("FieldMask") => Known::FieldMask,
        Some("Struct") => Known::Struct,
        Some("Value") => Known::Value,
        Some("ListValue") => Known::ListValue,
        Some(
            "DoubleValue" | "FloatValue" | "Int64Value" | "UInt64Value" | "Int32Value" | "UInt32Value" | "BoolValue"
            | "StringValue" | "BytesValue",
        ) => Known::Wrapper,
        _ => Known::Ordinary,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_of_envoy_compiles() {
        let mut schemas = Schemas::default();
        for name in nuncio_proto::type_names() {
            let message = schemas.find(name).unwrap_or_else(|| panic!("{name} is listed"));
            for field in &message.fields {
                match field.kind {
                    Kind::Message(id) => drop(schemas.message(id)),
                    Kind::Enum(id) => drop(schemas.enumeration(id)),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn fields_are_found_by_both_casings_and_by_number() {
        let cluster = Schemas::default().find("envoy.config.cluster.v3.Cluster").expect("Envoy has clusters");
        let index = cluster.field_named("connectTimeout").expect("the JSON name is known");
        assert_eq!(cluster.field_named("connect_timeout"), Some(index));
        assert_eq!(cluster.field_numbered(cluster.fields[index].number), Some(index));
        assert_eq!(cluster.field_numbered(0), None);
        assert_eq!(cluster.field_numbered(4000), None);
    }

    #[test]
    fn proto3_optional_makes_presence_but_no_oneof() {
        let mut schemas = Schemas::default();
        let names: Vec<&str> = nuncio_proto::type_names().collect();
        for name in names {
            let message = schemas.find(name).expect("it is listed");
            assert!(message.oneofs.iter().all(|o| !o.name.starts_with('_')), "{name}");
        }
    }
}
