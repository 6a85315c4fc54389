//! Names of resources that say where they are to be had: `xdstp://authority/type/id?context`.
//!
//! One that is written differently and means the same is the same: names are told, and compared, in their canonical form.

use std::collections::BTreeMap;
use std::fmt;

use nuncio_proto::envoy::config::core::v3::{Node, node::UserAgentVersionType};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::metadata::{object, whole_numbers};

/// What Envoy writes out in no part of a name.
const ALWAYS: AsciiSet = CONTROLS.add(b'~').add(b'%').add(b'#');
const IN_AUTHORITY: AsciiSet = ALWAYS.add(b'/').add(b'?');
const IN_ID: AsciiSet = ALWAYS.add(b'?').add(b'[').add(b']');
const IN_CONTEXT: AsciiSet = ALWAYS.add(b'[').add(b']').add(b'&').add(b'=');

const SCHEME: &str = "xdstp:";
/// The last part of an id that stands for all of a folder.
const GLOB: &str = "*";

/// A name in its parts, or the collection of all in a folder where its id ends in `/*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceName {
    authority: String,
    resource_type: String,
    id: String,
    context: BTreeMap<String, String>,
}

/// Whether a name is of this form, and not just any text.
pub fn is_xdstp(name: &str) -> bool {
    name.starts_with(SCHEME)
}

/// The name in its canonical form, if it is of this form.
pub fn canonical(name: &str) -> Option<String> {
    if !is_xdstp(name) {
        return None;
    }
    ResourceName::parse(name).ok().map(|name| name.to_string())
}

/// The collection that a resource of this name is a member of, if it is of this form.
pub fn collection_of(name: &str) -> Option<String> {
    if !is_xdstp(name) {
        return None;
    }
    let name = ResourceName::parse(name).ok()?;
    let id = match name.id.rsplit_once('/') {
        Some((folder, _)) => format!("{folder}/{GLOB}"),
        None => GLOB.to_owned(),
    };
    Some(ResourceName { id, ..name }.to_string())
}

/// Whether a resource is a member of a collection, where both names are in their canonical form.
pub fn is_member(collection: &str, name: &str) -> bool {
    let parts = |name: &'_ str| {
        let (path, context) = name.split_at(name.find('?').unwrap_or(name.len()));
        path.rfind('/').map(|at| (at + 1, path.len(), context.len()))
    };
    let (Some((folder, end, context)), Some((other_folder, other_end, other_context))) =
        (parts(collection), parts(name))
    else {
        return false;
    };
    collection[folder..end] == *GLOB
        && (folder, context) == (other_folder, other_context)
        && collection[..folder] == name[..folder]
        && collection[end..] == name[other_end..]
}

/// What of `node` is a part of the context of collections (`node_context_params`).
pub fn node_context(params: &[String], node: &Node) -> BTreeMap<String, String> {
    let locality = node.locality.clone().unwrap_or_default();
    let (agent_version, build) = match node.user_agent_version_type.clone() {
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => (String::new(), build),
        Some(UserAgentVersionType::UserAgentVersion(version)) => (version, Default::default()),
        None => Default::default(),
    };
    let mut context = BTreeMap::new();
    for param in params {
        let text = match param.as_str() {
            "id" => node.id.clone(),
            "cluster" => node.cluster.clone(),
            "user_agent_name" => node.user_agent_name.clone(),
            "user_agent_version" => agent_version.clone(),
            "user_agent_build_version.version" => {
                let version = build.version.unwrap_or_default();
                format!("{}.{}.{}", version.major_number, version.minor_number, version.patch)
            }
            "locality.region" => locality.region.clone(),
            "locality.zone" => locality.zone.clone(),
            "locality.sub_zone" => locality.sub_zone.clone(),
            "metadata" | "user_agent_build_version.metadata" => {
                let metadata = if param == "metadata" { &node.metadata } else { &build.metadata };
                let fields = object(metadata.clone().unwrap_or_default());
                let named = |(key, value)| (format!("xds.node.{param}.{key}"), whole_numbers(value).to_string());
                context.extend(fields.into_iter().map(named));
                continue;
            }
            // As Envoy, which says nothing either.
            _ => continue,
        };
        context.insert(format!("xds.node.{param}"), text);
    }
    context
}

