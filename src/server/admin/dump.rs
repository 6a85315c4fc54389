//! `/config_dump`: the messages that were loaded, in Envoy's order and shape.

mod dynamic;
mod endpoints;
mod extensions;
mod init;
mod names;
mod secrets;
mod statics;

use std::time::{SystemTime, UNIX_EPOCH};

use http::StatusCode;
use nuncio_config::load::{FieldMask, NotRepeated, elements, to_redacted_json};
use nuncio_proto::envoy::admin::v3 as proto;
use nuncio_proto::google::protobuf::{Any, Timestamp};
use prost::{Message, Name};

use super::info::state;
use super::{Admin, Params, Reply};
use names::Names;

pub(super) use dynamic::error_state;
pub(super) use init::init_dump;

/// `/config_dump`
pub(super) fn config_dump(admin: &Admin, params: &Params) -> Reply {
    let names = match Names::parse(params.value("name_regex").unwrap_or_default()) {
        Ok(names) => names,
        Err(error) => return Reply::bad_request(error),
    };
    let sections = sections(admin, &names, params.has("include_eds"));
    let mask = params.value("mask");
    let configs = match params.value("resource").filter(|resource| !resource.is_empty()) {
        Some(resource) => resources(&sections, resource, mask),
        None => masked(sections, mask),
    };
    match configs {
        Ok(configs) => Reply::json(to_redacted_json(&proto::ConfigDump { configs })),
        Err(refusal) => refusal,
    }
}

fn sections(admin: &Admin, names: &Names, include_eds: bool) -> Vec<Any> {
    let bootstrap = admin.bootstrap();
    let last_updated = Some(timestamp(admin.shared.bootstrap.load().since));
    let resources = bootstrap.static_resources.clone().unwrap_or_default();
    let clusters = proto::ClustersConfigDump {
        static_clusters: statics::clusters(&resources, names, last_updated),
        ..dynamic::clusters(admin, names)
    };
    let listeners = proto::ListenersConfigDump {
        static_listeners: statics::listeners(&resources, names, last_updated),
        ..dynamic::listeners(admin, names)
    };
    let mut routes = dynamic::routes(admin, names);
    let mut scopes = proto::ScopedRoutesConfigDump {
        dynamic_scoped_route_configs: dynamic::scopes(admin, names),
        ..proto::ScopedRoutesConfigDump::default()
    };
    for listener in &resources.listeners {
        statics::inline_routes(listener, names, last_updated, &mut routes, &mut scopes);
    }
    dynamic::inline_routes(admin, names, &mut routes, &mut scopes);
    let bootstrap = proto::BootstrapConfigDump { bootstrap: Some(bootstrap), last_updated };
    let mut sections = vec![any(&bootstrap), any(&clusters)];
    sections.extend(extensions::extensions(admin, names).iter().map(any));
    if include_eds {
        sections.push(any(&endpoints::endpoints(admin, names)));
    }
    let secrets = secrets::secrets(admin, names, resources.secrets);
    sections.extend([any(&listeners), any(&scopes), any(&routes), any(&secrets)]);
    sections
}

/// The elements of the list of this name, whichever section has it.
fn resources(sections: &[Any], name: &str, mask: Option<&str>) -> Result<Vec<Any>, Reply> {
    for section in sections {
        let all = match elements(section, name) {
            Ok(all) => all,
            Err(NotRepeated::Unknown) => continue,
            Err(NotRepeated::Single) => {
                let refusal = format!("{name} is not a repeated field. Use ?mask={name} to get only this field");
                return Err(Reply::bad_request(refusal));
            }
        };
        let Some(text) = mask else { return Ok(all) };
        let mask = FieldMask::parse(text);
        let trimmed: Option<Vec<Any>> = all.iter().map(|element| mask.trim(element)).collect();
        return trimmed.ok_or_else(|| Reply::bad_request(format!("FieldMask {text} could not be successfully used.")));
    }
    Err(Reply::text(format!("{name} not found in config dump")).status(StatusCode::NOT_FOUND))
}

/// What the mask leaves of the sections; those that it does not fit are left out.
fn masked(sections: Vec<Any>, mask: Option<&str>) -> Result<Vec<Any>, Reply> {
    let Some(text) = mask else { return Ok(sections) };
    let mask = FieldMask::parse(text);
    let configs: Vec<Any> = sections.iter().filter_map(|section| mask.trim(section)).collect();
    if configs.is_empty() {
        let refusal = format!("FieldMask {text} could not be successfully applied to any configs.");
        return Err(Reply::bad_request(refusal));
    }
    Ok(configs)
}

/// Whether the workers do not run yet.
fn is_initialising(admin: &Admin) -> bool {
    use proto::server_info::State;
    matches!(state(&admin.shared.state), State::PreInitializing | State::Initializing)
}

pub(super) fn any<T: Message + Name>(message: &T) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", T::full_name()), value: message.encode_to_vec() }
}

/// Envoy tells milliseconds.
pub(super) fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_millis() * 1_000_000).unwrap_or_default(),
    }
}
