//! Packs every descriptor that nuncio reads at run time into OUT_DIR:
//!
//! - `files.bin`: a `FileDescriptorSet` of Envoy's files and ours, without comments (4/5 of the size);
//! - `files.idx`: first byte and length of each file in it, two `u32` little endian;
//! - `types.txt`: one line per type, sorted: full name, `m`essage, map `p`air or `e`num, number of its file.

use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Our own files, for messages that the crate `envoy-types` lacks.
const OWN: &[&str] = &[
    "nuncio/route_check.proto",
    "udpa/type/v1/typed_struct.proto",
    "xds/type/matcher/v3/cel.proto",
    "xds/type/matcher/v3/domain.proto",
    "xds/type/matcher/v3/http_inputs.proto",
    "xds/type/matcher/v3/ip.proto",
    "xds/type/v3/typed_struct.proto",
];

/// Folders of the crate `envoy-types` below which the files lie that ours import.
const IMPORTS: &[&str] = &["data-plane-api", "protoc-gen-validate", "xds", "googleapis", "cel-spec/proto"];

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", here.join("../Cargo.lock").display());
    for own in OWN {
        println!("cargo::rerun-if-changed={own}");
    }

    let envoy_types = envoy_types(&here);
    let envoy = fs::read(envoy_types.join("src/generated/types.bin")).expect("envoy-types ships its descriptors");
    let ours = compile(&here, &envoy_types.join("proto"));
    let mut packed = Packed::default();
    for set in [&envoy[..], &ours[..]] {
        each_file(set, |file| packed.add(file));
    }
    packed.write(&out);
}