// === impl ResourceName ===

impl ResourceName {
    /// The parts of a name; the reason where it is none.
    pub fn parse(name: &str) -> Result<Self, String> {
        if !is_xdstp(name) {
            return Err(format!("{name} does not have an {SCHEME} scheme"));
        }
        let rest = name.split_once("://").map_or(name, |(_, rest)| rest);
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let (resource_type, id) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
        if resource_type.is_empty() {
            return Err(format!("Resource type missing from {path}"));
        }
        let mut context = BTreeMap::new();
        for param in query.split('&').filter(|_| !query.is_empty()) {
            let (key, value) = param.split_once('=').unwrap_or((param, ""));
            // Envoy: of two the first counts.
            context.entry(decoded(key)).or_insert_with(|| decoded(value));
        }
        Ok(Self { authority: decoded(authority), resource_type: resource_type.to_owned(), id: decoded(id), context })
    }

    /// A collection of resources of this type; the reason where it is none.
    pub fn parse_collection(locator: &str, resource_type: &str) -> Result<Self, String> {
        if let Some(scheme) = ["http:", "file:"].into_iter().find(|scheme| locator.starts_with(scheme)) {
            return Err(format!("{scheme} of a collection is not implemented yet"));
        }
        if !is_xdstp(locator) {
            return Err(format!("{locator} does not have a xdstp:, http: or file: scheme"));
        }
        // Envoy takes them for a part of the id.
        if let Some((_, directives)) = locator.split_once('#') {
            return Err(format!("the directives {directives:?} of a collection are not implemented yet"));
        }
        let name = Self::parse(locator)?;
        if name.resource_type != resource_type {
            return Err(format!("xdstp:// type does not match {resource_type} in {name}"));
        }
        Ok(name)
    }

