//! The static clusters of an encoded bootstrap, apart from the rest.

use super::wire;
use nuncio_proto::envoy::config::bootstrap::v3::Bootstrap;
use nuncio_proto::envoy::config::cluster::v3::Cluster;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use std::ops::Range;

/// `static_resources` in a bootstrap, and `clusters` in that.
const STATIC_RESOURCES: u32 = 2;
const CLUSTERS: u32 = 2;

/// The static clusters of a bootstrap, encoded.
#[derive(Clone, Debug, Default)]
pub struct StaticClusters {
    bytes: Vec<u8>,
    places: Vec<Range<usize>>,
}

impl StaticClusters {
    /// The bootstrap in `bytes` without its static clusters, and those.
    pub(super) fn split(bytes: Vec<u8>) -> (Vec<u8>, Self) {
        let (mut rest, mut places) = (Vec::new(), Vec::new());
        for (number, whole, body) in fields(&bytes, 0..bytes.len()) {
            match body {
                Some(body) if number == STATIC_RESOURCES => {
                    wire::key(STATIC_RESOURCES, wire::LENGTH, &mut rest);
                    let start = rest.len();
                    rest.push(0);
                    for (number, whole, body) in fields(&bytes, body) {
                        match body {
                            Some(body) if number == CLUSTERS => places.push(body),
                            _ => rest.extend_from_slice(&bytes[whole]),
                        }
                    }
                    wire::fill_length(start, &mut rest);
                }
                _ => rest.extend_from_slice(&bytes[whole]),
            }
        }
        (rest, Self { bytes, places })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Decodes one after the other. An error would mean that the loader let a message pass which prost refuses.
    pub fn iter(&self) -> impl Iterator<Item = Result<Cluster, prost::DecodeError>> + '_ {
        self.encoded().map(Cluster::decode)
    }

    /// Each of them, encoded.
    pub fn encoded(&self) -> impl Iterator<Item = &[u8]> {
        self.places.iter().map(|place| &self.bytes[place.clone()])
    }

    /// The bootstrap without them.
    pub fn rest(&self) -> Bootstrap {
        // What the loader checked decodes.
        Bootstrap::decode(&*Self::split(self.bytes.clone()).0).unwrap_or_default()
    }

    /// The whole bootstrap as it was merged, clusters included, encoded.
    pub fn bootstrap(&self) -> &[u8] {
        &self.bytes
    }
}

/// Number, whole extent and, of a length-delimited field, extent of the value, for each field in `within`.
fn fields(bytes: &[u8], within: Range<usize>) -> impl Iterator<Item = (u32, Range<usize>, Option<Range<usize>>)> {
    let end = within.end;
    let mut start = within.start;
    std::iter::from_fn(move || {
        let mut rest = &bytes[start..end];
        let (number, wire) = decode_key(&mut rest).ok()?;
        let mut value = rest;
        skip_field(wire, number, &mut rest, DecodeContext::default()).ok()?;
        let whole = start..end - rest.len();
        start = whole.end;
        let body = (wire == WireType::LengthDelimited).then(|| {
            // Skipping it read the same length.
            let _ = decode_varint(&mut value);
            end - value.len()..whole.end
        });
        Some((number, whole, body))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nuncio_proto::envoy::config::bootstrap::v3::bootstrap::StaticResources;
    use nuncio_proto::envoy::config::core::v3::Node;

    fn bootstrap(names: &[&str], node: &str) -> Bootstrap {
        let clusters = names.iter().map(|n| Cluster { name: n.to_string(), ..Default::default() }).collect();
        Bootstrap {
            node: Some(Node { id: node.into(), ..Default::default() }),
            static_resources: Some(StaticResources { clusters, ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn clusters_of_merged_bootstraps_come_apart() {
        let mut bytes = bootstrap(&["a", "b"], "first").encode_to_vec();
        bytes.extend(bootstrap(&["c"], "second").encode_to_vec());
        let (rest, clusters) = StaticClusters::split(bytes.clone());
        assert_eq!(Bootstrap::decode(&rest[..]).expect("it decodes"), bootstrap(&[], "second"));
        let names: Vec<String> = clusters.iter().map(|c| c.expect("it decodes").name).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(clusters.bootstrap(), bytes);
        assert_eq!(clusters.rest(), bootstrap(&[], "second"));
        assert_eq!(clusters.encoded().count(), 3);
    }
}
