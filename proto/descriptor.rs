//! What a message looks like, by its full name: the parts of `descriptor.proto` that loading a config needs, with
//! Envoy's annotations and `validate.rules` as plain fields.

use crate::validate::FieldRules;
use prost::Message;

static FILES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/files.bin"));
static PLACES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/files.idx"));
static TYPES: &str = include_str!(concat!(env!("OUT_DIR"), "/types.txt"));

/// The number of the file that defines the message or enum `full_name`, if Envoy 1.40 has it.
pub fn file_of(full_name: &str) -> Option<usize> {
    let line = find_line(full_name)?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Decodes file number `file`, as [`file_of`] gave it.
pub fn file(file: usize) -> File {
    let number = |at: usize| {
        let bytes = PLACES[at * 4..at * 4 + 4].try_into().expect("the slice has four bytes");
        u32::from_le_bytes(bytes) as usize
    };
    let (start, len) = (number(file * 2), number(file * 2 + 1));
    File::decode(&FILES[start..start + len]).expect("the build script packed decodable files")
}

/// Whether Envoy 1.40 has a message of this full name, supported by nuncio or not.
pub fn is_envoy_type(full_name: &str) -> bool {
    find_line(full_name).is_some_and(is_message)
}

/// The full name of each message of Envoy 1.40, sorted.
pub fn type_names() -> impl Iterator<Item = &'static str> {
    TYPES.lines().filter(|line| is_message(line)).map(name_in)
}

fn is_message(line: &str) -> bool {
    line.split(' ').nth(1) == Some("m")
}

fn name_in(line: &'static str) -> &'static str {
    line.split(' ').next().unwrap_or(line)
}

/// Binary search in sorted lines of different lengths: after each halving, step back to the start of the line.
fn find_line(full_name: &str) -> Option<&'static str> {
    let (mut low, mut high) = (0, TYPES.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let start = TYPES[low..middle].rfind('\n').map_or(low, |n| low + n + 1);
        let end = start + TYPES[start..].find('\n')?;
        let line = &TYPES[start..end];
        match name_in(line).cmp(full_name) {
            std::cmp::Ordering::Equal => return Some(line),
            std::cmp::Ordering::Less => low = end + 1,
            std::cmp::Ordering::Greater => high = start,
        }
    }
    None
}

/// `google.protobuf.FileDescriptorProto`.
#[derive(Clone, PartialEq, Message)]
pub struct File {
    /// Path below the import root, as `envoy/config/route/v3/route.proto`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Prefix of the full names of all types below.
    #[prost(string, tag = "2")]
    pub package: String,
    /// Messages at top level.
    #[prost(message, repeated, tag = "4")]
    pub messages: Vec<MessageType>,
    /// Enums at top level.
    #[prost(message, repeated, tag = "5")]
    pub enums: Vec<EnumType>,
    /// Annotations of the file.
    #[prost(message, optional, tag = "8")]
    pub options: Option<FileOptions>,
    /// `proto2` or empty, `proto3`, `editions`.
    #[prost(string, tag = "12")]
    pub syntax: String,
}

/// `google.protobuf.FileOptions`, the annotations of Envoy.
#[derive(Clone, PartialEq, Message)]
pub struct FileOptions {
    /// `(udpa.annotations.file_status)`.
    #[prost(message, optional, tag = "222707719")]
    pub udpa_status: Option<Status>,
    /// `(xds.annotations.v3.file_status)`.
    #[prost(message, optional, tag = "226829418")]
    pub xds_status: Option<Status>,
}

/// The status annotation of a file, message or field; all its forms number this field alike.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    /// May change without notice.
    #[prost(bool, tag = "1")]
    pub work_in_progress: bool,
}

/// `google.protobuf.DescriptorProto`.
#[derive(Clone, PartialEq, Message)]
pub struct MessageType {
    /// The last part of the full name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Fields in declaration order.
    #[prost(message, repeated, tag = "2")]
    pub fields: Vec<Field>,
    /// Messages declared inside, map entries among them.
    #[prost(message, repeated, tag = "3")]
    pub messages: Vec<MessageType>,
    /// Enums declared inside.
    #[prost(message, repeated, tag = "4")]
    pub enums: Vec<EnumType>,
    /// Options of the message.
    #[prost(message, optional, tag = "7")]
    pub options: Option<MessageOptions>,
    /// Oneofs, those made for proto3 `optional` among them.
    #[prost(message, repeated, tag = "8")]
    pub oneofs: Vec<Oneof>,
}

/// `google.protobuf.MessageOptions`.
#[derive(Clone, PartialEq, Message)]
pub struct MessageOptions {
    /// The message stands for one entry of a map.
    #[prost(bool, tag = "7")]
    pub map_entry: bool,
    /// `(validate.disabled)`: no rule below is enforced.
    #[prost(bool, tag = "1071")]
    pub rules_disabled: bool,
    /// `(validate.ignored)`: the same, at code generation.
    #[prost(bool, tag = "1072")]
    pub rules_ignored: bool,
    /// `(xds.annotations.v3.message_status)`.
    #[prost(message, optional, tag = "226829418")]
    pub status: Option<Status>,
}

/// `google.protobuf.OneofDescriptorProto`.
#[derive(Clone, PartialEq, Message)]
pub struct Oneof {
    /// Name of the oneof.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Options of the oneof.
    #[prost(message, optional, tag = "2")]
    pub options: Option<OneofOptions>,
}