    /// Who has it.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The same, within a context of which its own goes before.
    #[must_use]
    pub fn within(&self, context: &BTreeMap<String, String>) -> Self {
        let mut name = self.clone();
        for (key, value) in context {
            name.context.entry(key.clone()).or_insert_with(|| value.clone());
        }
        name
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = utf8_percent_encode(&self.authority, &IN_AUTHORITY);
        write!(f, "{SCHEME}//{authority}/{}", self.resource_type)?;
        if !self.id.is_empty() {
            write!(f, "/{}", utf8_percent_encode(&self.id, &IN_ID))?;
        }
        for (place, (key, value)) in self.context.iter().enumerate() {
            let mark = if place == 0 { '?' } else { '&' };
            let [key, value] = [key, value].map(|text| utf8_percent_encode(text, &IN_CONTEXT));
            write!(f, "{mark}{key}={value}")?;
        }
        Ok(())
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nuncio_proto::envoy::config::core::v3::Locality;
    use nuncio_proto::google::protobuf::{ListValue, Struct, Value, value::Kind};

    /// Each as Envoy 1.40 asks for it.
    #[test]
    fn a_name_has_one_form() {
        let specials = || (0x20..0x7f_u8).filter(|byte| !byte.is_ascii_alphanumeric());
        let all: String = specials().map(|byte| format!("%{byte:02x}")).collect();
        for (name, form) in [
            ("xdstp://a/T/x?b=1&a=2%20".to_owned(), "xdstp://a/T/x?a=2 &b=1"),
            (format!("xdstp://a{all}/T/x"), r##"xdstp://a !"%23$%25&'()*+,-.%2F:;<=>%3F@[\]^_`{|}%7E/T/x"##),
            (format!("xdstp://a/T/x{all}y"), r##"xdstp://a/T/x !"%23$%25&'()*+,-./:;<=>%3F@%5B\%5D^_`{|}%7Ey"##),
            (
                format!("xdstp://a/T/x?k{all}=v{all}"),
                concat!(
                    r##"xdstp://a/T/x?k !"%23$%25%26'()*+,-./:;<%3D>?@%5B\%5D^_`{|}%7E="##,
                    r##"v !"%23$%25%26'()*+,-./:;<%3D>?@%5B\%5D^_`{|}%7E"##
                ),
            ),
            ("xdstp://a/T/x%01%e2%82%ac€%zz%4".to_owned(), "xdstp://a/T/x%01%E2%82%AC%E2%82%AC%25zz%254"),
            ("xdstp://a/T%20%2f/x?".to_owned(), "xdstp://a/T%20%2f/x"),
            ("xdstp://a/T//x/?a==b&&c".to_owned(), "xdstp://a/T//x/?=&a=%3Db&c="),
            ("xdstp:///T/x?a=1&a=2".to_owned(), "xdstp:///T/x?a=1"),
            ("xdstp://a/T/".to_owned(), "xdstp://a/T"),
        ] {
            assert_eq!(canonical(&name).as_deref(), Some(form), "{name}");
            assert_eq!(canonical(form).as_deref(), Some(form), "it is its own form");
        }
        assert_eq!(canonical("plain"), None);
        assert_eq!(ResourceName::parse("xdstp://a"), Err("Resource type missing from /".to_owned()));
    }

    #[test]
    fn a_locator_is_a_collection_of_its_type_or_refused() {
        for (locator, reason) in [
            ("foo", "foo does not have a xdstp:, http: or file: scheme"),
            ("xdstp://a/U/*", "xdstp:// type does not match T in xdstp://a/U/*"),
            ("xdstp:/x", "xdstp:// type does not match T in xdstp://xdstp:/x"),
            ("xdstp://a/", "Resource type missing from /"),
            ("file:///x", "file: of a collection is not implemented yet"),
            ("xdstp://a/T/*#entry=x", "the directives \"entry=x\" of a collection are not implemented yet"),
        ] {
            assert_eq!(ResourceName::parse_collection(locator, "T"), Err(reason.to_owned()));
        }
        assert!(ResourceName::parse_collection("xdstp://a/T/x", "T").is_ok());
    }

    #[test]
    fn members_are_those_in_the_folder_with_the_same_context() {
        for (name, collection) in [
            ("xdstp://a/T/foo/x", "xdstp://a/T/foo/*"),
            ("xdstp://a/T/foo/", "xdstp://a/T/foo/*"),
            ("xdstp://a/T/foo/b/x?z=1&y=2", "xdstp://a/T/foo/b/*?y=2&z=1"),
            ("xdstp://a/T/x", "xdstp://a/T/*"),
        ] {
            assert_eq!(collection_of(name).as_deref(), Some(collection));
            let name = canonical(name).expect("it is such a name");
            assert!(is_member(collection, &name) && !is_member(&name, &name), "{name}");
        }
        for other in ["xdstp://a/T/foo/b/x", "xdstp://a/T/foo/x?y=2", "xdstp://a/T/fob/x", "x"] {
            assert!(!is_member("xdstp://a/T/foo/*", other), "{other}");
        }
        assert_eq!(collection_of("x"), None);
    }

    #[test]
    fn the_node_is_a_part_of_the_context_as_far_as_that_is_asked_for() {
        let list = [Kind::NumberValue(1.0), Kind::NumberValue(0.5), Kind::StringValue("x".into())];
        let values = list.map(|kind| Value { kind: Some(kind) }).into();
        let list = Value { kind: Some(Kind::ListValue(ListValue { values })) };
        let node = Node {
            id: "me".into(),
            cluster: "us".into(),
            locality: Some(Locality { zone: "z&=1".into(), ..Default::default() }),
            metadata: Some(Struct { fields: [("m".to_owned(), list)].into_iter().collect() }),
            ..Default::default()
        };
        let params = ["id", "locality.zone", "locality.region", "metadata", "bogus"].map(str::to_owned);
        let name = ResourceName::parse("xdstp://a/T/*?b=1&xds.node.id=other").unwrap();
        assert_eq!(
            name.within(&node_context(&params, &node)).to_string(),
            "xdstp://a/T/*?b=1&xds.node.id=other&xds.node.locality.region=&xds.node.locality.zone=z%26%3D1\
             &xds.node.metadata.m=%5B1,0.5,\"x\"%5D"
        );
    }
}