/// The folder of the crate envoy-types. The platform filter matters: without it cargo wants the manifests of crates
/// of other platforms, which a machine that only built for its own never downloaded.
fn envoy_types(here: &Path) -> PathBuf {
    let output = Command::new(env::var_os("CARGO").expect("cargo sets it"))
        .args(["metadata", "--offline", "--format-version", "1", "--filter-platform"])
        .arg(env::var_os("TARGET").expect("cargo sets it"))
        .arg("--manifest-path")
        .arg(here.join("Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("format version 1 lists packages");
    let package = packages.iter().find(|p| p["name"] == "envoy-types").expect("envoy-types is a dependency");
    let manifest = package["manifest_path"].as_str().expect("each package has a manifest");
    Path::new(manifest).parent().expect("a manifest lies in a folder").to_owned()
}

fn compile(here: &Path, imports: &Path) -> Vec<u8> {
    let folders = std::iter::once(here.to_owned()).chain(IMPORTS.iter().map(|folder| imports.join(folder)));
    let mut compiler = protox::Compiler::new(folders).expect("our folder and those of envoy-types are readable");
    compiler.include_imports(true);
    compiler.open_files(OWN).expect("our .proto files compile");
    compiler.encode_file_descriptor_set()
}

/// Calls `visit` with the bytes of each file of an encoded `FileDescriptorSet`.
fn each_file(set: &[u8], mut visit: impl FnMut(&[u8])) {
    let mut rest = set;
    while !rest.is_empty() {
        let (_, wire) = decode_key(&mut rest).expect("a FileDescriptorSet");
        assert_eq!(wire, WireType::LengthDelimited, "a FileDescriptorSet holds only files");
        let len = decode_varint(&mut rest).expect("a FileDescriptorSet") as usize;
        let (file, tail) = rest.split_at(len);
        visit(file);
        rest = tail;
    }
}

/// Fields that Envoy has and the crate `envoy-types` lacks: message, field, number. They are texts, which stand in no
/// generated type: who wants one decodes it by itself.
const LACKING: &[(&str, &str, u32)] = &[("envoy.config.core.v3.HealthCheck", "name", 27)];

/// `file` with the fields that its messages lack.
fn with_lacking(file: &[u8]) -> Vec<u8> {
    const MESSAGE_TYPE: u32 = 4;
    let described = FileDescriptorProto::decode(file).expect("a FileDescriptorProto");
    let mut messages = described.message_type.iter();
    let mut whole = Vec::new();
    let mut rest = file;
    while !rest.is_empty() {
        let start = rest;
        let (number, wire) = decode_key(&mut rest).expect("a FileDescriptorProto");
        let inner = rest;
        skip_field(wire, number, &mut rest, DecodeContext::default()).expect("a FileDescriptorProto");
        if number != MESSAGE_TYPE {
            whole.extend_from_slice(&start[..start.len() - rest.len()]);
            continue;
        }
        let mut body = &inner[..inner.len() - rest.len()];
        decode_varint(&mut body).expect("a FileDescriptorProto");
        let message = messages.next().expect("each message was decoded");
        let name = format!("{}.{}", described.package(), message.name());
        let lacking =
            LACKING.iter().filter(|(of, ..)| *of == name).flat_map(|(_, field, number)| lacking(field, *number));
        let body: Vec<u8> = body.iter().copied().chain(lacking).collect();
        encode_key(MESSAGE_TYPE, WireType::LengthDelimited, &mut whole);
        encode_varint(body.len() as u64, &mut whole);
        whole.extend_from_slice(&body);
    }
    whole
}

/// A text as a field of a `DescriptorProto`.
fn lacking(name: &str, number: u32) -> Vec<u8> {
    const FIELD: u32 = 2;
    let field = FieldDescriptorProto {
        name: Some(name.to_owned()),
        json_name: Some(name.to_owned()),
        number: i32::try_from(number).ok(),
        label: Some(Label::Optional.into()),
        r#type: Some(Type::String.into()),
        ..FieldDescriptorProto::default()
    };
    let mut encoded = Vec::new();
    encode_key(FIELD, WireType::LengthDelimited, &mut encoded);
    encode_varint(field.encoded_len() as u64, &mut encoded);
    encoded.extend(field.encode_to_vec());
    encoded
}

/// `file` without its source info. Done on bytes, since decoding into prost-types would lose the extension options.
fn without_comments(file: &[u8]) -> Vec<u8> {
    const SOURCE_CODE_INFO: u32 = 9;
    let mut kept = Vec::new();
    let mut rest = file;
    while !rest.is_empty() {
        let start = rest;
        let (number, wire) = decode_key(&mut rest).expect("a FileDescriptorProto");
        skip_field(wire, number, &mut rest, DecodeContext::default()).expect("a FileDescriptorProto");
        if number != SOURCE_CODE_INFO {
            kept.extend_from_slice(&start[..start.len() - rest.len()]);
        }
    }
    kept
}

#[derive(Default)]
struct Packed {
    set: Vec<u8>,
    places: Vec<u32>,
    names: BTreeSet<String>,
    types: BTreeMap<String, (char, usize)>,
}

impl Packed {
    fn add(&mut self, file: &[u8]) {
        let kept = with_lacking(&without_comments(file));
        let described = FileDescriptorProto::decode(&kept[..]).expect("a FileDescriptorProto");
        if !self.names.insert(described.name().to_owned()) {
            return;
        }
        encode_key(1, WireType::LengthDelimited, &mut self.set);
        encode_varint(kept.len() as u64, &mut self.set);
        let index = self.places.len() / 2;
        self.places
            .extend([self.set.len(), kept.len()].map(|n| u32::try_from(n).expect("descriptors are below 4 GiB")));
        self.set.extend_from_slice(&kept);
        for message in &described.message_type {
            self.add_message(described.package(), message, index);
        }
        for e in &described.enum_type {
            self.types.insert(format!("{}.{}", described.package(), e.name()), ('e', index));
        }
    }

    fn add_message(&mut self, parent: &str, message: &DescriptorProto, file: usize) {
        let name = format!("{parent}.{}", message.name());
        for nested in &message.nested_type {
            self.add_message(&name, nested, file);
        }
        for e in &message.enum_type {
            self.types.insert(format!("{name}.{}", e.name()), ('e', file));
        }
        let is_map_entry = message.options.as_ref().is_some_and(|o| o.map_entry());
        let kind = if is_map_entry { 'p' } else { 'm' };
        self.types.insert(name, (kind, file));
    }

    fn write(self, out: &Path) {
        let types: String = self.types.iter().map(|(name, (kind, file))| format!("{name} {kind} {file}\n")).collect();
        let places: Vec<u8> = self.places.iter().flat_map(|n| n.to_le_bytes()).collect();
        fs::write(out.join("files.bin"), self.set).expect("OUT_DIR is writable");
        fs::write(out.join("files.idx"), places).expect("OUT_DIR is writable");
        fs::write(out.join("types.txt"), types).expect("OUT_DIR is writable");
    }
}