/// `google.protobuf.OneofOptions`.
#[derive(Clone, PartialEq, Message)]
pub struct OneofOptions {
    /// `(validate.required)`: one of its fields must be set.
    #[prost(bool, tag = "1071")]
    pub required: bool,
}

/// `google.protobuf.FieldDescriptorProto`.
#[derive(Clone, PartialEq, Message)]
pub struct Field {
    /// Name in the .proto file.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Number on the wire.
    #[prost(int32, tag = "3")]
    pub number: i32,
    /// 1 optional, 2 required, 3 repeated.
    #[prost(int32, tag = "4")]
    pub label: i32,
    /// `google.protobuf.FieldDescriptorProto.Type`.
    #[prost(int32, tag = "5")]
    pub kind: i32,
    /// Full name with a leading dot, of a message or enum.
    #[prost(string, tag = "6")]
    pub type_name: String,
    /// Options of the field.
    #[prost(message, optional, tag = "8")]
    pub options: Option<FieldOptions>,
    /// The oneof it belongs to.
    #[prost(int32, optional, tag = "9")]
    pub oneof_index: Option<i32>,
    /// Name in JSON.
    #[prost(string, tag = "10")]
    pub json_name: String,
    /// Declared `optional` in proto3; its oneof is synthetic.
    #[prost(bool, tag = "17")]
    pub proto3_optional: bool,
}

/// `google.protobuf.FieldOptions`.
#[derive(Clone, PartialEq, Message)]
pub struct FieldOptions {
    /// Scheduled for removal.
    #[prost(bool, tag = "3")]
    pub deprecated: bool,
    /// `(validate.rules)`.
    #[prost(message, optional, tag = "1071")]
    pub rules: Option<FieldRules>,
    /// `(udpa.annotations.sensitive)`: to be redacted in dumps.
    #[prost(bool, tag = "76569463")]
    pub sensitive: bool,
    /// `(envoy.annotations.deprecated_at_minor_version)`.
    #[prost(string, tag = "157299826")]
    pub deprecated_at: String,
    /// `(envoy.annotations.disallowed_by_default)`.
    #[prost(bool, tag = "189503207")]
    pub disallowed: bool,
    /// `(xds.annotations.v3.field_status)`.
    #[prost(message, optional, tag = "226829418")]
    pub status: Option<Status>,
}

/// `google.protobuf.EnumDescriptorProto`.
#[derive(Clone, PartialEq, Message)]
pub struct EnumType {
    /// The last part of the full name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Values in declaration order.
    #[prost(message, repeated, tag = "2")]
    pub values: Vec<EnumValue>,
}

/// `google.protobuf.EnumValueDescriptorProto`.
#[derive(Clone, PartialEq, Message)]
pub struct EnumValue {
    /// Name in JSON and in the .proto file.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Number on the wire.
    #[prost(int32, tag = "2")]
    pub number: i32,
    /// Options of the value.
    #[prost(message, optional, tag = "3")]
    pub options: Option<EnumValueOptions>,
}

/// `google.protobuf.EnumValueOptions`.
#[derive(Clone, PartialEq, Message)]
pub struct EnumValueOptions {
    /// Scheduled for removal.
    #[prost(bool, tag = "1")]
    pub deprecated: bool,
    /// `(envoy.annotations.disallowed_by_default_enum)`.
    #[prost(bool, tag = "70100853")]
    pub disallowed: bool,
    /// `(envoy.annotations.deprecated_at_minor_version_enum)`.
    #[prost(string, tag = "181198657")]
    pub deprecated_at: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_type_is_found_in_its_file() {
        for line in TYPES.lines() {
            assert_eq!(find_line(name_in(line)), Some(line));
        }
        assert!(type_names().count() > 1500);
    }

    #[test]
    fn a_type_envoy_lacks_is_not_found() {
        for name in ["", "a", "envoy.config.route.v3.Rout", "zzz", "envoy.config.route.v3.Route.", "\u{e9}"] {
            assert_eq!(file_of(name), None, "{name}");
        }
        assert!(!is_envoy_type("envoy.config.cluster.v3.Cluster.LbPolicy"), "an enum is no message");
    }

    #[test]
    fn annotations_and_rules_are_plain_fields() {
        let file = file(file_of("envoy.config.cluster.v3.Cluster").expect("Envoy has clusters"));
        let cluster = file.messages.iter().find(|m| m.name == "Cluster").expect("the index names this file");
        let name = cluster.fields.iter().find(|f| f.name == "name").expect("clusters have names");
        let rules = name.options.as_ref().and_then(|o| o.rules.clone()).and_then(|r| r.r#type);
        let Some(crate::validate::field_rules::Type::String(rules)) = rules else { panic!("no string rules") };
        assert_eq!(rules.min_len, Some(1));
        let hosts = cluster.fields.iter().filter(|f| f.options.as_ref().is_some_and(|o| !o.deprecated_at.is_empty()));
        assert!(hosts.count() > 3);
    }

    #[test]
    fn our_own_messages_are_described() {
        for name in ["xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct", "envoy.config.bootstrap.v3.Bootstrap"] {
            assert!(is_envoy_type(name), "{name}");
        }
    }
}
