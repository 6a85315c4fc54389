//! HTTP/2 SETTINGS that have no field of their own in the configuration (`custom_settings_parameters`).

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::config::core::v3::http2_protocol_options::SettingsParameter;

use super::Http2Options;

/// RFC 9113 §6.5.2 and RFC 8441 §3.
mod id {
    pub(super) const HEADER_TABLE_SIZE: u16 = 1;
    pub(super) const ENABLE_PUSH: u16 = 2;
    pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(super) const MAX_FRAME_SIZE: u16 = 5;
    pub(super) const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// RFC 9113 §6.5.2: what a window, and what a frame may hold.
const WINDOWS: RangeInclusive<u32> = 0..=(1 << 31) - 1;
const FRAMES: RangeInclusive<u32> = 1 << 14..=(1 << 24) - 1;

/// Those of `custom_settings_parameters`, each of which is said but once.
pub(super) struct CustomSettings(BTreeMap<u16, u32>);

// === impl CustomSettings ===

impl CustomSettings {
    pub(super) fn lower(proto: &core::Http2ProtocolOptions, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let mut found = BTreeMap::new();
        let mut inconsistent = Vec::new();
        for parameter in &proto.custom_settings_parameters {
            let SettingsParameter { identifier, value } = parameter;
            // The rules of the message want both, and identifiers of 16 bits.
            let id = identifier.and_then(|id| u16::try_from(id.value).ok()).unwrap_or_default();
            let value = value.map_or(0, |value| value.value);
            if *found.entry(id).or_insert(value) != value && !inconsistent.contains(&id) {
                inconsistent.push(id);
            }
        }
        let lowered = cx.at("custom_settings_parameters", |cx| check(proto, &found, &inconsistent, cx));
        lowered.map(|()| Self(found))
    }

    /// Has `options` say what is known there, which leaves what is to be said beside it.
    pub(super) fn apply(mut self, options: &mut Http2Options) {
        // Push is never enabled.
        self.0.remove(&id::ENABLE_PUSH);
        if let Some(size) = self.0.remove(&id::HEADER_TABLE_SIZE) {
            options.hpack_table_size = size;
        }
        if let Some(size) = self.0.remove(&id::INITIAL_WINDOW_SIZE) {
            options.initial_stream_window_size = size;
        }
        options.max_frame_size = self.0.remove(&id::MAX_FRAME_SIZE);
        options.further_settings = self.0.into_iter().collect();
    }
}

/// In Envoy's words, where it has any.
fn check(
    proto: &core::Http2ProtocolOptions,
    found: &BTreeMap<u16, u32>,
    inconsistent: &[u16],
    cx: &mut LowerCx<'_>,
) -> Result<(), Refused> {
    if !inconsistent.is_empty() {
        let ids: Vec<String> = inconsistent.iter().map(|id| format!("{id:#x}")).collect();
        return Err(cx.invalid(format!(
            "inconsistent HTTP/2 custom SETTINGS parameter(s) detected; identifiers = {{{}}}",
            ids.join(",")
        )));
    }
    if found.contains_key(&id::ENABLE_CONNECT_PROTOCOL) {
        return Err(
            cx.invalid("the \"allow_connect\" SETTINGS parameter must only be configured through the named field")
        );
    }
    if found.get(&id::ENABLE_PUSH).is_some_and(|value| *value != 0) {
        return Err(cx.invalid("server push is not supported and can not be enabled via a SETTINGS parameter."));
    }
    let named = [
        (id::HEADER_TABLE_SIZE, "hpack_table_size", proto.hpack_table_size.is_some()),
        (id::MAX_CONCURRENT_STREAMS, "max_concurrent_streams", proto.max_concurrent_streams.is_some()),
        (id::INITIAL_WINDOW_SIZE, "initial_stream_window_size", proto.initial_stream_window_size.is_some()),
    ];
    let twice: Vec<&str> =
        named.iter().filter(|(id, _, is_set)| *is_set && found.contains_key(id)).map(|(_, name, _)| *name).collect();
    if !twice.is_empty() {
        return Err(cx.invalid(format!(
            "the {{{}}} HTTP/2 SETTINGS parameter(s) can not be configured through both named and custom parameters",
            twice.join(",")
        )));
    }
    // A peer would end the connection for them.
    for (id, allowed) in [(id::INITIAL_WINDOW_SIZE, WINDOWS), (id::MAX_FRAME_SIZE, FRAMES)] {
        if let Some(value) = found.get(&id).filter(|value| !allowed.contains(value)) {
            return Err(cx.invalid(format!("{value} is no value that the parameter {id:#x} may have")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use nuncio_proto::google::protobuf;

    use super::*;

    fn settings(parameters: &[(u32, u32)]) -> Result<Http2Options, String> {
        let number = |value| Some(protobuf::UInt32Value { value });
        let parameter = |(id, value): &(u32, u32)| SettingsParameter { identifier: number(*id), value: number(*value) };
        let proto = core::Http2ProtocolOptions {
            custom_settings_parameters: parameters.iter().map(parameter).collect(),
            max_concurrent_streams: number(7),
            ..Default::default()
        };
        let env = crate::testing::env();
        let mut cx = LowerCx::new(&env);
        let lowered = Http2Options::lower(Some(proto), &mut cx);
        lowered.map_err(|_| cx.finish().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn settings_of_the_users_own_are_sent_or_applied() {
        let http2 = settings(&[(0xabcd, 5), (2, 0), (4, 70_000), (16, 3), (16, 3), (5, 20_000)]).unwrap();
        assert_eq!(http2.further_settings[..], [(16, 3), (0xabcd, 5)]);
        assert_eq!((http2.initial_stream_window_size, http2.max_frame_size), (70_000, Some(20_000)));
    }

    #[test]
    fn settings_that_contradict_others_are_refused() {
        let check = |parameters: &[(u32, u32)], reason: &str| {
            assert_eq!(settings(parameters).unwrap_err(), format!("custom_settings_parameters: {reason}"));
        };
        check(
            &[(16, 3), (16, 4), (17, 1), (17, 2)],
            "inconsistent HTTP/2 custom SETTINGS parameter(s) detected; identifiers = {0x10,0x11}",
        );
        check(&[(8, 1)], "the \"allow_connect\" SETTINGS parameter must only be configured through the named field");
        check(&[(2, 1)], "server push is not supported and can not be enabled via a SETTINGS parameter.");
        check(
            &[(3, 1)],
            "the {max_concurrent_streams} HTTP/2 SETTINGS parameter(s) can not be configured through both named and \
             custom parameters",
        );
        check(&[(5, 1)], "1 is no value that the parameter 0x5 may have");
        check(&[(4, u32::MAX)], "4294967295 is no value that the parameter 0x4 may have");
    }
}
